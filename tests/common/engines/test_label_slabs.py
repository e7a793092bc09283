"""Windows, blocks and the sums in them: places by hand, when blocks are done by search, memory by count."""

import numpy as np
import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from common.engines.label_slabs import Part, RollingSums, WindowGrid


@pytest.mark.parametrize("overlap", [0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.99])
@pytest.mark.parametrize("roi", [1, 2, 5, 8, 13])
def test_windows_lie_where_those_of_monai_lie(roi, overlap):
    for size in range(roi, roi + 12):
        grid = WindowGrid((size, size + 1), (roi, roi), (overlap, overlap))
        interval = _get_scan_interval((size, size + 1), (roi, roi), 2, (overlap, overlap))
        expected = dense_patch_slices((size, size + 1), (roi, roi), interval)
        assert len(grid) == len(expected)
        starts = [tuple(int(edges.start) for edges in place) for place in expected]
        assert sorted(tuple(edges.start for edges in grid.window(index)) for index in grid) == sorted(starts)


def test_parts_by_hand():
    # Steps of 2 and 3. The last window ends with the image. Behind the last start, ends cut; with an overlap
    # below a half, those before it as well.
    grid = WindowGrid((11, 11, 4), (4, 4, 4), (0.5, 0.25, 0.5))
    assert grid.starts == [[0, 2, 4, 6, 7], [0, 3, 6, 7], [0]]
    starts_stops = [[(part.start, part.stop) for part in parts] for parts in grid.parts]
    assert starts_stops[0] == [(0, 2), (2, 4), (4, 6), (6, 7), (7, 8), (8, 10), (10, 11)]
    assert [part.last_window for part in grid.parts[0]] == [0, 1, 2, 3, 4, 4, 4]
    assert starts_stops[1] == [(0, 3), (3, 4), (4, 6), (6, 7), (7, 10), (10, 11)]
    assert [part.last_window for part in grid.parts[1]] == [0, 1, 1, 2, 3, 3]
    assert grid.parts[2] == [Part(0, 4, 0)]


def test_padding_by_hand():
    grid = WindowGrid((5, 9, 8), (8, 8, 8), (0, 0, 0))
    assert grid.padding == [(1, 2), (0, 0), (0, 0)]
    assert grid.starts == [[0], [0, 1], [0]]


def test_order_of_axes():
    """The long axis is the slow one, unless its last windows share too much; equal axes as in MONAI."""
    assert WindowGrid((20, 20, 20), (8, 8, 8), (0.5,) * 3).order == (0, 1, 2)
    assert WindowGrid((20, 20), (8, 8), (0.5,) * 2).order == (0, 1)
    assert WindowGrid((512, 512, 1000), (128,) * 3, (0.5,) * 3).order == (2, 0, 1)
    # Steps of 96: the last windows of 1000 start at 864 and 872 and share 120; those of 512 share 32.
    assert WindowGrid((512, 512, 1000), (128,) * 3, (0.25,) * 3).order == (0, 2, 1)
    assert WindowGrid((512, 512, 1000), (128,) * 3, (0.25,) * 3, axis=-1).order[0] == 2


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
def test_blocks_are_finished_with_the_last_window_that_reaches_them(overlap, axis):
    size = (13, 9, 17)
    grid = WindowGrid(size, (5, 5, 5), (overlap,) * 3, axis)
    last, finished = np.full(size, -1), np.full(size, -1)
    for number, index in enumerate(grid):
        last[grid.window(index)] = number
        for key in grid.finished(index):
            assert (finished[grid.block(key)] == -1).all()
            finished[grid.block(key)] = number
    # Not before the last window, and no later than with the last of its row.
    assert (finished >= last).all()
    row = len(grid.starts[grid.order[-1]])
    assert (finished // row == last // row).all()


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("weights", [None, torch.rand(5, 4)])
def test_sums_are_those_of_a_whole_volume(weights, with_weights):
    grid = WindowGrid((13, 17), (5, 4), (0.4, 0.7))
    sums = RollingSums(grid, weights, with_weights, torch.float32, torch.device("cpu"))
    given = torch.ones(5, 4) if weights is None else weights
    expected, found = torch.zeros(3, 13, 17), torch.full((3, 13, 17), torch.nan)
    for index in grid:
        values = torch.rand(2, 5, 4)
        expected[(slice(None), *grid.window(index))] += torch.cat([values * given, given[None]])
        sums.add(index, values)
        for place, total, weight in sums.finish(index, 2):
            found[(slice(0, 2), *place)] = total
            assert (weight is None) != with_weights
            if with_weights:
                found[(2, *place)] = weight
    kept = 3 if with_weights else 2
    torch.testing.assert_close(found[:kept], expected[:kept])


def test_blocks_without_windows_are_zero():
    grid = WindowGrid((8, 4), (4, 4), (0, 0))
    sums = RollingSums(grid, None, True, torch.float32, torch.device("cpu"))
    ((place, total, weight),) = sums.finish((0, 0), 3)
    assert place == (slice(0, 4), slice(0, 4))
    assert total.shape == (3, 4, 4)
    assert not total.any()
    assert not weight.any()


@pytest.mark.parametrize(("length", "overlap"), [(1000, 0.5), (4008, 0.5), (1000, 0.25)])
def test_memory_of_a_long_scan(length, overlap):
    """14 classes on 512 x 512 x 1000 are 14.7 GB. By count, without the memory itself."""
    grid = WindowGrid((512, 512, length), (128,) * 3, (overlap,) * 3)
    device = torch.device("meta")
    sums = RollingSums(grid, None, False, torch.float32, device)
    values = torch.empty(14, 128, 128, 128, device=device)
    most = 0
    for index in grid:
        if index[grid.order[-1]] == 0:
            # The other windows of a row reach into the same blocks.
            sums.add(index, values)
            most = max(most, sums.nbytes())
        for _ in sums.finish(index, 14):
            pass
    assert 1e9 < most < 1.7e9
    assert sums.nbytes() < 1e9
