"""Builds a node: what it may give of this machine, and the process that gives it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.decoder.device import Device, best_device, device_named
from swarm.decoder.scheme import Scheme
from swarm.errors import RequestError
from swarm.keys import BorrowedName, NameLock, SwarmKeys, machine_id
from swarm.models import ModelKey
from swarm.node.compute.memory import (
    SPARED_SHARE,
    check_budget,
    check_part,
    shared_scratch,
)
from swarm.node.compute.models import LocalWeights, read_weights
from swarm.node.compute.protocol import EngineLoader
from swarm.node.effects import Report
from swarm.node.residence import Residence, doubt_pass, settle
from swarm.node.shell.cores import Cores
from swarm.node.shell.ledger import Ledger
from swarm.node.shell.process import NodeProcess, NodeSettings
from swarm.node.shell.served_before import note_served, read_served_before
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import Part, parse_part
from swarm.sepweight.scheme import Quantisation
from swarm.sizes import parse_size


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node has to give: a device, models whose weights lie here, and the part asked for of each, if any.

    dtype: to compute in; None: as stored. doubts: what the user should know of the device.
    """

    device: Device
    dtype: str | None
    models: Mapping[ModelKey, LocalWeights]
    placement: Mapping[ModelKey, Part]
    doubts: Sequence[str]


def read_offer(
    weights: Sequence[Path],
    device: str,
    dtype: str | None,
    part: str | None,
    quantisation: Quantisation[Scheme] | None = None,
) -> Offer:
    """Look at what is there. quantisation: what plain matrices become as they are loaded.

    Raises RequestError for a device or part that there is not, WeightsError for directories that hold no weights.
    """
    place, doubt = best_device() if device == "auto" else (device_named(device), None)
    models = read_weights(weights, dtype, place, quantisation)
    doubts = [doubt]
    for one in models.values():
        doubts += [place.doubt(dtype or one.manifest.dtype), *one.doubts]
    placement: dict[ModelKey, Part] = {}
    if part is not None:
        placement = {model: parse_part(part, one.decoder.layers) for model, one in models.items()}
        for model, asked in placement.items():
            models[model].check(asked)
    return Offer(place, dtype, models, placement, list(dict.fromkeys(filter(None, doubts))))


@dataclass(frozen=True, slots=True)
class Promise:
    """Bytes of the device that a node may use, and how it holds each part that it was asked for with them.

    may_stream: whether other parts may be held with layers from disk. source_rates: bytes a second that layers are read
    with, where some may be. doubts: what the user should know of that.
    """

    budget: int
    residences: Mapping[ModelKey, Residence]
    may_stream: bool
    source_rates: Mapping[ModelKey, float]
    doubts: Sequence[str]


def promise_memory(offer: Offer, memory: str | None, ledger: Ledger, stream: str = "auto") -> Promise:
    """What is of use to a node, what --memory allows, what others leave. stream: auto, never, or how many layers.

    Raises RequestError if that is too little for a layer, or for the parts asked for.
    """
    asked = _parse_stream(stream, offer)
    useful = sum(one.memory.useful(offer.placement.get(model) or one.present) for model, one in offer.models.items())
    most = useful if memory is None else min(useful, parse_size(memory))
    budget = ledger.promise(lambda: int(offer.device.measure().free * (1 - SPARED_SHARE)), most)
    for model, one in offer.models.items():
        if model not in offer.placement:
            check_budget(one.name, one.memory, budget)
    left = budget
    residences: dict[ModelKey, Residence] = {}
    for model, part in offer.placement.items():
        name, memory_of = offer.models[model].name, offer.models[model].memory
        layer = memory_of.weight_costs.layer
        if asked == 0:
            check_part(name, memory_of, part, left)
        residence = settle(name, part, memory_of.needed(part), layer, left, asked)
        residences[model] = residence
        left -= memory_of.weights(part) + memory_of.kv_reserve(part) - residence.spared_bytes(part.layers, layer)
    unplaced = [one for model, one in offer.models.items() if asked is None and model not in offer.placement]
    doubts = [
        f"what does not fit of {one.name} is not read from disk each time it is needed: {reason}"
        for one in unplaced
        if budget < one.memory.needed(one.present) and (reason := one.why_kept()) is not None
    ]
    rates = {model: one.measure_source() for model, one in offer.models.items() if asked != 0}
    for model, residence in residences.items():
        one, streamed = offer.models[model], residence.count_read(offer.placement[model].layers)
        doubts += filter(None, [doubt_pass(one.name, streamed, one.memory.weight_costs.layer, rates.get(model, 0.0))])
    return Promise(budget, residences, asked is None, rates, doubts)


def _parse_stream(stream: str, offer: Offer) -> int | None:
    """How many layers to stream; None for as few as possible. Raises RequestError."""
    if stream == "never":
        return 0
    if stream == "auto":
        return None
    if not stream.isdecimal():
        raise RequestError(f'--stream "{stream}" is not understood; write auto, never or a number of layers')
    if not offer.placement:
        raise RequestError(f"--stream {stream} goes with --part: what is to be served")
    return int(stream)


def build_node(
    offer: Offer,
    promise: Promise,
    settings: NodeSettings,
    keys: SwarmKeys,
    name: NameLock | BorrowedName,
    ledger: Ledger,
    served_before: Path | None,
    cores: Path | None,
    report: Callable[[Report], None],
) -> NodeProcess:
    """The node's process, ready to run.

    promise: of the device's memory. served_before: the file where to keep what it serves, for its next start. cores: where
    the machine's nodes take turns. report: what happens, for the user.
    """
    models = offer.models
    layers = {model: one.decoder.layers for model, one in models.items()}
    allocated: dict[ModelKey, int] = {}

    def note(said: Report) -> None:
        report(said)
        if said.kind == "ready":  # its weights show in the device's own figures from now on
            model = ModelKey(said.fields["model_id"], said.fields["variant"])
            part = parse_part(said.fields["part"], layers[model])
            memory = models[model].memory
            allocated[model] = memory.weights(part) - said.fields["spared"]
            ledger.note_allocated(sum(allocated.values()))
            if served_before is not None:
                with contextlib.suppress(OSError):  # it will ask the swarm what to serve, as a new node does
                    note_served(served_before, model, part)

    def make_loader(on_layer: Callable[[], None]) -> EngineLoader:
        from swarm.node.compute.engine import DecoderLoader  # seconds of torch, on a loader thread: discovery goes on

        return DecoderLoader(
            {model: one.source for model, one in models.items()},
            offer.device,
            offer.dtype,
            on_layer,
        )

    me = ThisNode(
        node=name.identity.node,
        incarnation=name.incarnation,
        name=name.name[:64],
        device=offer.device.name,
        machine=machine_id(),
        memory_total=offer.device.measure().total,
        budget=promise.budget - shared_scratch([one.memory for one in models.values()]),
        models=tuple(
            LocalModel(
                model,
                one.name,
                one.costs(may_stream=promise.may_stream),
                one.memory.kv_layer_bytes,
                promise.residences.get(model),
                promise.source_rates.get(model, 0.0),
            )
            for model, one in models.items()
        ),
        served_before={} if served_before is None else read_served_before(served_before, layers),
    )
    return NodeProcess(
        settings,
        keys,
        name.identity,
        me,
        {model.id: one.card for model, one in models.items()},
        {digest: path for one in models.values() for digest, path in one.documents.items()},
        make_loader,
        note,
        Cores(cores),
        models,
    )
