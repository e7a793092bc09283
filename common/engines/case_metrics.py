"""What evaluator handlers share that measure every case and publish their values as metrics of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from ignite.engine import Engine, Events
from monai.metrics import Cumulative

from common.metrics.averages import mean_over_cases, mean_over_classes


class CaseMetrics(ABC):
    """Collects values per case during an epoch, over all processes, and publishes them when it has ended.

    List such a handler before those that read metrics, as ``MetricsSaver`` and ``StatsHandler`` do: ignite
    calls handlers of one event in the order of their attachment.

    Args:
        prefix: start of the names of all metrics.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._values = Cumulative()

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose output is decollated and postprocessed."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._values.reset())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    @abstractmethod
    def _measure(self, engine: Engine) -> None:
        """Append the values of every case in ``engine.state.output``."""

    @abstractmethod
    def _publish(self, engine: Engine) -> None:
        """Turn the collected values into metrics of the engine."""

    @staticmethod
    def _publish_details(engine: Engine, name: str, details: torch.Tensor) -> None:
        """Set a metric to the mean of its finite values (cases, K): over cases first, then over classes."""
        engine.state.metric_details[name] = details
        engine.state.metrics[name] = mean_over_classes(mean_over_cases(details.numpy()))
