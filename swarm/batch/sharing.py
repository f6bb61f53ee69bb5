"""How a batch's memory is split: which layers are kept, which texts run together, what is spilled to disk. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.batch.texts import Text, TextBytes, group
from swarm.errors import RequestError
from swarm.node.compute.models import LocalWeights
from swarm.node.residence import Residence, settle
from swarm.parts import Part
from swarm.plan.costs import most_spared
from swarm.sepweight.manifest import ITEM_BYTES
from swarm.sizes import format_size


@dataclass(frozen=True, slots=True)
class Share:
    """How the memory is split. groups: of texts to be answered. given: texts that go through once, spilled or not."""

    residence: Residence
    groups: Sequence[Sequence[Text]]
    given: Sequence[Text]
    is_spilled: bool

    def describe(self, layers: int) -> str:
        """What the user should know of it. layers: of the part."""
        texts, streamed = sum(map(len, self.groups)) + len(self.given), len(self.residence.streamed)
        said = f"{texts} texts"
        if len(self.groups) > 1:
            said += f", answers in {len(self.groups)} groups, for there is not memory for all at once"
        if self.is_spilled:
            said += "; hidden states go to disk between layers"
        return f"{said}; {streamed} of {layers} layers come from disk each step" if streamed else said


def share_memory(
    weights: LocalWeights, part: Part, dtype: str | None, budget: int, texts: Sequence[Text], piece_tokens: int
) -> Share:
    """All texts together if they can be, with as many layers kept as there is room for then.

    texts: all of the batch. piece_tokens: that are run together at most, if no text has more. Raises RequestError.
    """
    memory, decoder = weights.memory, weights.decoder
    item = ITEM_BYTES[dtype or weights.manifest.dtype]
    position = decoder.cache_bytes(item)
    sizes = TextBytes(position * part.layer_count, position, decoder.hidden * item)
    answered = [text for text in texts if not (text.finish or text.is_given)]
    given = [text for text in texts if text.is_given]
    is_scored = any(not text.finish for text in given)
    layer = memory.weight_costs.layer
    fixed = memory.fixed(part)
    streamed = most_spared(part.layer_count) * layer
    room = budget - (fixed - streamed)  # for texts, with as few layers kept as can be
    passing = sizes.of_piece(given, piece_tokens) if is_scored else 0
    held = sizes.of_given(given) if is_scored else 0
    largest = max([passing, *map(sizes.of, answered)])
    if room < largest:
        raise RequestError(
            f"{format_size(budget)} is too little: {weights.name} needs {format_size(fixed - streamed)} with as many layers "
            f"as can be on disk, and the longest text {format_size(largest)}; pass --memory "
            f"{(fixed - streamed + largest) // 10**6 + 1}MB or more, or fewer --max-tokens"
        )
    is_spilled = passing + held > room
    wanted = min(room, max(sum(map(sizes.of, answered)), passing if is_spilled else passing + held))
    residence = settle(weights.name, part, fixed, layer, budget - wanted, None)
    return Share(residence, list(group(answered, sizes, wanted)), given if is_scored else (), is_spilled)
