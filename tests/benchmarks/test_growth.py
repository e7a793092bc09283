"""Curves: slopes by hand, tables and pictures of tiny ones."""

import fire
import pytest

from benchmarks import growth
from benchmarks.form_table import MIB
from benchmarks.growth import CURVES, Curve, Point, curve_table, draw, slopes

# Time grows with the square, memory not at all.
POINTS = [Point(2, [1.0, 1.0, 5.0], 3 * MIB), Point(4, [4.0, 4.0, 4.5], 3 * MIB), Point(8, [32.0], 0)]
TINY = {"length": (8, 16), "classes": (2, 3), "patch": (16, 32), "batch": (1, 2), "cases": (5, 6)}


def test_slopes_derived_by_hand():
    """From 2 to 4 time is 4 times as long: 2; from 4 to 8 it is 8 times: 3. Nothing has no logarithm."""
    assert slopes(POINTS, lambda point: point.seconds[0]) == ["-", "2.00", "3.00"]
    assert slopes(POINTS, lambda point: point.peak) == ["-", "0.00", "-"]


def test_table_derived_by_hand():
    lines = curve_table(Curve("slices", {"a": POINTS[:2]})).splitlines()
    assert lines[0] == "| what | slices | median, s | largest, s | slope | peak, MiB | slope |"
    assert lines[2:] == [
        "| a | 2 | 1.0000 | 5.0000 | - | 3.0 | - |",
        "| a | 4 | 4.0000 | 4.5000 | 2.00 | 3.0 | 0.00 |",
    ]


def test_picture_is_written_where_it_is_wanted(tmp_path):
    draw(Curve("slices", {"a": POINTS[:2]}), tmp_path / "length.svg")
    assert "<svg" in (tmp_path / "length.svg").read_text()


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_has_a_point_for_each_value(name, monkeypatch):
    monkeypatch.setattr(growth, "_PLANE", (32, 32))
    measure, _ = CURVES[name]
    curve = measure(TINY[name], 1)
    for title, points in curve.ways.items():
        expected = TINY[name][1:] if title == "training step" else TINY[name]
        assert tuple(point.value for point in points) == expected
        assert all(len(point.seconds) == 1 for point in points)
    assert len(curve.ways) == {"length": 2, "classes": 2, "patch": 1, "batch": 2, "cases": 4}[name]


def test_command_line_prints_tables_and_writes_pictures(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(growth, "CURVES", {"a": (lambda values, _: Curve("slices", {"x": POINTS[:2]}), (1,))})
    arguments = ["--curves", "a", "--repeats", "1", "--folder", str(tmp_path / "new")]
    fire.Fire(growth.growth, arguments)
    printed = capsys.readouterr().out
    assert "a, 1 repeats" in printed
    assert "| x | 4 |" in printed
    assert (tmp_path / "new" / "a.svg").is_file()
