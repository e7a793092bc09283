"""What evaluator handlers share that measure every case: values, groups of cases, and averages of both."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.metrics import Cumulative
from monai.utils import string_list_all_gather

from common.errors import InputError
from common.metrics.averages import mean_over_cases, mean_over_classes, mean_over_groups


class CaseGroups:
    """The groups of an epoch's cases, e.g. the clips of frames, and means in which all groups weigh alike.

    Names are gathered over all processes rank by rank, as ``Cumulative`` and MONAI's metrics gather their
    values: name and value of a case have the same index, whatever share of the cases a process has.

    Args:
        key: entry of the cases that names their group; ``None``: no groups, every case weighs alike.

    Attributes:
        names: the group of every case, complete when the epoch has ended; empty without ``key``.

    Raises:
        InputError: while running, a case has no entry ``key``.
    """

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.names: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with an engine whose batch is decollated. Must come before handlers that ask for means."""
        if self.key is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.names.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._gather)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of the finite values: over cases, or with ``key`` over groups of the mean within each.

        Args:
            values: float (cases, ...), gathered over all processes.

        Returns:
            float64 (...); ``nan`` where no value is finite.

        Raises:
            InputError: not one value per case.
        """
        if self.key is None:
            return mean_over_cases(values)
        if len(values) != len(self.names):
            raise InputError(
                f"group_key: expected one value for each of {len(self.names)} cases, found {len(values)}"
            )
        return mean_over_cases(mean_over_groups(values, self.names))

    def _collect(self, engine: Engine) -> None:
        for case in engine.state.batch:
            if case.get(self.key) is None:
                known = ", ".join(map(str, case))
                raise InputError(
                    f"group_key: expected an entry of every case, found no {self.key!r} among {known}"
                )
            self.names.append(str(case[self.key]))

    def _gather(self, engine: Engine) -> None:
        # A name may hold a tab, the default delimiter, but never this character.
        self.names = string_list_all_gather(self.names, delimiter="\0")


class CaseMetrics(ABC):
    """Collects values per case during an epoch, over all processes, and publishes them when it has ended.

    List such a handler before those that read metrics, as ``MetricsSaver`` and ``StatsHandler`` do: ignite
    calls handlers of one event in the order of their attachment.

    Args:
        prefix: start of the names of all metrics.
        group_key: entry of the cases that names their group; with it metrics are means over groups of the
            mean within each. Details stay values of cases.
    """

    def __init__(self, prefix: str, group_key: str | None = None) -> None:
        self.prefix = prefix
        self._values = Cumulative()
        self._groups = CaseGroups(group_key)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose output is decollated and postprocessed."""
        self._groups.attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._values.reset())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    @abstractmethod
    def _measure(self, engine: Engine) -> None:
        """Append the values of every case in ``engine.state.output``."""

    @abstractmethod
    def _publish(self, engine: Engine) -> None:
        """Turn the collected values into metrics of the engine."""

    def _publish_details(self, engine: Engine, name: str, details: torch.Tensor) -> None:
        """Set a metric to the mean of its finite values (cases, K): over cases or groups, then classes."""
        engine.state.metric_details[name] = details
        engine.state.metrics[name] = mean_over_classes(self._groups.mean(details.numpy()))


class MaskMetrics(CaseMetrics):
    """Metrics of label maps that may also be a key metric, which MONAI attaches under a name.

    Args:
        num_classes: K, background included.
        prefix: start of all names.
        prediction_key: entry of the decollated output with class indices.
        reference_key: likewise, on the same grid.

    Raises:
        InputError: fewer than two classes; attached under a name that is not published.
    """

    def __init__(
        self,
        num_classes: int,
        prefix: str = "val_",
        prediction_key: str = "pred",
        reference_key: str = "label",
    ) -> None:
        super().__init__(prefix)
        if num_classes < 2:
            raise InputError(f"num_classes: expected at least 2, background included, found {num_classes}")
        self.num_classes = num_classes
        self.keys = prediction_key, reference_key

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of all metrics, without prefix."""

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Register with an evaluator whose output is decollated and postprocessed.

        Args:
            engine: the evaluator.
            name: under which MONAI attaches a key metric or an additional one; None for a handler.

        Raises:
            InputError: nothing of this name is published.
        """
        names = [self.prefix + known for known in self.names]
        if name is not None and name not in names:
            raise InputError(f"key_val_metric: expected one of {', '.join(names)}, found {name!r}")
        super().attach(engine)
