"""Batches of one random size: the drawn size, the interpolation, and what does not move."""

from collections import Counter

import pytest
import torch

from common.engines.random_size import RandomSizeBatch
from common.errors import InputError


def batch(height=8, width=8):
    image = torch.arange(2.0 * 3 * height * width).reshape(2, 3, height, width)
    return {"image": image, "label": (image[:, :1] % 2).float()}


def test_all_sizes_are_drawn_and_image_and_label_agree():
    torch.manual_seed(0)
    prepare = RandomSizeBatch([4, 6, [8, 5]])
    drawn = Counter()
    for _ in range(120):
        image, label = prepare(batch())
        assert image.shape[:2] == (2, 3)
        assert label.shape[:2] == (2, 1)
        assert image.shape[2:] == label.shape[2:]
        drawn[tuple(image.shape[2:])] += 1
    assert set(drawn) == {(4, 4), (6, 6), (8, 5)}
    assert min(drawn.values()) > 20
    assert prepare.smallest == (4, 4)


def test_halving_by_hand():
    """Bilinear halving without smoothing takes the mean of each 2 x 2 block, for soft labels, too."""
    image = torch.tensor([[0.0, 1], [2, 5]]).repeat(2, 2)[None, None]
    halved, label = RandomSizeBatch([2])({"image": image, "label": image / 5})
    assert halved.flatten().tolist() == [2.0] * 4
    assert label.flatten().tolist() == pytest.approx([0.4] * 4)


def test_a_batch_of_that_size_is_not_touched():
    given = batch()
    image, label = RandomSizeBatch([8])(given)
    assert image is given["image"]
    assert label is given["label"]


def test_equal_seeds_draw_equal_sizes():
    def sizes():
        torch.manual_seed(3)
        prepare = RandomSizeBatch([2, 4, 6, 8])
        return [prepare(batch())[0].shape[2] for _ in range(20)]

    assert sizes() == sizes()


@pytest.mark.parametrize("sizes", [[], [0], [[4]], [[4, -1]]])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="sizes: expected edge lengths or pairs above 0, found"):
        RandomSizeBatch(sizes)
