"""Input errors reach the user bare, whatever was wrapped around them."""

import sys

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler
from monai.transforms import Compose, Lambda, Lambdad, SaveImaged
from torch import nn

from common.engines.input_errors import ReportInputErrors, find_input_error, report_plainly
from common.errors import InputError, raise_problems


class PromptLoader(DataLoader):
    """Ends its workers at once; left to the garbage collector, torch waits five seconds for each."""

    def __iter__(self):
        self.iterator = super().__iter__()
        return self.iterator

    def close(self):
        if self.num_workers > 0:
            self.iterator._shutdown_workers()


@pytest.fixture
def evaluator():
    """Builder of an evaluator for a single case."""
    loaders = []

    def build(transform, num_workers, handlers, postprocessing=None):
        dataset = Dataset([{"image": torch.ones(1, 4, 4)}], Compose([transform]))
        loaders.append(PromptLoader(dataset, num_workers))
        return SupervisedEvaluator(
            device="cpu",
            val_data_loader=loaders[-1],
            network=nn.Identity(),
            postprocessing=postprocessing,
            val_handlers=handlers,
        )

    yield build
    for loader in loaders:
        loader.close()


def refuse(_):
    raise_problems("cases", ["a.nii.gz: expected 1 channel, found 3", "b.nii.gz: empty"])


def fail(_):
    raise KeyError("no input error")


def handlers(order):
    both = {"report": ReportInputErrors, "stats": lambda: StatsHandler(name="tests", iteration_log=False)}
    return [both[name]() for name in order]


@pytest.mark.filterwarnings("ignore:the effective log level")
@pytest.mark.parametrize("order", [["report"], ["report", "stats"], ["stats", "report"]])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_message_is_bare(evaluator, num_workers, order):
    engine = evaluator(Lambdad("image", refuse), num_workers, handlers(order))
    with pytest.raises(InputError) as caught:
        engine.run()
    assert str(caught.value) == (
        "cases: 2 problem(s)\n  - a.nii.gz: expected 1 channel, found 3\n  - b.nii.gz: empty"
    )
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_raised_by_the_dataset_itself_is_bare(evaluator, num_workers):
    engine = evaluator(Lambda(lambda item: item), num_workers, handlers(["report"]))
    engine.data_loader.dataset.transform = refuse
    with pytest.raises(InputError, match=r"^cases: 2 problem"):
        engine.run()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_errors_pass_unchanged(evaluator, num_workers):
    engine = evaluator(Lambdad("image", fail), num_workers, handlers(["report"]))
    with pytest.raises(RuntimeError, match="applying transform|Caught RuntimeError"):
        engine.run()


def test_error_of_a_writer_is_bare(evaluator, tmp_path):
    class Writer:
        def __init__(self, **_):
            refuse(None)

    save = SaveImaged("image", output_dir=tmp_path, writer=Writer, print_log=False)
    engine = evaluator(Lambda(lambda item: item), 0, handlers(["report"]), postprocessing=save)
    with pytest.raises(InputError, match=r"^cases: 2 problem\(s\)\n.*\n.*b\.nii\.gz: empty$"):
        engine.run()


def test_interruption_passes_unchanged(evaluator):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(Lambdad("image", interrupt), 0, handlers(["report"])).run()


def test_search_follows_python_in_what_it_shows():
    shown, hidden = ValueError("while cleaning up"), ValueError("another story")
    shown.__context__ = hidden.__context__ = InputError("a.nii: bad")
    hidden.__suppress_context__ = True  # as after `raise ... from None`
    assert str(find_input_error(shown)) == "a.nii: bad"
    assert find_input_error(hidden) is None


def test_command_ends_with_the_message_alone(monkeypatch, capsys):
    others = []
    monkeypatch.setattr("sys.excepthook", lambda *error: others.append(error))
    report_plainly()
    report_plainly()  # every workflow of a process calls it
    wrapped = RuntimeError("Failed to evaluate ...")
    wrapped.__cause__ = InputError("a.nii: bad")
    sys.excepthook(RuntimeError, wrapped, None)
    assert capsys.readouterr().err == "error: a.nii: bad\n"
    assert others == []
    plain = RuntimeError("a fault of ours")
    sys.excepthook(RuntimeError, plain, None)
    assert others == [(RuntimeError, plain, None)]
