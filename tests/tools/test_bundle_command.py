"""The commands behind the make verbs, checked against those written in the documents."""

import shlex

import pytest

from tools.bundle_command import bundle_command, main, shell_line


@pytest.fixture
def toy(tmp_path):
    """A repository with one bundle, a shared overlay and the settings of a training run."""
    configs = "train inference metadata evaluate evaluate_extra multi_gpu_train ablate_small"
    for name in configs.split():
        file = tmp_path / "bundles" / "toy" / "configs" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    for file in ("common/configs/smoke.json", "bundles/toy/models/as_trained.json", "mine.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    return tmp_path


def merged(command):
    """Names of the config files in the order of merging."""
    word = command[command.index("--config_file") + 1]
    return [path.strip("'").split("/")[-1].removesuffix(".json") for path in word.strip("[]").split(",")]


@pytest.mark.parametrize(
    ("action", "overlays", "processes", "run_id", "files"),
    [
        ("train", [], 1, "training", "train"),
        ("train", ["ablate_small", "smoke"], 1, "training", "train ablate_small smoke"),
        ("train", ["ablate_small"], 2, "training", "train multi_gpu_train ablate_small"),
        ("evaluate", ["ablate_small"], 1, "evaluating", "train ablate_small evaluate"),
        ("evaluate", ["evaluate_extra", "smoke"], 1, "evaluating", "train smoke evaluate evaluate_extra"),
        ("evaluate", [], 2, "evaluating", "train multi_gpu_train evaluate"),
        ("infer", ["as_trained"], 1, "inferring", "inference as_trained"),
        ("infer", ["mine.json"], 1, "inferring", "inference mine"),
    ],
)
def test_files_are_merged_in_this_order(toy, action, overlays, processes, run_id, files):
    command = bundle_command(action, "toy", overlays, processes, toy)
    assert merged(command) == files.split()
    assert command[command.index("monai.bundle") + 2] == run_id
    assert command[-2:] == ["--bundle_root", "bundles/toy"]


def test_single_process_command_word_by_word(toy):
    assert shell_line(["python", *bundle_command("train", "toy", ["smoke"], 1, toy)]) == (
        "python -m monai.bundle run training --config_file "
        "\"['bundles/toy/configs/train.json','common/configs/smoke.json']\" --bundle_root bundles/toy"
    )


def test_several_processes_are_launched_by_torch(toy):
    words = bundle_command("train", "toy", [], 3, toy)
    assert words[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3", "-m"]


def test_unknown_names_are_answered_with_those_that_exist(toy):
    with pytest.raises(ValueError, match="unknown bundle 'other', expected one of: toy"):
        bundle_command("train", "other", [], 1, toy)
    with pytest.raises(
        ValueError, match="unknown overlay ablate_smal for toy, expected: ablate_small, as_trained"
    ):
        bundle_command("train", "toy", ["ablate_smal"], 1, toy)
    with pytest.raises(ValueError, match="unknown overlay gone.json"):
        bundle_command("train", "toy", ["gone.json"], 1, toy)


def test_complete_files_are_no_overlays(toy):
    with pytest.raises(ValueError, match="unknown overlay inference"):
        bundle_command("train", "toy", ["inference"], 1, toy)


def test_inference_refuses_several_processes(toy):
    with pytest.raises(ValueError, match="one process"):
        bundle_command("infer", "toy", [], 2, toy)


@pytest.mark.parametrize("word", ["a b", "['x','y']", "$HOME", "it's", 'say "x"', "a'$b", "", "!'"])
def test_printed_line_means_the_same_words_to_a_shell(word):
    assert shlex.split(shell_line(["python", word])) == ["python", word]


def test_unknown_overlay_ends_with_a_message_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "kcbac_mmwhs", "ablate_nothing", "--", "--dataset_dir", "x"])
    assert stop.value.code == 2
    assert "unknown overlay ablate_nothing" in capsys.readouterr().err
