"""How matrices are stored: as they are, or as other tensors that stand for them.

What a file needs to know of that. What computes with them is known further up (decoder/scheme.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from swarm.sepweight.family import Outline
from swarm.sepweight.manifest import PLAIN_NAME

if TYPE_CHECKING:
    from torch import Tensor

INT4_GROUPS = (32, 64, 128, 256)  # columns of one scale, as torch's kernels take them
PIECE_NUMBERS = 1 << 20  # of a matrix are packed at a time: the float32 copies of a whole one would be its largest cost


class StoredScheme(Protocol):
    """A stored form of matrices; embeddings, norms and biases are stored plain."""

    @property
    def name(self) -> str: ...

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        """The tensors that stand for a matrix [out, in], by what their names end in instead of `weight`."""
        ...


AnyScheme = TypeVar("AnyScheme", bound=StoredScheme, covariant=True)


@dataclass(frozen=True, slots=True)
class Quantisation(Generic[AnyScheme]):
    """The forms of a model's matrices: those of its layers, and its head."""

    layers: AnyScheme
    head: AnyScheme

    @property
    def name(self) -> str:
        """As a manifest has it: `int8`; or `int4:64/int8`, where the head has another form."""
        return self.layers.name if self.layers.name == self.head.name else f"{self.layers.name}/{self.head.name}"

    @property
    def is_plain(self) -> bool:
        return self.name == PLAIN_NAME


def pack_file(
    quantisation: Quantisation[StoredScheme] | None, key: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A file's tensors as they are stored. quantisation: None leaves them as they are, and so is the embedding's file."""
    if quantisation is None or key == "begin":
        return dict(tensors)
    scheme = quantisation.head if key == "end" else quantisation.layers
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_matrix(name, tuple(tensor.shape)):
            stem = name.removesuffix("weight")
            packed |= {f"{stem}{suffix}": one.contiguous() for suffix, one in scheme.pack(tensor).items()}
        else:
            packed[name] = tensor
    return packed


def tied_to_pack(
    outline: Outline, quantisation: Quantisation[StoredScheme] | None
) -> dict[str, dict[str, tuple[str, str]]]:
    """Tensors that are another file's own where they are plain, but have a form of theirs: key → tensor → whose they are."""
    if quantisation is None or quantisation.head.name == PLAIN_NAME:
        return {}
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for key, names in outline.aliases.items():
        for tensor, target in names.items():
            owner, _, name = target.partition("/")
            found.setdefault(key, {})[tensor] = (owner, name)
    return found


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2


def pack_by_rows(matrix: Tensor, pack: Callable[[Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What packs a few rows at a time, on a whole matrix: memory peaks at what is kept and one piece."""
    whole: dict[str, Tensor] = {}
    done = 0
    for rows in matrix.split(max(1, PIECE_NUMBERS // max(1, matrix.shape[1]))):
        for suffix, piece in pack(rows).items():
            if suffix not in whole:
                whole[suffix] = piece.new_empty((len(matrix), *piece.shape[1:]))
            whole[suffix][done : done + len(rows)] = piece
        done += len(rows)
    return whole
