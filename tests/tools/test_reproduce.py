"""Tables of the papers are run row by row: what is left is done, what is done is kept, failures are told."""

import fcntl
import re

import pytest

from tests.helpers.toy_table import FakeRuns, ToyTable, figures, results, write_state
from tools import reproduce_page
from tools.reproduce import main
from tools.reproduce_processes import Job, Processes, Stopped, log_tail, logged_share


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce_page, "draw", lambda *_: b"a plot")
    return ToyTable(tmp_path)


def test_each_row_and_seed_is_trained_then_evaluated(toy):
    fake = FakeRuns()
    assert toy("--seeds 0 1", fake) == 0
    both = [("training", None), ("evaluating", None)]
    rows = [(row, f"seed_{seed}") for row in ("full", "small") for seed in (0, 1)]
    assert fake.jobs == [(kind, *run, resume, None) for run in rows for kind, resume in both]
    assert [run["state"] for run in results(toy)["runs"]] == ["finished"] * 4


def test_finished_runs_are_kept(toy):
    toy("--rows full", FakeRuns())
    again = FakeRuns(dice=0.1)
    assert toy("", again) == 0
    assert {row for _, row, *_ in again.jobs} == {"small"}
    assert figures(toy, "full")["Dice LV"]["mean"] == 0.5


def test_a_run_cut_off_is_resumed(toy):
    assert toy("--rows full small", FakeRuns(cut_off=["full"])) == 130
    assert results(toy)["runs"][0]["state"] == "begun, not finished"
    again = FakeRuns()
    assert toy("--rows full", again) == 0
    assert [job[3] for job in again.jobs] == ["True", None]


def test_a_training_cut_off_after_its_last_epoch_is_only_evaluated(toy):
    toy("--rows full", FakeRuns(cut_off=["full"]))
    write_state(toy.out / "full/seed_0/training/checkpoints/state.pt", 9)
    again = FakeRuns()
    assert toy("--rows full", again) == 0
    assert [job[0] for job in again.jobs] == ["evaluating"]


def test_a_failing_row_is_told_and_the_others_go_on(toy, capsys):
    assert toy("", FakeRuns(fails=["full"])) == 1
    first, second = results(toy)["runs"]
    assert (first["state"], second["state"]) == ("failed", "finished")
    assert first["problems"][0]["last_lines"] == ["epoch", "no image in folder"]
    assert "no image in folder" in (toy.pages / "table.html").read_text()
    assert "no image in folder" in capsys.readouterr().err
    again = FakeRuns()
    assert toy("", again) == 0
    assert [job[:2] for job in again.jobs] == [("training", "full"), ("evaluating", "full")]


def test_other_settings_are_refused_until_redone(toy, capsys):
    toy("--rows full", FakeRuns())
    with pytest.raises(SystemExit) as stop:
        toy("--rows full --with preset_tiny --set amp=True", FakeRuns())
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "overlays train -> train, preset_tiny; amp: None -> True" in message
    assert "--redo" in message
    again = FakeRuns(dice=0.2)
    assert toy("--rows full --with preset_tiny --set amp=True --redo", again) == 0
    assert len(again.jobs) == 2
    toy("--rows full --with preset_tiny --set amp=True num_workers=3 --redo", again)
    assert len(again.jobs) == 2  # the number of loader processes changes nothing that is learned


def test_a_changed_config_is_a_changed_setting(toy, capsys):
    toy("--rows full", FakeRuns())
    file = toy.bundle / "configs" / "train.json"
    file.write_text(file.read_text().replace("9", "8"))
    with pytest.raises(SystemExit):
        toy("--rows full", FakeRuns())
    assert "bundles/toy/configs/train.json has changed" in capsys.readouterr().err


def test_other_evaluation_settings_need_no_new_training(toy):
    toy("--rows full", FakeRuns())
    (toy.bundle / "configs" / "evaluate_extra.json").write_text('{"pictures": 0}')
    again = FakeRuns()
    assert toy("--rows full", again) == 0
    assert [job[0] for job in again.jobs] == ["evaluating"]


def test_each_gpu_has_one_run_at_a_time(toy):
    fake = FakeRuns()
    assert toy("--seeds 0 1 --gpus 2 3", fake) == 0
    assert len(fake.jobs) == 8
    assert {job[4] for job in fake.jobs} <= {"2", "3"}


def test_a_folder_that_another_process_holds_is_left_alone(toy):
    folder = toy.out / "full" / "seed_0"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fake = FakeRuns()
        assert toy("", fake) == 1
    assert {job[1] for job in fake.jobs} == {"small"}


def test_dry_run_prints_commands_and_starts_nothing(toy, capsys):
    assert toy("--rows small --with preset_tiny --set a=1 --dry_run") == 0
    training, evaluation = capsys.readouterr().out.splitlines()
    order = ["train", "preset_tiny", "ablate_small"]
    assert [name for name in re.findall(r"configs/(\w+)\.json", training)] == order
    assert re.findall(r"configs/(\w+)\.json", evaluation) == [*order, "evaluate", "evaluate_extra"]
    assert "--sets=['a']" in evaluation
    assert training.endswith("--a=1")
    assert not toy.out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows ful", "--rows: expected some of full, small"),
        ("--rows other", "other cannot be formed here: another method"),
        ("--set a", "expected settings as key=value"),
        ("--set seed=3", "seed cannot be set"),
        ("--seeds 1 1", "expected each once"),
        ("--with nothing", "unknown overlay nothing"),
        ("--table 7", "expected a table of toy (1), found '7'"),
        ("--dataset_dir nowhere", "expected a folder with the data"),
    ],
)
def test_what_cannot_be_done_is_refused(toy, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        toy(words, FakeRuns())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_process_logs_its_command_and_its_output(tmp_path):
    code = Processes(tmp_path)(Job(["-c", "print('hello'); raise SystemExit(3)"], tmp_path / "log"), print)
    assert code == 3
    assert (tmp_path / "log").read_text().splitlines()[1] == "hello"


def test_processes_end_when_they_are_stopped(tmp_path):
    processes = Processes(tmp_path)
    with pytest.raises(Stopped):
        processes(Job(["-c", "import time; time.sleep(60)"], tmp_path / "log"), processes.stop)


def test_logs_tell_how_far_a_training_is(tmp_path):
    log = tmp_path / "log"
    assert logged_share(log) == 0
    log.write_text("Epoch [2/9]: [1/2]\r 50%|##\rEpoch [4/9]: [2/2] 100%|####\nall is well\n")
    assert logged_share(log) == pytest.approx(3 / 9)
    assert log_tail(log) == ["Epoch [2/9]: [1/2]", "all is well"]


def test_tables_are_listed(toy, capsys):
    assert main(["--bundle_dir", str(toy.bundle)]) == 0
    assert "rows: full small" in capsys.readouterr().out
