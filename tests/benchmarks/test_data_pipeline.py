"""Ways to preprocess and to read slices: the same samples, and tables that would show others."""

import fire
import pytest
import torch

from benchmarks import data_pipeline
from benchmarks.data_pipeline import cases_and_transforms, epoch_of, epoch_table, slice_table
from common.data.phantoms import write_mmwhs

SIZE = (36, 36, 34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hearts")
    write_mmwhs(folder / "data", num_cases=2, num_test=0, size=SIZE)
    return folder


def cells(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_ways_draw_the_same_samples(folder, tmp_path):
    cases, transforms = cases_and_transforms(folder / "data")
    rows = cells(epoch_table(cases, transforms, tmp_path, epochs=2))
    assert [(row[0], row[-1]) for row in rows] == [
        ("everything anew", "yes"),
        ("kept in memory", "yes"),
        ("kept on disk", "yes"),
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_epochs_differ_and_repeat(folder):
    cases, transforms = cases_and_transforms(folder / "data")
    dataset = data_pipeline.Dataset(cases, transforms)
    first, second, again = (epoch_of(dataset, transforms, epoch) for epoch in (0, 1, 0))
    assert first.shape == (2, 1, 32, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_other_samples_show(folder, tmp_path, monkeypatch):
    cases, transforms = cases_and_transforms(folder / "data")

    def reversed_cases(cases, *_, **__):
        return data_pipeline.Dataset(cases[::-1], transforms)

    monkeypatch.setattr(data_pipeline, "CacheDataset", reversed_cases)
    assert [row[-1] for row in cells(epoch_table(cases, transforms, tmp_path, epochs=2))] == [
        "yes",
        "no",
        "yes",
    ]


def test_slices_are_those_of_the_volumes(folder):
    files = [str(path) for path in sorted(folder.rglob("*_image.nii.gz"))]
    rows = cells(slice_table(files, repeats=1))
    assert [(row[0], row[-1]) for row in rows] == [("volume", "yes"), ("slice", "yes")]


def test_command_line_prints_both_tables(capsys):
    fire.Fire(data_pipeline.data_pipeline, ["--cases", "1", "--epochs", "2", "--size", "34,34,34"])
    printed = capsys.readouterr().out
    assert "1 volumes of 34 x 34 x 34 voxels" in printed
    assert "| everything anew |" in printed
    assert "| slice |" in printed
