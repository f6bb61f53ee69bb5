"""Makes modules of a part's stored tensors, one matrix at a time: memory peaks at what is kept plus one tensor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from swarm.decoder.buffer import LayerBuffer, Layout
from swarm.decoder.description import Decoder, Slot
from swarm.decoder.device import Device
from swarm.decoder.direct import DirectFile
from swarm.decoder.forms import Forms, Joint
from swarm.decoder.half_linear import as_half, can_move
from swarm.decoder.layer import Head, Layer
from swarm.decoder.linear import BesideLinear, Linear, PlainLinear
from swarm.decoder.norms import make_norm
from swarm.decoder.opaque import has_views
from swarm.decoder.packed import PackedFile, PackedLayers
from swarm.decoder.plain import PLAIN
from swarm.decoder.shelf import Shelf
from swarm.decoder.streaming import StreamedLayers
from swarm.errors import RequestError
from swarm.parts import Part
from swarm.sepweight.manifest import file_keys, layer_key
from swarm.sepweight.store import Store
from swarm.sepweight.tensorfile import TensorFile


@dataclass(frozen=True, slots=True)
class Streaming:
    """Which layers of a part come from disk each time they are needed, and how many of them are in memory at a time.

    open_file: opens what is read again and again.
    """

    numbers: Sequence[int]
    buffers: int
    open_file: Callable[[Path], DirectFile] = DirectFile


Embedding = Callable[[Tensor], Tensor]


class StoredEmbedding:
    """Looks embedding rows up in the file itself: no resident bytes (a row of Falcon-40B is 16 KB)."""

    def __init__(self, file: TensorFile, tensor: str, dtype: torch.dtype) -> None:
        self._file = file
        self._tensor = tensor
        self._dtype = dtype

    def __call__(self, ids: Tensor) -> Tensor:
        return self._file.read_rows(self._tensor, ids.tolist()).to(self._dtype)

    def __del__(self) -> None:
        self._file.close()


class ResidentEmbedding:
    """Embedding rows held on a device. weight: [vocabulary, hidden]; a tied head multiplies with the same."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, self.weight)


