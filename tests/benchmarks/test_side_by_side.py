"""Forms that take turns, and the table of their times."""

import time

from benchmarks import side_by_side
from benchmarks.side_by_side import Timing, table, take_turns


def test_table_derived_by_hand():
    """Minima 2 and 0.5 make 4 times; medians 3 and 1."""
    timings = [
        Timing("as released", [3.0, 2.0, 9.0], 0.0, 1e-6, 2.04),
        Timing("ours", [1.0, 0.5, 2.0], 2e-6, 3e-6, 2.04),
    ]
    assert table(timings).splitlines() == [
        "| form | minimum, s | median, s | times faster | off the first | off float64 | logits to |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| as released | 2.000 | 3.000 | 1.00 | 0.0e+00 | 1.0e-06 | 2.0 |",
        "| ours | 0.500 | 1.000 | 4.00 | 2.0e-06 | 3.0e-06 | 2.0 |",
    ]


def test_forms_take_turns_and_each_has_its_own_times(monkeypatch):
    calls = []
    clock_s = iter([0, 1, 10, 15, 20, 22, 30, 36])
    monkeypatch.setattr(side_by_side.time, "process_time", lambda: next(clock_s))
    seconds = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2)
    assert calls == ["a", "b", "a", "b"]
    assert seconds == [[1, 2], [5, 6]]


def test_waiting_is_not_counted():
    """Time of the processor, which other programs do not change."""
    assert take_turns([lambda: time.sleep(0.05)], repeats=1)[0][0] < 0.04
