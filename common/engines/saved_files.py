"""Tells the user where the results are."""

from __future__ import annotations

from collections.abc import Mapping

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines import Evaluator
from monai.utils import MetaKeys, string_list_all_gather

from common.errors import InputError

_SAVED = (MetaKeys.SAVED_TO, "dicom_seg")


class ListSavedFiles:
    """Evaluator handler that lists the files written during a run, in one block of the log.

    Reads what ``SaveImaged(..., savepath_in_metadict=True)`` and ``SaveDicomSegd`` note in the meta data of
    the outputs. Must be attached on every rank; rank 0 lists the files of all.
    """

    def __init__(self) -> None:
        self.files: list[str] = []

    def attach(self, evaluator: Evaluator) -> None:
        """Hook into an evaluator.

        Args:
            evaluator: engine whose postprocessing writes files and whose output is decollated.
        """
        evaluator.add_event_handler(Events.STARTED, self.files.clear)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        evaluator.add_event_handler(Events.COMPLETED, self._report)

    def _collect(self, evaluator: Evaluator) -> None:
        for item in evaluator.state.output:
            for value in item.values():
                meta = getattr(value, "meta", None)
                if isinstance(meta, Mapping):
                    self.files += [str(meta[entry]) for entry in _SAVED if entry in meta]

    def _report(self, evaluator: Evaluator) -> None:
        files = sorted(set(string_list_all_gather(self.files)) - {""})
        if not files:
            raise InputError(
                "nothing was written: expected a file per case from SaveImaged(savepath_in_metadict=True) in"
                " postprocessing, found none"
            )
        if idist.get_rank() == 0:
            evaluator.logger.info("\n  ".join([f"wrote {len(files)} file(s):", *files]))
