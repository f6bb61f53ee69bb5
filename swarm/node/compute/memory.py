"""What a model's cells cost in a device's memory, and what is left for KV. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from swarm.decoder.description import KEY_BLOCK, Decoder, Slot
from swarm.decoder.device import Device
from swarm.decoder.forms import Forms
from swarm.decoder.plain import PLAIN
from swarm.decoder.sharing import MOST_SHARED_BYTES
from swarm.errors import RequestError
from swarm.node.batches import LARGEST_CHUNK, MOST_SESSIONS, SAMPLED_ROWS
from swarm.parts import Part
from swarm.plan.costs import CellCosts
from swarm.sepweight.manifest import ITEM_BYTES, Manifest, layer_key
from swarm.sizes import format_size

SPARED_SHARE = 0.1  # of the free memory: left for the rest of the machine
RESERVED_POSITIONS = 2048  # KV kept free for each layer, or one whole context where that is shorter
LOGIT_BYTES = 48  # of each logit while tokens are drawn: scores, their order, noise
KV_CONTEXTS = 16  # KV for so many whole reserves is the most that a node takes


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What one model's weights, KV and scratch cost on a device, in bytes.

    running: while batches run. making: besides, while a layer's matrix is loaded. head_making: besides, while an end's is.
    """

    costs: CellCosts
    weight_costs: CellCosts
    running: int
    making: int
    head_making: int

    @property
    def scratch(self) -> int:
        """What batches take that run while layers are loaded."""
        return self.running + self.making

    @property
    def kv_layer_bytes(self) -> int:
        """Of what a layer costs: its KV reserve."""
        return self.costs.layer - self.weight_costs.layer

    @property
    def most_kv_layer_bytes(self) -> int:
        """KV of a layer beyond which more is of no use; what no KV needs stays free for others."""
        return KV_CONTEXTS * self.kv_layer_bytes

    def weights(self, part: Part) -> int:
        """Bytes of a part's weights."""
        return self.weight_costs.of_part(part)

    def fixed(self, part: Part) -> int:
        """Bytes that a part needs, KV apart."""
        return self.scratch + part.end * self.head_making + self.weights(part)

    def kv_reserve(self, part: Part) -> int:
        """Bytes of KV that are kept free for a part at least."""
        return part.layer_count * self.kv_layer_bytes

    def needed(self, part: Part) -> int:
        """Bytes that a part takes at least, all layers kept."""
        return self.fixed(part) + self.kv_reserve(part)

    def useful(self, part: Part) -> int:
        """Bytes beyond which a part gains nothing from more memory."""
        return self.fixed(part) + part.layer_count * self.most_kv_layer_bytes


FLOAT32 = ITEM_BYTES["float32"]


def model_memory(manifest: Manifest, decoder: Decoder, forms: Forms, dtype: str | None, device: Device) -> ModelMemory:
    """Costs of each kind of cell. dtype: what weights are converted to, None as stored."""
    dtype = dtype or manifest.dtype
    stored, item = ITEM_BYTES[manifest.dtype], ITEM_BYTES[dtype]
    embedding = decoder.vocabulary * decoder.hidden * item
    fillings = [slots for slots in decoder.fillings.values() if slots[0].matrix]
    layers = [
        [forms.costs(layer_key(one), slots, dtype, device) for slots in fillings] for one in range(decoder.layers)
    ]
    matrices = max(layers, key=lambda one: sum(matrix.resident for matrix in one))  # they may differ in their forms
    head = (
        PLAIN.costs((decoder.vocabulary, decoder.hidden), stored, item, device)
        if forms.is_tied and not device.is_host
        else forms.costs("end", [decoder.head], dtype, device)
    )
    head_norms = (decoder.heads + decoder.kv_heads) * decoder.head_dim if "query_norm" in decoder.slots else 0
    norm_item = FLOAT32 if decoder.norm == "rms_one" else item
    vectors = _vector_bytes(decoder.slots.values(), item, norm_item) + norm_item * head_norms
    layer = sum(matrix.resident for matrix in matrices) + vectors
    end = head.resident + _vector_bytes([decoder.final_norm], item, norm_item)
    begin = 0 if device.is_host else embedding
    kv = min(decoder.context, RESERVED_POSITIONS) * decoder.cache_bytes(item)
    running = device.own_bytes + running_bytes(decoder, item)
    making = max(matrix.making for matrix in matrices)
    if not all(matrix.moves for matrix in matrices):  # what layers are read into is made beside those that are kept
        making = max(making, layer)
    head_making = max(0, head.making - running - making)  # it is loaded once, mostly before anything runs
    shared = begin if forms.is_tied else 0  # in a part that has both
    return ModelMemory(
        costs=CellCosts(decoder.layers, begin, layer + kv, end + head_making, shared=shared),
        weight_costs=CellCosts(decoder.layers, begin, layer, end, shared=shared),
        running=running,
        making=making,
        head_making=head_making,
    )


