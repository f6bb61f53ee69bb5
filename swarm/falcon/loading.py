"""Builds Falcon parts from a sepweight directory, tensor by tensor, so that memory peaks at the part plus one tensor."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from swarm.errors import WeightsError
from swarm.falcon.config import FALCON, FalconConfig, read_falcon_config
from swarm.falcon.linear import Linear
from swarm.falcon.part import FalconPart, Head, Layer
from swarm.parts import Part, parse_part
from swarm.sepweight.manifest import layer_key
from swarm.sepweight.store import Store
from swarm.sepweight.tensorfile import TensorFile

Progress = Callable[[int, int], None]  # pieces loaded, pieces in all


class StoredEmbedding:
    """Looks embedding rows up in the file itself: no resident bytes (a row of Falcon-40B is 16 KB)."""

    def __init__(self, file: TensorFile, tensor: str, dtype: torch.dtype) -> None:
        self._file = file
        self._tensor = tensor
        self._dtype = dtype

    def __call__(self, ids: Tensor) -> Tensor:
        return self._file.read_rows(self._tensor, ids.tolist()).to(self._dtype)


class ResidentEmbedding:
    """Embedding rows held on a device."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, self._weight)


def init_part(
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> FalconPart:
    """Load any part of a Falcon as a module ready to run.

    dtype: None keeps the stored one. On a CPU linears are reordered as they are loaded.
    Raises WeightsError naming the file, RequestError for a bad spec.
    """
    steps = iterate_loading(weights_dir, spec, device, dtype)
    while True:
        try:
            progress(*next(steps))
        except StopIteration as stop:
            return stop.value


def iterate_loading(
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    old: FalconPart | None = None,
) -> Iterator[tuple[int, int]]:
    """The same a piece at a time, for a thread that has other work between: yields (done, total), returns the part.

    old: a part loaded from the same directory in the same way; its modules are used, not read again.
    """
    store = Store(Path(weights_dir))
    if store.manifest.family != FALCON.name:
        raise WeightsError(f'{weights_dir} holds a model of family "{store.manifest.family}", not {FALCON.name}')
    config = read_falcon_config(store.manifest.config)
    part = spec if isinstance(spec, Part) else parse_part(spec, config.layers)
    store.check(part)
    builder = _Builder(store, config, torch.device(device), dtype or getattr(torch, store.manifest.dtype))
    total = part.layer_count + part.begin + part.end
    loaded = {} if old is None else {layer.number: layer for layer in cast("Iterable[Layer]", old.layers)}
    embed = None
    if part.begin:
        embed = builder.embedding() if old is None or old.embed is None else old.embed
    layers: list[Layer] = []
    for number in part.layers:
        layers.append(loaded[number] if number in loaded else builder.layer(number))
        yield len(layers), total
    head = None
    if part.end:
        head = builder.head() if old is None or old.head is None else old.head
    yield total, total
    return FalconPart(config, part, embed, layers, head, builder.dtype, builder.device)


class _Builder:
    def __init__(self, store: Store, config: FalconConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.store = store
        self.config = config
        self.device = device
        self.dtype = dtype

    def embedding(self) -> StoredEmbedding | ResidentEmbedding:
        owner, tensor = self.store.manifest.resolve("begin", "word_embeddings.weight")
        if self.device.type == "cpu":
            return StoredEmbedding(self.store.open(owner), tensor, self.dtype)
        return ResidentEmbedding(self._read(owner, tensor))

    def layer(self, number: int) -> Layer:
        key = layer_key(number)
        layer = Layer(
            self.config, number, {name: self._read(key, name) for name in self.store.manifest.tensor_names(key)}
        )
        self._prepare(layer)
        return layer

    def head(self) -> Head:
        head = Head(self.config, {name: self._read("end", name) for name in self.store.manifest.tensor_names("end")})
        self._prepare(head)
        return head

    def _read(self, key: str, tensor: str) -> Tensor:
        return self.store.read(key, tensor).to(self.device, self.dtype)

    def _prepare(self, module: torch.nn.Module) -> None:
        """Reorder linears one by one and hand the plain copies' memory back to the system."""
        if self.device.type != "cpu":
            return
        for linear in module.modules():
            if isinstance(linear, Linear):
                linear.reorder()
        release_freed_memory()


def release_freed_memory() -> None:
    """Give freed heap pages back (glibc keeps them otherwise: 1.2 GB after packing a 1.2 GB part)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not glibc


def load_tokenizer(weights_dir: str | Path) -> Tokenizer:
    """The checkpoint's tokenizer. Raises WeightsError if the directory has none."""
    path = Path(weights_dir) / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; copy it from the checkpoint")
    return Tokenizer.from_file(str(path))
