r"""Runs the rows of a published table and writes a page with the paper's numbers and ours.

    python -m tools.reproduce --bundle_dir bundles/kcbac_mmwhs                       # lists tables and rows
    python -m tools.reproduce --bundle_dir bundles/kcbac_mmwhs --table 3 --dataset_dir /data/mmwhs
    python -m tools.reproduce --bundle_dir bundles/kcbac_mmwhs --table 3 --dataset_dir /data/mmwhs \
      --rows kcbac kcbac_ds --seeds 0 1 2 --with preset_gpu --set max_epochs=100 --gpus 0 1

Each row and seed is trained, then evaluated, in a folder of its own. What is finished is skipped, what was
cut off goes on, a row that fails does not stop the others: give the same command again to go on. After each
run the pages in ``<output_dir>/table_<name>`` are written anew: ``table.html``, ``table.md``,
``results.json``.

``--with`` names overlays as everywhere, merged after the table's data set (a data set among them takes its
place) and before the row's own; ``--set`` gives single settings, which have the last word. Both end up in the
box at the top of the page.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from tools.bundle_command import REPOSITORY, shell_line
from tools.reproduce_jobs import Progress, Start, work_off
from tools.reproduce_page import write_pages
from tools.reproduce_processes import Processes
from tools.reproduce_results import FINISHED
from tools.reproduce_runs import Plan, refuse_other_settings
from tools.reproduce_tables import chosen_rows, find_table, read_table, table_files

INTERRUPTED = 130
RESERVED = ("bundle_root", "dataset_dir", "output_dir", "model_dir", "split_file", "seed", "fold", "resume")


def main(arguments: Sequence[str] | None = None, start: Start | None = None) -> int:
    """Run what is left of a table.

    Args:
        arguments: of the command line.
        start: runs jobs, by default as processes.

    Returns:
        0 if all runs are finished, 1 if one failed, 130 if interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.table is None:
            _print_tables(options.bundle_dir)
            return 0
        plan = _plan(options)
        if options.dry_run:
            _print_commands(plan)
            return 0
        if not options.redo:
            refuse_other_settings(plan.runs)
        return _run(plan, options, start)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run the rows of a published table; see the page it writes.")
    add = parser.add_argument
    add("--bundle_dir", type=Path, required=True, help="such as bundles/kcbac_mmwhs")
    add("--table", help="name of the table; without it all tables and rows are listed")
    add("--dataset_dir", type=Path, help="folder with the data")
    add("--output_dir", type=Path, help="default: runs/<bundle>/<data set>, shared by tables of one data set")
    add("--rows", nargs="+", help="default: all that can be formed")
    add("--seeds", nargs="+", type=int, help="default: those of the table, most often 0")
    add("--folds", nargs="+", type=int, help="of a cross-validation; default: those of the table")
    add("--with", nargs="+", default=[], dest="overlays", help="overlays such as preset_gpu")
    add("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE", help="further settings")
    add("--gpus", nargs="+", default=[], help="one run at a time on each, such as 0 1")
    add("--redo", action="store_true", help="delete runs made with other settings and start them anew")
    add("--dry_run", action="store_true", help="print the commands and stop")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    bundle_dir = options.bundle_dir.resolve()
    if options.dataset_dir is None or not options.dataset_dir.is_dir():
        raise InputError(f"--dataset_dir: expected a folder with the data, found {options.dataset_dir}")
    table = find_table(bundle_dir, options.table)
    output_dir = options.output_dir or REPOSITORY / "runs" / table.bundle / table.data
    for name in ("seeds", "folds", "rows"):
        given = getattr(options, name) or []
        if len(set(given)) < len(given):
            raise InputError(f"--{name}: expected each once, found {given}")
    return Plan(
        table=table,
        rows=chosen_rows(table, options.rows),
        dataset_dir=options.dataset_dir.resolve(),
        output_dir=output_dir.resolve(),
        seeds=options.seeds or table.seeds,
        folds=options.folds or table.folds,
        overlays=options.overlays,
        overrides=_overrides(options.overrides),
        repository=bundle_dir.parents[1],
    )


def _overrides(words: Sequence[str]) -> dict[str, str]:
    for word in words:
        if not re.match(r"[\w:]+=", word):
            raise InputError(f"--set: expected settings as key=value, found {word!r}")
    found = dict(word.split("=", 1) for word in words)
    reserved = {
        "dataset_dir",
        "output_dir",
        "model_dir",
        "bundle_root",
        "seed",
        "fold",
        "resume",
        "split_file",
    }
    if own := sorted(reserved & set(found)):
        raise InputError(
            f"--set: {', '.join(own)} cannot be set here; see --help for seeds, folds and folders"
        )
    return found


def _run(plan: Plan, options: argparse.Namespace, start: Start | None) -> int:
    processes = Processes(plan.repository)
    pages = plan.output_dir / f"table_{plan.table.table}"
    if options.redo:
        _remove_others(plan)
    left = [run for run in plan.runs if not run.is_finished()]
    print(f"table {plan.table.table}: {len(plan.runs)} runs, {len(plan.runs) - len(left)} of them finished")
    write_pages(plan, pages)
    progress = Progress(len(plan.runs), len(plan.runs) - len(left))
    signals = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # nohup
    handlers = {number: signal.signal(number, _interrupt) for number in signals}
    try:
        work_off(
            left, start or processes, progress, options.gpus, lambda: write_pages(plan, pages), processes.stop
        )
    except KeyboardInterrupt:
        write_pages(plan, pages)
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    finally:
        progress.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    found = write_pages(plan, pages)
    print(f"Page: {pages / 'table.html'}")
    return _exit_code(found)


def _exit_code(found: dict[str, Any]) -> int:
    bad = [run for run in found["runs"] if run["state"] != FINISHED or run["problems"]]
    for run in bad:
        print(f"{run['folder']}: {run['state']}", file=sys.stderr)
        for problem in run["problems"]:
            lines = problem.get("last_lines") or [f"no number for {', '.join(problem['missing'])}"]
            print(*(f"    {line}" for line in [*lines, f"see {problem['log']}"]), sep="\n", file=sys.stderr)
    return 1 if bad else 0


def _remove_others(plan: Plan) -> None:
    for run in plan.runs:
        try:
            refuse_other_settings([run])
        except InputError:
            run.remove()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _print_tables(bundle_dir: Path) -> None:
    files = table_files(bundle_dir.resolve())
    if not files:
        raise InputError(f"--bundle_dir: expected a bundle with tables/*.json, found none in {bundle_dir}")
    for name, file in files.items():
        table = read_table(file)
        print(f"--table {name:10} {table.title} ({table.source})")
        print(
            f"    rows: {' '.join(row.id for row in table.rows if row.is_runnable) or 'none can be formed'}"
        )


def _print_commands(plan: Plan) -> None:
    for run in plan.runs:
        for command in (run.training_command(), *map(run.evaluation_command, plan.table.evaluations)):
            print(shell_line(["python", *command]))


if __name__ == "__main__":
    sys.exit(main())
