"""Commands of a README are read as a shell reads them, and their faults are seen without running them."""

import pytest

from tests.helpers.workflows import REPOSITORY
from tools.verify_commands import check_command, parse_monai, readme_commands
from tools.verify_configs import Bundle
from tools.verify_rows import CheckError
from tools.verify_runs import Trial, find_image, trial_command

BUNDLES = sorted(folder.parent.name for folder in REPOSITORY.glob("bundles/*/configs"))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_command_in_our_readmes_is_sound(bundle):
    folder = REPOSITORY / "bundles" / bundle
    commands = readme_commands((folder / "docs" / "README.md").read_text())
    assert [check_command(command, folder) for command in commands]


def test_commands_are_read_as_a_shell_reads_them():
    text = (
        "```bash\n$ python -m monai.bundle run training \\\n"
        "  --config_file \"['a.json',\n'b.json']\" # note\n"
        "# don't\nmake test   # it's all\n```\n```json\n{}\n```\n"
    )
    commands = readme_commands(text)
    assert len(commands) == 2
    call = parse_monai(commands[0])
    assert (call.verb, call.positional, call.config_files) == ("run", ("training",), ["a.json", "b.json"])
    assert parse_monai("python -m monai.bundle run --train#trainer#max_epochs 1 --x=2 3").options == {
        "train#trainer#max_epochs": "1",
        "x": "2 3",
    }
    launched = parse_monai("torchrun --nproc_per_node=2 -m monai.bundle run")
    assert launched.launcher == ("torchrun", "--nproc_per_node=2")
    assert parse_monai("pip install monai.bundle") is None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python -m monai.bundle fly", "has no 'fly'"),
        ("python -m monai.bundle run --config_file configs/inference.json --epoch 1", "--epoch: the config"),
        ("python -m monai.bundle run flying --config_file configs/inference.json", "is called 'flying'"),
        ("make fly BUNDLE=kcbac_mmwhs", "make has no verb 'fly'"),
        ('make train BUNDLE=kcbac_mmwhs WITH="no_such"', "unknown overlay no_such"),
        ('make infer BUNDLE=kcbac_mmwhs ARGS="--datset_dir x"', "--datset_dir: the configuration knows"),
        ("python -m no_such_module.x", "module no_such_module.x does not exist"),
    ],
)
def test_faults_in_commands_are_seen(command, message):
    with pytest.raises(CheckError, match=message):
        check_command(command, REPOSITORY / "bundles" / "kcbac_mmwhs")


def test_trials_replace_data_and_places(tmp_path):
    folder = REPOSITORY / "bundles" / "kcbac_mmwhs"
    command = (
        "python -m monai.bundle run inferring --dataset_dir /data/scan.nii.gz --config_file"
        " \"['bundles/kcbac_mmwhs/configs/inference.json','bundles/kcbac_mmwhs/models/as_trained.json']\""
    )
    small = folder / "configs" / "preset_laptop.json"
    bundle = Bundle(folder, shrink=(small,), dataset_dir=tmp_path, image=tmp_path / "a.nii.gz")
    words, where = trial_command(parse_monai(command), bundle, Trial(tmp_path / "out"))
    assert where == REPOSITORY
    options = dict(zip(words[5::2], words[6::2]))
    inference = "bundles/kcbac_mmwhs/configs/inference.json"
    as_trained = str(tmp_path / "out" / "models" / "as_trained.json")
    assert options["--config_file"] == str([inference, str(small), as_trained])
    assert options["--dataset_dir"] == str(tmp_path / "a.nii.gz")
    assert options["--output_dir"] == str(tmp_path / "out" / "eval")
    assert options["--model_dir"] == str(tmp_path / "out" / "models")


def test_images_are_told_from_labels(tmp_path):
    for name in ("c/segmentation.nii.gz", "c/imaging.nii.gz", "a/masks/1.png", "b/2.png", "d/DICOM/1.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_image(tmp_path, "/data/scan.nii.gz") == tmp_path / "c" / "imaging.nii.gz"
    assert find_image(tmp_path, "/data/image.png") == tmp_path / "b" / "2.png"
    assert find_image(tmp_path, "/data/folder") == tmp_path / "d" / "DICOM"
    with pytest.raises(CheckError, match="found none"):
        find_image(tmp_path, "x.mha")
