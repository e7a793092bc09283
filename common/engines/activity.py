"""Evaluator handler that reports how active a network's layers are in each domain (Table 3 and Figure 2)."""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import convert_to_tensor
from torch import nn

from common.data.writers import atomic_path
from common.engines.activity_report import Responses, activity_content, activity_table, draw_activity
from common.engines.weights import unwrapped
from common.errors import InputError
from common.metrics.activity import LayerResponses

logger = logging.getLogger(__name__)

ACTIVATION = "activation"


class ResponseActivity:
    """Count the responses that enter a network's activations, and write what they tell about the domains.

    Counted is every value of every forward pass between the start and the end of a run, so with
    ``SliceStackInferer`` every slice once, as the middle of its stack, and none twice. Rows and columns by
    which the inferer fills up slices to a multiple of 16 count, too; there are none at 256 x 256. The outputs
    of the network do not change.

    Writes ``activity.json`` (counts, shares, and mean, variance and separation of every channel),
    ``activity.md`` (a table by layer and domain) and ``activity.png`` (the same as curves, and in each layer
    the responses of the channel whose domains are farthest apart). What the numbers mean is in
    :mod:`common.metrics.activity`. The mean over layers, each of the same weight, is the number for Table 3.

    Args:
        network: not fused; its weights may be loaded by a handler before this one.
        output_dir: folder of the three files.
        layers: full names of the modules whose input is counted; ``None``: all that are called
            ``activation``, in :class:`~common.networks.crossdomain_unet.CrossDomainUNet` the eight of encoder
            and decoder.
        group_key: entry of the cases that names their domain, the same for all cases of a batch.
        eps: in the second set of columns a response counts if it is farther from 0 than this part of its
            channel's standard deviation in the domain.

    Raises:
        InputError: ``eps`` is not positive, a layer does not exist or none was found; while running, a
            network that is fused or in training mode, a batch without domain or of several, responses that
            are not finite, a layer that no image went through.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: PathLike,
        layers: Sequence[str] | None = None,
        group_key: str = "domain",
        eps: float = 0.1,
    ) -> None:
        if not eps > 0:
            raise InputError(f"eps: expected a positive number, found {eps}")
        self.network = unwrapped(network)
        self.layers = _modules(self.network, layers)
        self.output_dir = Path(output_dir)
        self.group_key = group_key
        self.eps = eps
        self._domain = ""
        self._cases: Counter[str] = Counter()
        self._responses: dict[str, dict[str, LayerResponses]] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self._start)
        # The batch is still a dictionary here; the evaluator takes it apart after the forward pass.
        engine.add_event_handler(Events.ITERATION_STARTED, self._enter_domain)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        # An exception is lost unless a handler of exceptions raises it, and one that raises is the last to be
        # called. So hooks are removed by the first handler, and the error goes on if all others let it pass.
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._remove_hooks)
        # ignite has no public way to come first.
        handlers = engine._event_handlers[Events.EXCEPTION_RAISED]
        handlers.insert(0, handlers.pop())

    def _start(self, engine: Engine) -> None:
        if getattr(self.network, "fused", False):
            raise InputError(
                "network: expected its training form, as the fused one rounds differently, found a fused one;"
                " load the weights with fuse=False"
            )
        self._remove_hooks()
        self._cases.clear()
        self._responses = {}
        for name, module in self.layers.items():
            hook = functools.partial(self._measure, name)
            self._hooks.append(module.register_forward_pre_hook(hook))

    def _enter_domain(self, engine: Engine) -> None:
        domains = _domains(engine.state.batch, self.group_key)
        if len(set(domains)) != 1:
            found = ", ".join(sorted(set(domains)))
            raise InputError(
                f"group_key: expected batches of one domain each, found one of {found}; one case at a time"
                " will do"
            )
        self._domain = domains[0]
        self._cases[self._domain] += len(domains)

    def _measure(self, name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            raise InputError("network: expected evaluation mode, found training mode")
        try:
            responses = LayerResponses.measure(convert_to_tensor(inputs[0], track_meta=False))
        except ValueError as error:
            raise InputError(f"{name}: {error}; look at the weights and at the last image") from error
        by_layer = self._responses.setdefault(self._domain, {})
        by_layer[name] = by_layer[name] + responses if name in by_layer else responses

    def _finish(self, engine: Engine) -> None:
        self._remove_hooks()
        of_all = idist.all_gather({"cases": self._cases, "responses": self._responses})
        cases = sum((part["cases"] for part in of_all), Counter())
        parts = [part["responses"] for part in of_all]
        responses = {
            domain: {name: _total(parts, domain, name) for name in self.layers} for domain in sorted(cases)
        }
        if not responses:
            raise InputError("data: expected at least one case, found none")
        if idist.get_rank() == 0:
            self._write(cases, responses)

    def _write(self, cases: Mapping[str, int], responses: Responses) -> None:
        content = activity_content(responses, cases, self.eps)
        table = activity_table(content)
        counted = ", ".join(f"{content['cases'][domain]} {domain}" for domain in responses)
        title = f"Response activity, cases: {counted}"
        logger.info("%s\n%s", title, table)
        with atomic_path(self.output_dir / "activity.json") as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        with atomic_path(self.output_dir / "activity.md") as path:
            path.write_text(f"# {title}\n\n{table}\n", encoding="utf-8")
        figure = draw_activity(responses)
        with atomic_path(self.output_dir / "activity.png") as path:
            figure.savefig(path)

    def _remove_hooks(self, *_: Any) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _raise(self, engine: Engine, error: BaseException) -> None:
        raise error


def _modules(network: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    known = dict(network.named_modules())
    if layers is None:
        layers = [name for name in known if name.rpartition(".")[2] == ACTIVATION]
    if not layers:
        raise InputError(
            f"layers: expected some, or modules called {ACTIVATION!r} in the network, found none"
        )
    unknown = [name for name in layers if name not in known]
    if unknown:
        candidates = ", ".join(name for name in known if name.rpartition(".")[2] == ACTIVATION)
        raise InputError(f"layers: expected modules of the network such as {candidates}, found {unknown}")
    return {name: known[name] for name in layers}


def _domains(batch: Any, key: str) -> list[str]:
    """Domain of each case of a collated batch."""
    found = batch.get(key) if isinstance(batch, Mapping) else None
    if found is None:
        known = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise InputError(f"group_key: expected an entry of every case, found no {key!r} among {known}")
    values = found.tolist() if isinstance(found, torch.Tensor) else found
    return [str(value) for value in ([values] if isinstance(values, str) else values)]


def _total(parts: Sequence[Responses], domain: str, layer: str) -> LayerResponses:
    """Responses of a layer to a domain, summed over those of all processes."""
    found = [part[domain][layer] for part in parts if layer in part.get(domain, {})]
    if not found:
        raise InputError(f"layers: expected that every image goes through {layer}, found none of {domain}")
    return functools.reduce(LayerResponses.__add__, found)
