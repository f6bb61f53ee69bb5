"""Loads parts of a decoder from a sepweight directory, tensor by tensor: memory peaks at the part plus one tensor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from swarm.decoder.builder import Builder, Streaming
from swarm.decoder.description import DecoderFamily
from swarm.decoder.device import Cpu, Device, device_named
from swarm.decoder.forms import Forms
from swarm.decoder.part import DecoderPart
from swarm.decoder.scheme import Scheme
from swarm.decoder.shelf import ResidentShelf, StreamingShelf
from swarm.errors import WeightsError
from swarm.parts import Part, parse_part, runs
from swarm.sepweight.scheme import Quantisation
from swarm.sepweight.store import Store

Progress = Callable[[int, int], None]  # bytes read, bytes in all


def init_part(
    family: DecoderFamily,
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device | Device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    quantisation: Quantisation[Scheme] | None = None,
    streaming: Streaming | None = None,
    progress: Progress = lambda done, total: None,
) -> DecoderPart:
    """Load any part of a decoder as a module ready to run.

    device: cpu, cuda:N or a Device. dtype: None keeps the stored one. On a CPU linears are reordered as they are
    loaded. quantisation: what plain matrices become on the way. streaming: layers that are not kept in memory. Raises
    WeightsError naming the file, RequestError for a bad spec or a device that is not there.
    """
    place = device_named(str(device)) if isinstance(device, str | torch.device) else device
    steps = iterate_loading(family, weights_dir, spec, place, dtype, quantisation, streaming=streaming)
    while True:
        try:
            progress(*next(steps))
        except StopIteration as stop:
            return stop.value()


def iterate_loading(
    family: DecoderFamily,
    weights_dir: str | Path,
    spec: str | Part,
    device: Device,
    dtype: torch.dtype | None = None,
    quantisation: Quantisation[Scheme] | None = None,
    old: DecoderPart | None = None,
    streaming: Streaming | None = None,
) -> Generator[tuple[int, int], None, Callable[[], DecoderPart]]:
    """The same a piece of a tensor at a time, for a thread that has other work between.

    Yields bytes read and bytes in all, returns what makes the part. old: a part loaded from the same directory in the same
    way; its modules are used, not read again. It may be used until the new part is made.
    """
    builder = _open(family, weights_dir, device, dtype, quantisation)
    decoder = builder.decoder
    part = spec if isinstance(spec, Part) else parse_part(spec, decoder.layers)
    builder.store.check(part)
    shelf = ResidentShelf([]) if old is None else old.shelf
    streamed = set(() if streaming is None else streaming.numbers)
    loaded = {number: layer for number, layer in shelf.resident.items() if number not in streamed}
    embed, head = (None, None) if old is None else (old.embed, old.head)
    builder.share(embed, head)
    missing = part - Part(decoder.layers, embed is not None, tuple(runs(sorted(loaded))), head is not None)
    total = builder.size_of(missing)
    done = 0
    building = builder.build(missing, streaming, shelf)
    while True:
        try:
            done += next(building)
        except StopIteration as stop:
            new_embed, new_layers, new_head, order = stop.value
            break
        yield done, total
    kept = [number for number in part.layers if number not in streamed]
    layers = [loaded[number] if number in loaded else new_layers[number] for number in kept]

    def make() -> DecoderPart:
        return DecoderPart(
            decoder,
            part,
            (embed or new_embed) if part.begin else None,
            ResidentShelf(layers) if order is None else StreamingShelf(layers, order.begin()),
            (head or new_head) if part.end else None,
            builder.dtype,
            builder.device,
        )

    return make


def iterate_packing(
    family: DecoderFamily,
    weights_dir: str | Path,
    numbers: Sequence[int],
    dtype: torch.dtype | None = None,
    quantisation: Quantisation[Scheme] | None = None,
) -> Generator[tuple[int, int], None, None]:
    """Make what streaming these layers reads; what is there stays. Yields and raises as iterate_loading does."""
    builder = _open(family, weights_dir, Cpu(), dtype, quantisation)
    part = Part(builder.decoder.layers, ranges=tuple(runs(numbers)))
    builder.store.check(part)
    total, done = builder.size_of(part), 0
    for size in builder.pack(numbers, 1, ResidentShelf([])):
        done += size
        yield done, total


def _open(
    family: DecoderFamily,
    weights_dir: str | Path,
    device: Device,
    dtype: torch.dtype | None,
    quantisation: Quantisation[Scheme] | None,
) -> Builder:
    store = Store(Path(weights_dir))
    if store.manifest.family != family.name:
        raise WeightsError(f'{weights_dir} holds a model of family "{store.manifest.family}", not {family.name}')
    decoder = family.read(store.manifest.config)
    forms = Forms(store.manifest, weights_dir, quantisation)
    forms.check(decoder)
    return Builder(store, decoder, forms, device, dtype or getattr(torch, store.manifest.dtype))


def load_tokenizer(weights_dir: str | Path) -> Tokenizer:
    """The checkpoint's tokenizer. Raises WeightsError if the directory has none."""
    path = Path(weights_dir) / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; copy it from the checkpoint")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise WeightsError(f"{path} cannot be read: {error}; copy it from the checkpoint again") from None
