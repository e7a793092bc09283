"""Finished blocks: the largest class, averages, thresholds, and the file of probabilities."""

import errno
import os

import numpy as np
import pytest
import torch

from common.engines.label_blocks import BlockReduction, ProbabilityFile, activate, label_dtype, largest_class


@pytest.mark.parametrize("shape", [(14, 7, 9, 5), (3, 8, 8), (300, 4, 4)])
def test_largest_class_is_that_of_argmax(shape):
    # Few different values, so that there are many ties, which go to the first class.
    values = torch.randint(0, 4, shape).float()
    labels = largest_class(values)
    assert torch.equal(labels.long(), torch.from_numpy(values.numpy().argmax(0))[None])
    assert labels.dtype == label_dtype(shape[0]) == (torch.int16 if shape[0] == 300 else torch.uint8)


def test_values_that_are_no_numbers_are_background():
    values = torch.tensor([[0.0, 0.0], [1.0, torch.nan]])[:, None]
    assert largest_class(values).tolist() == [[[1, 0]]]


def test_averages_and_thresholds_by_hand():
    """3 / 2 = 1.5 and 1 / 4 = 0.25; the third voxel was in no window."""
    reduction = BlockReduction("sigmoid", threshold=0.25)
    weights = torch.tensor([[2.0, 4.0, 0.0]])
    averages = reduction.averages(torch.tensor([[[3.0, 1.0, 0.0]]]), weights)
    assert averages.tolist() == [[[1.5, 0.25, 0.0]]]
    assert reduction.labels(averages, weights > 0).tolist() == [[[1, 1, 0]]]
    assert BlockReduction("sigmoid", 0.3).labels(averages, weights > 0).tolist() == [[[1, 0, 0]]]
    assert BlockReduction(None, -1.0).labels(averages, weights > 0).tolist() == [[[1, 1, 0]]]
    assert BlockReduction(None, -1.0).labels(averages, None).tolist() == [[[1, 1, 1]]]


def test_probabilities_by_hand():
    """Softmax of 0 and ln 3 is 1/4 and 3/4, sigmoid of ln 3 is 3/4. Background where nothing was seen."""
    averages = torch.tensor([[0.0, 0.0], [np.log(3), 0.0]])[:, None]
    seen = torch.tensor([[True, False]])
    found = {
        case: BlockReduction(*case).probabilities(averages, seen)[:, 0].tolist()
        for case in ((None, None), (None, 0.0), ("softmax", None))
    }
    assert found[None, None] == [[0.25, 1.0], [0.75, 0.0]]
    assert found[None, 0.0] == [[0.5, 0.0], [0.75, 0.0]]
    assert found["softmax", None] == [[0.0, 1.0], [float(np.float16(np.log(3))), 0.0]]


def test_activations():
    logits = torch.randn(2, 3, 4)
    assert activate(logits, None, 1) is logits
    torch.testing.assert_close(activate(logits, "softmax", 1).sum(1), torch.ones(2, 4))
    torch.testing.assert_close(activate(logits, "sigmoid", 1), 1 / (1 + (-logits).exp()))


def test_file_filled_block_by_block(tmp_path):
    values = torch.rand(2, 5, 6).half()
    file = ProbabilityFile(tmp_path / "a.npy", (5, 6))
    for rows in (slice(3, 5), slice(0, 3)):
        file.write((rows, slice(None)), values[:, rows])
    assert np.array_equal(np.load(tmp_path / "a.npy"), values.numpy())


def test_room_for_the_whole_array_is_claimed_first(tmp_path, monkeypatch):
    claimed = []
    monkeypatch.setattr(os, "posix_fallocate", lambda _, start, length: claimed.append((start, length)))
    ProbabilityFile(tmp_path / "a.npy", (50, 60)).write((slice(0, 1), slice(0, 60)), torch.zeros(2, 1, 60))
    assert claimed == [(0, (tmp_path / "a.npy").stat().st_size)]
    assert claimed[0][1] > 2 * 50 * 60 * 2

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        ProbabilityFile(tmp_path / "b.npy", (5,)).write((slice(0, 1),), torch.zeros(2, 1))