def _join(tensors: list[Tensor]) -> Tensor:
    """Rows behind rows."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _part_rows(bias: Tensor | None, counts: Sequence[int]) -> Sequence[Tensor | None]:
    """What of a bias belongs to each of some matrices."""
    return [bias] * len(counts) if bias is None or len(counts) == 1 else bias.split(list(counts))


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """What is to be streamed, and through which buffers; they may serve another part until it begins.

    kinds: of layer, by number. old: who reads into the buffers so far.
    """

    files: Mapping[int, PackedFile]
    kinds: Mapping[int, Hashable]
    buffers: Sequence[LayerBuffer]
    old: StreamedLayers | None

    def begin(self) -> StreamedLayers:
        """What was loaded before is no longer used. Raises WeightsError."""
        if self.old is not None:
            self.old.end()
        return StreamedLayers(self.files, self.kinds, self.buffers)


Built = tuple[Embedding | None, dict[int, Layer], Head | None, StreamOrder | None]


class Builder:
    """Makes modules of a part; each method yields the bytes of a piece that it has read, and returns what it made."""

    def __init__(self, store: Store, decoder: Decoder, forms: Forms, device: Device, dtype: torch.dtype) -> None:
        self.store = store
        self.decoder = decoder
        self.forms = forms
        self.device = device
        self.dtype = dtype
        self.embedding, self.projection = f"{decoder.embedding}.weight", f"{decoder.head.tensor}.weight"
        self._shared: dict[tuple[str, str], Tensor] = {}  # by where they lie: matrices that begin and end may both use

    def share(self, embed: Embedding | None, head: Head | None) -> None:
        """Use what is loaded for begin or end for the other, too, where they are tied."""
        if isinstance(embed, ResidentEmbedding):
            self._shared[self._owner("begin", self.embedding)] = embed.weight
        if self.forms.is_tied and head is not None and isinstance(head.projection, PlainLinear):
            self._shared[self._owner("end", self.projection)] = head.projection.weight.data

    def size_of(self, part: Part) -> int:
        """Bytes to be read."""
        keys = [key for key in file_keys(part) if key != "begin" or not self.device.is_host]
        owners = {
            (key, name) if self.device.is_host else self._owner(key, name): self.store.size_of(key, name)
            for key in keys
            for name in self.store.manifest.tensor_names(key)
        }
        return sum(size for owner, size in owners.items() if owner not in self._shared)

    def build(self, part: Part, streaming: Streaming | None, old: Shelf) -> Generator[int, None, Built]:
        """old: what is loaded and used meanwhile. What it keeps of layers that are to be streamed goes into buffers."""
        embed = (yield from self._embedding()) if part.begin else None
        self.share(embed, None)
        streamed = None if streaming is None else (yield from self._stream(streaming, old))
        layers: dict[int, Layer] = {}
        for number in part.layers:
            if streaming is None or number not in streaming.numbers:
                layers[number] = yield from self._layer(number)
        head = None
        if part.end:
            norm = yield from self._fill("end", [self.decoder.final_norm])
            projection = yield from self._fill("end", [self.decoder.head])
            head = Head(self.decoder, norm, cast(Linear, projection))
            self._trim()
        return embed, layers, head, streamed

    def _layer(self, number: int, *, moves: bool = False) -> Generator[int, None, Layer]:
        """moves: it will lie in a buffer."""
        filled: dict[str, nn.Module] = {}
        for role, slots in self.decoder.fillings.items():
            filled[role] = yield from self._fill(layer_key(number), slots, moves=moves)
        layer = Layer(self.decoder, number, filled)
        self._trim()
        return layer

    def _stream(self, streaming: Streaming, old: Shelf) -> Generator[int, None, StreamOrder]:
        packed, kinds, buffers = yield from self.pack(streaming.numbers, streaming.buffers, old)
        files = {number: packed.open(number, streaming.open_file) for number in streaming.numbers}
        return StreamOrder(files, kinds, buffers, old.streamed)

    def pack(
        self, numbers: Sequence[int], count: int, old: Shelf
    ) -> Generator[int, None, tuple[PackedLayers, Mapping[int, Hashable], Sequence[LayerBuffer]]]:
        """Pack those layers that are not yet; and find so many buffers that any of them may be read into.

        old: what is loaded and used meanwhile: its buffers are taken, then the memory of layers that it keeps so far, where
        those can move.
        Raises RequestError if layers cannot be streamed.
        """
        if self.device.is_host and not has_views():
            raise RequestError(f"layers cannot be streamed on {self.device.name} with torch {torch.__version__}")
        packed, lane = self._open_packed(), self.device.open_lane()
        kinds = {number: self.forms.kind_of(self.decoder, number) for number in numbers}
        taken = [] if old.streamed is None else list(old.streamed.buffers)[:count]
        buffers = taken if all(kind in buffer.layouts for buffer in taken for kind in kinds.values()) else []
        movable = {number: layer for number, layer in old.resident.items() if can_move(layer)}
        seen = {kind: layout for buffer in buffers for kind, layout in buffer.layouts.items()}
        for number in sorted(numbers, key=lambda number: (number not in movable, number)):
            kind, kept = kinds[number], movable.get(number)
            lacking = [buffer for buffer in buffers if kind not in buffer.layouts]
            if len(buffers) == count and not lacking and packed.has(number, seen[kind].size):
                yield self.store.manifest.files[layer_key(number)].bytes
                continue
            buffer = LayerBuffer(kind, (yield from self._layer(number, moves=True)) if kept is None else kept, lane)
            layout, data = buffer.layouts[kind], buffer.bytes_of(kind)
            if layout.form != seen.setdefault(kind, layout).form:
                raise RequestError(f"layer {number} is not made of the same tensors as others in its form")
            if seen[kind] is layout and packed.has(number, layout.size) and not packed.is_like(number, data):
                # Those that are read later, too: only the first of a kind is compared.
                every = range(self.decoder.layers)
                packed.drop(other for other in every if self.forms.kind_of(self.decoder, other) == kind)
            if not packed.has(number, layout.size):
                self.store.verify(layer_key(number))  # what is packed is read instead of it from now on
                packed.write(number, data)
            if len(buffers) < count:
                buffers.append(buffer)
            elif lacking and kept is None:
                lacking[0].adopt(kind, layout)
            del buffer, layout, data  # before the next one is made
        for kind, number in {kinds[number]: number for number in numbers}.items():
            for buffer in buffers:
                if kind not in buffer.layouts:
                    buffer.adopt(kind, Layout((yield from self._layer(number, moves=True))))
        return packed, kinds, buffers

    def _open_packed(self) -> PackedLayers:
        files = self.store.manifest.files
        facts = {
            "kind": self.device.kind,
            "variant": self.forms.variant(str(self.dtype)),
            "torch": torch.__version__,
        }
        made_of = {number: files[layer_key(number)].sha256 for number in range(self.decoder.layers)}
        return PackedLayers(self.store.directory, made_of, facts)

    def _fill(self, key: str, slots: Sequence[Slot], *, moves: bool = False) -> Generator[int, None, nn.Module]:
        """What slots' tensors make; a matrix at a time, so that memory peaks at one beyond what is kept.

        slots: one, or several matrices to be joined. moves: the numbers will lie elsewhere.
        """
        biases: list[Tensor] = []
        for slot in slots:
            if slot.has_bias:
                biases.append((yield from self._tensor(key, f"{slot.tensor}.bias")))
        bias = _join(biases) if biases else None
        if slots[0].matrix is None:
            weight = yield from self._tensor(key, f"{slots[0].tensor}.weight")
            return make_norm(self.decoder, weight, bias, self.device)
        if slots[0] == self.decoder.head and self.forms.is_tied and not self.device.is_host:
            weight = yield from self._tensor(key, self.projection)
            return PLAIN.make({"weight": weight}, bias, self.dtype, self.device)
        joints = self.forms.products(key, slots, self.dtype.itemsize, self.device)
        linears: list[Linear] = []
        for joint, own in zip(joints, _part_rows(bias, [joint.rows for joint in joints]), strict=True):
            tensors = yield from self._packed(key, joint)
            linear = joint.scheme.make(tensors, own, self.dtype, self.device)
            del tensors  # before the next ones are read
            linears.append(as_half(linear, self.device, moves=moves))
            del linear
        return linears[0] if len(linears) == 1 else BesideLinear(linears)

    def _packed(self, key: str, joint: Joint) -> Generator[int, None, Mapping[str, Tensor]]:
        """What stands for a joint's matrices."""
        stored: dict[str, list[Tensor]] = {}
        for slot in joint.slots:
            if joint.is_packed:
                for suffix in joint.suffixes:
                    read = yield from self.store.reading(key, f"{slot.tensor}.{suffix}", joint.cut)
                    stored.setdefault(suffix, []).append(read)
            else:
                plain = yield from self.store.reading(key, f"{slot.tensor}.weight", joint.cut)
                for suffix, made in joint.scheme.pack(plain).items():
                    stored.setdefault(suffix, []).append(made)
                del plain  # before the next one is read
        return {suffix: _join(stored.pop(suffix)) for suffix in list(stored)}

    def _owner(self, key: str, name: str) -> tuple[str, str]:
        return self.store.manifest.resolve(key, name)

    def _embedding(self) -> Generator[int, None, Embedding]:
        if self.device.is_host:
            owner, tensor = self._owner("begin", self.embedding)
            return StoredEmbedding(self.store.open(owner), tensor, self.dtype)
        return ResidentEmbedding((yield from self._tensor("begin", self.embedding)))

    def _trim(self) -> None:
        """Hand the stored copies' memory back: on the host they lie beside what is kept."""
        if self.device.is_host:
            self.device.trim()

    def _tensor(self, key: str, name: str) -> Generator[int, None, Tensor]:
        """A tensor that is stored plain, on the device."""
        shared = self._shared.get(self._owner(key, name))
        if shared is not None:
            return shared
        stored = yield from self.store.reading(key, name)
        return self.device.place([stored.to(self.dtype)])[0]
