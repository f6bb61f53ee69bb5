"""A pretended card that computes on the CPU: its tensors hold a CPU tensor, and mix with no other's.

What it sees: values, crossings, waits. It registers a device with torch for the whole process, so it has one of its own:
`python -m tests.decoder.pretended_gpu DIRECTORY…` plays the engine script on the weights of variants, each in a directory of
its name, then again with every planted mistake, and prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from swarm.decoder import direct
from swarm.decoder.crossing import Crossing
from swarm.decoder.device import Cuda, Room, place_packed
from swarm.decoder.schemes import quantisation_named
from swarm.errors import SwarmError
from swarm.node.batches import Batch
from tests.decoder.composed import masks_written_out, run_parts
from tests.decoder.engine_script import EngineScript
from tests.decoder.late_copies import LateLane
from tests.decoder.layouts import STREAMED
from tests.decoder.planted import MISTAKES

NAME = "pretended"
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default)
FORMS = ("int8", "int4:32", "int4:64/plain")


class PretendedGpu(Cuda):
    """Runs the real code for a card, and computes what it would. seen: uploads, downloads and waits."""

    def __init__(self) -> None:
        self.name = f"{NAME}:0"
        self.key = NAME
        self.seen: Counter[str] = Counter()

    @property
    def kind(self) -> str:
        return NAME

    def measure(self) -> Room:
        return Room(1 << 40, 1 << 40)

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return place_packed(tensors, self.where)

    def finish(self) -> None:
        return

    def trim(self) -> None:
        return

    def open_lane(self) -> LateLane:
        return LateLane(copy_inner)


def copy_inner(there: Tensor, here: Tensor, part: tuple[int, int]) -> None:
    assert isinstance(there, OnGpu)
    with _disable_current_modes():
        there.inner[slice(*part)].copy_(here[slice(*part)])


class OnGpu(Tensor):
    """A tensor of the pretended device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        self = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(f"{NAME}:0"),
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(func, args, dict(kwargs or {}), Counter())


class Dispatch(TorchDispatchMode):
    """Sends everything that concerns the device through `compute`."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        parts = run_parts(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        return compute(func, args, dict(kwargs or {}), self.seen)


def compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any], seen: Counter[str]) -> Any:
    """One operation, on the CPU tensors that the device's hold."""
    tensors: list[Tensor] = []
    for_each_tensor(tensors.append, (*args, *kwargs.values()))
    ours = [one for one in tensors if isinstance(one, OnGpu)]
    wanted = kwargs.get("device")
    goes_there = wanted is not None and torch.device(wanted).type == NAME
    goes_back = wanted is not None and torch.device(wanted).type == "cpu"
    if not ours and not goes_there:
        return func(*args, **kwargs)
    # a number in a tensor of no dimension may be read from the CPU's memory as an argument
    others = [one for one in tensors if not isinstance(one, OnGpu) and one.dim()]
    if ours and others and func not in COPIES:
        raise RuntimeError(f"{func} mixes tensors of the device with others")
    if (ours and others) or (goes_there and tensors and not ours):
        seen["uploads"] += 1
    if goes_back:
        seen["downloads"] += 1
    if func in WAITS:
        seen["waits"] += 1
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    inner_args = for_each_tensor(inner_of, args)
    inner_kwargs = {name: for_each_tensor(inner_of, one) for name, one in kwargs.items()}
    with torch.inference_mode(False), torch.no_grad():
        result = func(*inner_args, **inner_kwargs)
        if goes_back:
            return result
        if func._schema.is_mutable and args and result is inner_args[0]:
            return args[0]
        return for_each_tensor(OnGpu, result)


def inner_of(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, OnGpu) else tensor


def for_each_tensor(change: Callable[[Tensor], Any], value: Any) -> Any:
    """A value with its tensors changed: one, or several in a sequence. Quicker than torch's tree_map."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)([for_each_tensor(change, one) for one in value]) if isinstance(value, list | tuple) else value


def play(weights: Path, form: str = "plain", *, is_streamed: bool = False) -> dict[str, Any]:
    """What the script says there, and the most crossings and waits of a batch."""
    gpu = PretendedGpu()
    most: Counter[str] = Counter()

    def note(batch: Batch) -> None:
        for name, count in gpu.seen.items():
            most[name] = max(most[name], count)
        gpu.seen.clear()

    asked = quantisation_named(form)
    script = EngineScript(weights, gpu, contextlib.nullcontext, note, gpu.seen.clear, quantisation=asked)
    script.is_streamed = is_streamed
    with Dispatch(gpu.seen), masks_written_out():
        ids = script.play()
    return {"ids": ids, "most": most}


def plant(weights: Mapping[str, Path]) -> dict[str, str]:
    """What each mistake ends in."""
    ends: dict[str, str] = {}
    for mistake, (variant, planted) in MISTAKES.items():
        ends[mistake] = "nobody noticed"
        with planted():
            try:
                play(weights[variant])
            except RuntimeError as error:
                ends[mistake] = str(error)
    return ends


def plant_early(weights: Path) -> dict[str, str]:
    """What comes of it if either side of a crossing does not wait for the other."""
    expected, ends = play(weights)["ids"], dict[str, str]()
    for name, planted in EARLY.items():
        kept = getattr(Crossing, name)
        setattr(Crossing, name, planted)
        try:
            ends[name] = "nobody noticed" if play(weights, is_streamed=True)["ids"] == expected else "other tokens"
        except (RuntimeError, SwarmError) as error:
            ends[name] = str(error)
        finally:
            setattr(Crossing, name, kept)
    return ends


def begin_early(self: Crossing, section: int) -> None:
    """As if what is sent were there."""


def end_early(self: Crossing, start: int, stop: int) -> None:
    """As if what is asked for were computed."""


def settle_early(self: Crossing) -> None:
    """As if what is read had gone on."""


EARLY = {"begin": begin_early, "end": end_early, "settle": settle_early}


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend(NAME)
    direct.PIECE_BYTES = 3 * direct.DIRECT_STEP  # several to a layer
    given = {Path(one).name: Path(one) for one in sys.argv[1:]}
    told = {
        "played": {name: play(path) for name, path in given.items()},
        "smaller": {form: play(given["40b"], form) for form in FORMS},
        "planted": plant(given),
        "streamed": {name: play(given[name], is_streamed=True)["ids"] for name in STREAMED},
        "smaller, streamed": {form: play(given["40b"], form, is_streamed=True)["ids"] for form in FORMS},
        "early": plant_early(given["40b"]),
    }
    print(json.dumps(told))
