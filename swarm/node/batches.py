"""What the deciding side asks of the computing side, and what comes back. Plain data; knows no tensors' insides."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from swarm.messages.sampling import Sampling
from swarm.messages.tensors import WireTensor
from swarm.models import ModelKey
from swarm.parts import Part

LARGEST_CHUNK = 512  # positions of a prompt in one batch
SAMPLED_ROWS = 16  # whose logits are computed at a time: each is as wide as the vocabulary
MOST_SESSIONS = 256
DRAWN = -1


class Want(Struct, frozen=True):
    """What a span's last rows should give: a token each, and how likely some are.

    rows: how many. position: of the first one's token. ids: where a penalty needs them: those before a token's position
    count, more may be added meanwhile. given: an id a row whose log-probability is wanted (DRAWN: the token itself), or none
    at all. top: how many likeliest ids of each row, with theirs. All before anything is filtered, at temperature 1.
    """

    sampling: Sampling
    position: int
    ids: Sequence[int] | None
    rows: int = 1
    given: tuple[int, ...] = ()
    top: int = 0


class Drawn(Struct, frozen=True):
    """What came of a Want, by row. given: log-probabilities; top: ids and theirs, the likeliest first."""

    ids: tuple[int, ...]
    given: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


class WorkSpan(Struct, frozen=True):
    """New positions of one session. Its cache holds at least `position` positions and is truncated to that first."""

    session: str
    attempt: int
    stage: int
    position: int
    length: int
    reserve: int
    is_prompt: bool
    want: Want | None = None


class Batch(Struct, frozen=True):
    """The steps that one hop runs together. inputs: one tensor a span. groups: spans a message, in order."""

    number: int
    model: ModelKey
    part: Part
    spans: tuple[WorkSpan, ...]
    inputs: tuple[WireTensor, ...]
    groups: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(span.length for span in self.spans)


class BatchResult(Struct, frozen=True):
    """outputs: one packed tensor a group. drawn: for each span that wants anything, in order."""

    number: int
    outputs: tuple[WireTensor, ...]
    drawn: tuple[Drawn, ...]
    seconds: float
    stall_seconds: float = 0.0  # of these, that layers from disk were waited for
    source_rate: float = 0.0  # bytes a second that they were read with lately; 0: none are
    streamed: int = 0  # how many there were
    late: int = 0  # of these, how many were waited for


class ServedPart(Struct, frozen=True):
    """What the deciding side must know of a part that is loaded."""

    model: ModelKey
    part: Part
    layers: int
    context: int
    vocabulary: int
    hidden: int
    dtypes: tuple[str, ...]  # of hidden states that it takes
    cache_bytes: int  # a position in one layer
    cache_block: int  # positions beyond the first block are reserved in whole ones
    kv_capacity: int  # bytes beyond which KV is of no use, for all sessions together
    layer_seconds: float  # one token through one layer, measured at load
    end_seconds: float  # one token through the final norm and head, likewise; 0 without them
    prompt_seconds: float  # one more token of a prompt's chunk through one layer, likewise
    chunk_seconds: float = 0.0  # a chunk through one layer, besides what its tokens cost
    compute_seconds: float = 0.0  # of layer_seconds, what is no waiting for a disk; 0: all
    streamed: int = 0  # layers that come from disk
    kind: str = ""  # of processor: those of one kind round alike

    def reserved_positions(self, positions: int) -> int:
        """How many positions a cache for `positions` of them takes."""
        return positions if positions < self.cache_block else -(-positions // self.cache_block) * self.cache_block

    def kv_bytes(self, part: Part, positions: int) -> int:
        """What a session of so many positions takes in some of the layers."""
        return self.reserved_positions(positions) * part.layer_count * self.cache_bytes
