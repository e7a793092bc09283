"""Times, spread and memory of forms, by hand."""

import pytest
import torch
from torch import nn

from benchmarks.form_table import form_table, peak_bytes, spread_cells
from benchmarks.side_by_side import Form


def test_spread_derived_by_hand():
    """Minima 2 and 0.5 make 4 times; medians 3 and 1, largest 9 and 2."""
    assert spread_cells([3.0, 2.0, 9.0], [3.0, 2.0, 9.0]) == ["2.000", "3.000", "9.000", "1.00"]
    assert spread_cells([1.0, 0.5, 2.0], [3.0, 2.0, 9.0]) == ["0.500", "1.000", "2.000", "4.00"]


def test_peak_counts_what_a_run_holds_and_frees_before_the_end():
    held = torch.ones(20_000_000, dtype=torch.uint8)

    def run():
        for _ in range(2):
            torch.ones(50_000_000, dtype=torch.uint8)

    assert peak_bytes(run) == pytest.approx(50e6, abs=10e6)
    assert peak_bytes(run) == pytest.approx(50e6, abs=10e6)
    assert peak_bytes(lambda: None) < 5e6
    assert len(held) == 20_000_000


def test_a_form_that_is_off_shows():
    forms = []
    for title, shift in (("first", 0.0), ("off", 0.25)):
        layer = nn.Conv2d(1, 2, 1)
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([0.125, shift]))
        forms.append(Form(title, layer, torch.contiguous_format))
    lines = form_table(forms, torch.randn(1, 1, 4, 5), repeats=1).splitlines()
    assert lines[0] == (
        "| form | minimum, s | median, s | largest, s | times faster | off the first | other labels"
        " | logits to | peak, MiB |"
    )
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [row[5:7] for row in rows] == [["0.0e+00", "0 of 20"], ["2.5e-01", "20 of 20"]]