def shared_scratch(memories: Collection[ModelMemory]) -> int:
    """Bytes for several models' scratch: one of them runs while a matrix of one is loaded."""
    return max(one.running for one in memories) + max(one.making for one in memories)


def _vector_bytes(slots: Iterable[Slot], item: int, norm_item: int) -> int:
    """Of norms and biases; norms have numbers of their own size."""
    return sum(
        shape[0] * (item if slot.matrix else norm_item)
        for slot in slots
        for shape in slot.tensors.values()
        if len(shape) == 1
    )


def running_bytes(decoder: Decoder, item: int) -> int:
    """Scratch while the largest batch runs: a prompt's chunk, and a token of every other session.

    Tables of positions, and activations of one layer, masks and what shares a call of attention, or logits of a few rows
    while tokens are drawn from them. item: bytes of a number.
    """
    tokens = LARGEST_CHUNK + MOST_SESSIONS
    keys = decoder.context + KEY_BLOCK
    together = min(MOST_SHARED_BYTES // item, MOST_SESSIONS * keys * decoder.cache_bytes(1))
    attention = tokens * (2 * decoder.fused_width + 2 * decoder.heads * decoder.head_dim) + together
    activations = max(tokens * 2 * decoder.mlp_width, attention) + tokens * 4 * decoder.hidden
    windows = len({kind.window for kind in decoder.kinds})
    masks = (windows * LARGEST_CHUNK + (tokens if decoder.alibi else 0)) * keys
    width = decoder.heads if decoder.alibi else sum(2 * rope.rotated for rope in decoder.ropes)
    tables = 2 * width * max(512, decoder.context)  # their length is a power of two
    drawing = SAMPLED_ROWS * decoder.vocabulary * LOGIT_BYTES + tokens * decoder.hidden * item
    return tables * item + max((activations + masks) * item, drawing)


def check_budget(name: str, memory: ModelMemory, budget: int) -> None:
    """Raise RequestError if not even one layer and its KV fit."""
    needed = memory.costs.layer + memory.scratch
    if budget < needed:
        raise RequestError(
            f"{format_size(budget)} is too little for one layer of {name}: "
            f"{format_size(memory.weight_costs.layer)} of weights, {format_size(memory.kv_layer_bytes)} of KV and "
            f"{format_size(memory.scratch)} of scratch make {format_size(needed)}; "
            f"pass --memory {needed // 10**6 + 1}MB or more"
        )


def check_part(name: str, memory: ModelMemory, part: Part, budget: int) -> None:
    """Raise RequestError if a part that was asked for does not fit with its KV, all layers kept."""
    needed = memory.needed(part)
    if needed > budget:
        raise RequestError(
            f'part "{part}" of {name} needs {format_size(needed)} with its KV, {format_size(budget)} may be used; '
            "pass a smaller --part or a larger --memory"
        )
