"""In which form each matrix of a sepweight directory is stored, in which it is computed with, and which are joined.

Imports no torch: what is loaded and what memory it is reckoned to take follow from the same plan.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace

from swarm.decoder import half
from swarm.decoder.description import Decoder, Slot
from swarm.decoder.device import Device
from swarm.decoder.scheme import MatrixCosts, Scheme
from swarm.decoder.schemes import SCHEMES, quantisation_in, scheme_of, variant_of
from swarm.errors import RequestError, WeightsError
from swarm.sepweight.manifest import ITEM_BYTES, PLAIN_NAME, Manifest, TensorEntry, layer_key
from swarm.sepweight.scheme import PIECE_NUMBERS, Quantisation

# Of directories whose matrices are as a quantised checkpoint had them: each has a form of its own.
KEPT = ("gguf", "gptq", "awq")
PACKING_BYTES = 12  # of a number while a piece of a matrix is packed
HEAD_NUMBERS = 64 << 20  # of a head go into one product: each costs int8 0.4 ms for what it makes of activations
HEAD_ROWS = 1024  # whole blocks, of whatever size a processor's kernels have


@dataclass(frozen=True, slots=True)
class Joint:
    """Matrices with one input that make one product, rows behind rows.

    suffixes: of the tensors that are stored for each of them. cut: those rows of a lone one that are meant; None: all.
    """

    scheme: Scheme
    slots: Sequence[Slot]
    suffixes: Collection[str]
    cut: range | None = None

    @property
    def is_packed(self) -> bool:
        """Whether they are stored in the scheme; else they are plain, and packed as they are loaded."""
        return self.scheme.name == PLAIN_NAME or "weight" not in self.suffixes

    @property
    def rows(self) -> int:
        return sum(slot.shape[0] for slot in self.slots) if self.cut is None else len(self.cut)

    def pieces(self, item: int, device: Device) -> list[Joint]:
        """The same product in several, each of which is made beside those that are there; of a lone matrix."""
        [slot] = self.slots
        rows, columns = slot.shape
        is_half = self.scheme.name == PLAIN_NAME and half.may_be_half((rows, columns), item, device)
        count = -(-rows * columns // (half.HEAD_NUMBERS if is_half else HEAD_NUMBERS))
        step = -(-rows // count // HEAD_ROWS) * HEAD_ROWS
        if rows <= step or not self.scheme.may_be_joined:
            return [self]
        return [replace(self, cut=range(start, min(start + step, rows))) for start in range(0, rows, step)]

    def costs(self, stored: int, item: int, device: Device) -> MatrixCosts:
        """stored, item: bytes of a plain number in the file, and of one that is computed with."""
        columns = self.slots[0].shape[1]
        costs = self.scheme.costs((self.rows, columns), stored, item, device)
        if len(self.slots) > 1:
            costs = replace(costs, making=costs.making + self.rows * columns * stored)
        if self.is_packed:
            return costs
        largest = min(self.rows, max(slot.shape[0] for slot in self.slots)) * columns
        packing = largest * stored + min(largest, PIECE_NUMBERS) * PACKING_BYTES
        return replace(costs, making=costs.making + packing)


def misfits(quantisation: Quantisation[Scheme], decoder: Decoder) -> list[str]:
    """Where another form of a kind is taken than was asked for, for the user."""
    columns = {slot.shape[1]: quantisation.layers for slot in decoder.slots.values() if slot.matrix}
    asked = [*columns.items(), (decoder.hidden, quantisation.head)]
    return [
        f"{scheme.fitting(width).name} is taken for matrices of {width} columns, which {scheme.name} does not divide"
        for width, scheme in dict.fromkeys(asked)
        if scheme.fitting(width).name != scheme.name
    ]


class Forms:
    """The forms of a directory's matrices."""

    def __init__(self, manifest: Manifest, where: object, quantisation: Quantisation[Scheme] | None = None) -> None:
        """where: what holds the weights, for messages. quantisation: in which they are wanted; None: as they are.

        Raises WeightsError if another one than theirs is asked of matrices that are quantised.
        """
        self._manifest = manifest
        self._where = where
        self._wanted = None if quantisation is None or quantisation.is_plain else quantisation
        if self._wanted is not None and manifest.scheme != PLAIN_NAME:
            raise WeightsError(
                f"{where} is quantised already ({manifest.scheme}); leave --quantize out, or give the directory that it "
                "was made from"
            )

    @property
    def name(self) -> str:
        """Of the quantisation in which they are computed with."""
        return self._manifest.scheme if self._wanted is None else self._wanted.name

    def variant(self, dtype: str) -> str:
        return variant_of(self.name, self._manifest.dtype, dtype)

    @property
    def is_tied(self) -> bool:
        """Whether the head multiplies with the embedding itself."""
        return bool(self._manifest.aliases.get("end")) and (
            self._wanted is None or self._wanted.head.name == PLAIN_NAME
        )

    def entries(self, key: str, slot: Slot) -> dict[str, TensorEntry]:
        """The tensors that stand for a matrix, by what their names end in."""
        found: dict[str, TensorEntry] = {}
        for name in self._manifest.tensor_names(key):
            stem, _, suffix = name.rpartition(".")
            if stem == slot.tensor and suffix != "bias":
                owner, tensor = self._manifest.resolve(key, name)
                found[suffix] = self._manifest.files[owner].tensors[tensor]
        return found

    def stored(self, key: str, slot: Slot) -> Scheme:
        """The form in which a matrix is stored. Raises WeightsError for one that no scheme knows."""
        entries = self.entries(key, slot)
        rows, columns = slot.shape
        found = scheme_of(entries, (rows, columns))
        if found is None:
            known = ", ".join(scheme.name for scheme in SCHEMES)
            told = ", ".join(f"{suffix} {one.dtype} {list(one.shape)}" for suffix, one in entries.items()) or "nothing"
            raise WeightsError(
                f'{self._where} stores its matrices as "{self._manifest.scheme}", and {key}/{slot.tensor} '
                f"{list(slot.shape)} as {told}; this version reads {known}"
            )
        return found

    def joints(self, key: str, slots: Sequence[Slot]) -> list[Joint]:
        """How the matrices of a role are computed with: those of one form as one."""
        joints: list[Joint] = []
        for slot in slots:
            scheme = self.stored(key, slot)
            if self._wanted is not None:
                scheme = (self._wanted.head if key == "end" else self._wanted.layers).fitting(slot.shape[1])
            suffixes = frozenset(self.entries(key, slot))
            last = joints[-1] if joints else None
            if last is not None and (last.scheme, last.suffixes) == (scheme, suffixes) and scheme.may_be_joined:
                joints[-1] = replace(last, slots=[*last.slots, slot])
            else:
                joints.append(Joint(scheme, [slot], suffixes))
        return joints

    def products(self, key: str, slots: Sequence[Slot], item: int, device: Device) -> list[Joint]:
        """How the matrices of a role are made on a device: on a host, what a head takes meanwhile is little.

        item: bytes of a number that is computed with.
        """
        joints = self.joints(key, slots)
        if key != "end" or not device.is_host:
            return joints
        return [piece for joint in joints for piece in joint.pieces(item, device)]

    def check(self, decoder: Decoder) -> None:
        """Raise WeightsError if a matrix is not in the form that the manifest tells, or its numbers are too few."""
        if self._manifest.scheme in KEPT:
            expected = None
        else:
            try:
                expected = quantisation_in(self._manifest.scheme)
            except RequestError:
                known = ", ".join([*(scheme.name for scheme in SCHEMES), *KEPT])
                raise WeightsError(
                    f'{self._where} stores its matrices as "{self._manifest.scheme}"; this version reads {known}'
                ) from None
        for number in range(decoder.layers):
            for slot in decoder.slots.values():
                if slot.matrix:
                    self._check_matrix(layer_key(number), slot, expected and expected.layers)
        self._check_matrix("end", decoder.head, expected and expected.head)

    def _check_matrix(self, key: str, slot: Slot, expected: Scheme | None) -> None:
        found = self.stored(key, slot)
        wanted = None if expected is None else expected.fitting(slot.shape[1])
        if wanted is not None and wanted.name != found.name:
            raise WeightsError(
                f'{self._where} says that its matrices are stored as "{self._manifest.scheme}", but '
                f"{key}/{slot.tensor} is {found.name}; convert the checkpoint again"
            )

    def doubts(self, decoder: Decoder, dtype: str) -> list[str]:
        """What a user should know of computing with these."""
        keys = [("end", decoder.head), *((layer_key(0), slot) for slot in decoder.slots.values() if slot.matrix)]
        schemes = [joint.scheme for key, slot in keys for joint in self.joints(key, [slot])]
        found = [scheme.doubt(dtype) for scheme in schemes]
        if self._wanted is not None:
            found += misfits(self._wanted, decoder)
        return list(dict.fromkeys(filter(None, found)))

    def kind_of(self, decoder: Decoder, number: int) -> Hashable:
        """In which forms a layer's matrices are: the same for layers of which one may be read in another's place."""
        matrices = [slots for slots in decoder.fillings.values() if slots[0].matrix]
        joints = [joint for slots in matrices for joint in self.joints(layer_key(number), slots)]
        return tuple((joint.scheme, joint.rows) for joint in joints)

    def costs(self, key: str, slots: Sequence[Slot], dtype: str, device: Device) -> MatrixCosts:
        """Of the matrices of a role. dtype: that is computed in."""
        stored, item = ITEM_BYTES[self._manifest.dtype], ITEM_BYTES[dtype]
        each = [joint.costs(stored, item, device) for joint in self.products(key, slots, item, device)]
        moves = all(one.moves for one in each)
        return MatrixCosts(sum(one.resident for one in each), max(one.making for one in each), moves)
