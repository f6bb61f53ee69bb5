"""Chooses which waiting steps run together. Pure: candidates in, choices out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from msgspec import Struct

from swarm.node.batches import LARGEST_CHUNK, Batch, BatchResult, ServedPart, WorkSpan

STEP_SECONDS = 0.1  # a batch with prompt tokens should take no longer, so that it stalls nobody
DECODE_SHARE = 0.4  # of a decode step; at 0.5 a stream on three nodes slowed by 2.6 times while 1,500 tokens prefilled
# Of what a chunk costs whatever is in it, at least, where many wait. Pieces of 8 tokens took 40 ms, their tokens 3 of these:
# the last of 64 prompts of 64 tokens began after more than a minute.
CROWD_SHARE = 0.5
SMALLEST_CHUNK = 8
# Of a chunk: so long a rest of a prompt goes with it. The last 4 of 64 tokens took a quarter of the time to the first one.
REST_SHARE = 0.25
MOST_SPANS = 512
LEARNING = 0.2  # share of what a pace takes over from a further chunk
MOST_STRETCH = 2.0  # of what one chunk cost beyond what was expected, as far as it counts


class Candidate(Struct, frozen=True):
    """A session's next waiting step.

    can_cut: it may be run in pieces (a prompt at the first hop). is_suspect: a batch with it has failed.
    """

    key: tuple[str, int]
    group: Hashable  # steps of one group run the same part of the same model
    due: float  # seconds; who is due first runs first
    length: int
    is_prompt: bool
    can_cut: bool
    is_suspect: bool = False


def choose_steps(
    candidates: Sequence[Candidate], prompt_tokens: int, *, prompt_leads: bool = False
) -> list[tuple[tuple[str, int], int]]:
    """(key, length) of the steps to run now: every decode step of one group, then prompts up to `prompt_tokens`.

    Decode steps go first; among equals what is due first. The first prompt always gets in, cut if it can be. A suspect
    runs alone: what fails then is its own fault, and nobody else's answer.
    prompt_leads: the group is the first prompt's, for that had to wait for another group's decode steps.
    """
    if not candidates:
        return []
    ordered = sorted(candidates, key=lambda candidate: (candidate.is_prompt, candidate.due))
    first = ordered[0]
    if prompt_leads:
        first = next((candidate for candidate in ordered if candidate.is_prompt), first)
    chosen: list[tuple[tuple[str, int], int]] = []
    left = prompt_tokens
    has_prompt = False
    for candidate in ordered:
        if candidate.group != first.group or len(chosen) == MOST_SPANS:
            continue
        if candidate is not first and (first.is_suspect or candidate.is_suspect):
            continue
        if not candidate.is_prompt:
            chosen.append((candidate.key, candidate.length))
            continue
        length = _cut(candidate.length, left, prompt_tokens) if candidate.can_cut else candidate.length
        if length == 0 or (has_prompt and length > left and not candidate.can_cut):
            continue
        chosen.append((candidate.key, length))
        has_prompt = True
        left -= length
    return chosen


def _cut(length: int, left: int, prompt_tokens: int) -> int:
    """How much of a prompt runs now: what is left of a batch, and a rest that would be a batch of its own for little."""
    if left <= 0:
        return 0
    beyond = min(REST_SHARE * prompt_tokens, max(0, LARGEST_CHUNK - prompt_tokens))
    return length if length <= left + beyond else left


def misses_first_prompt(candidates: Sequence[Candidate], chosen: Sequence[tuple[tuple[str, int], int]]) -> bool:
    """Whether the prompt that is due first has to wait for another group's steps."""
    first = min((one for one in candidates if one.is_prompt), key=lambda one: one.due, default=None)
    return first is not None and all(key != first.key for key, _ in chosen)


def chunk_tokens(
    token_seconds: float, decode_seconds: float | None, chunk_seconds: float = 0.0, crowd: float = 1.0
) -> int:
    """How many prompt tokens a batch may hold.

    token_seconds: measured cost of one more prompt token at this hop (0: not measured); chunk_seconds: of a chunk besides.
    decode_seconds: what a decode batch takes here if others are decoding, else None; their tokens should come at most about
    twice as slowly, and what a chunk costs besides they pay for anyway. crowd: prompts that wait, for each session that
    decodes; where that is more than one, they take more of each step, and enough for what a chunk costs besides.
    """
    if token_seconds <= 0:
        return 64
    # Where what a chunk costs besides takes longer than that, its tokens may take as long again: layers come from disk.
    alone = chunk_seconds if chunk_seconds >= STEP_SECONDS else STEP_SECONDS - chunk_seconds
    limit = alone
    if decode_seconds is not None:
        share = DECODE_SHARE * decode_seconds
        limit = min(alone, share if crowd <= 1 else crowd * max(share, CROWD_SHARE * chunk_seconds))
    return max(SMALLEST_CHUNK, min(LARGEST_CHUNK, int(limit / token_seconds)))


def _is_plain_prompt(span: WorkSpan) -> bool:
    """Whether what it costs is told by its tokens and layers: not so where many rows of logits are looked at."""
    return span.is_prompt and (span.want is None or span.want.rows == 1)


class Pace:
    """Running measurements of what a model costs here: one token in one layer, in the end, a prompt's in one layer.

    compute_seconds: of one token in one layer, what is no waiting for a disk. session_seconds: what each further session's
    token costs in one layer. chunk_seconds: what a prompt's chunk costs in
    one layer besides its tokens. stall_seconds: of a batch, that layers from disk were waited for; hit_rate: of these
    layers, what share was there in time; source_rate: bytes a second that they come with.
    """

    def __init__(self) -> None:
        self.layer_seconds = self.end_seconds = self.prompt_seconds = self.chunk_seconds = 0.0
        self.compute_seconds = self.stall_seconds = self.source_rate = self.session_seconds = 0.0
        self.hit_rate = 1.0
        self._streamed = 0

    def load(self, served: ServedPart) -> None:
        """Take over what was timed when a part was loaded; what has been timed before stands, with as much from disk."""
        if served.streamed != self._streamed:
            self._streamed = served.streamed
            self.layer_seconds = self.prompt_seconds = self.chunk_seconds = self.stall_seconds = 0.0
        self.layer_seconds = self.layer_seconds or served.layer_seconds
        self.compute_seconds = self.compute_seconds or served.compute_seconds
        self.end_seconds = self.end_seconds or served.end_seconds
        self.prompt_seconds = self.prompt_seconds or served.prompt_seconds
        self.chunk_seconds = self.chunk_seconds or served.chunk_seconds

    def chunk(self, layers: int, decode_seconds: float | None = None, crowd: float = 1.0) -> int:
        """How many prompt tokens a batch may hold in so many layers; decode_seconds, crowd as for chunk_tokens."""
        return chunk_tokens(layers * self.prompt_seconds, decode_seconds, layers * self.chunk_seconds, crowd)

    def decode_seconds(self, layers: int, sessions: int) -> float:
        """A token of each of so many sessions through so many layers."""
        return layers * (self.layer_seconds + (sessions - 1) * self.session_seconds)

    def mean_prompt_seconds(self, layers: int) -> float:
        """One token of a long prompt through one layer, where a node computes so many of them."""
        return self.prompt_seconds + self.chunk_seconds / self.chunk(max(1, layers))

    def note(self, batch: Batch, result: BatchResult) -> None:
        """Learn from a batch; mixed ones teach nothing certain."""
        layers = batch.part.layer_count
        if not layers:
            return
        self.source_rate = result.source_rate
        self.stall_seconds += LEARNING * (result.stall_seconds - self.stall_seconds)
        if result.streamed:
            self.hit_rate += LEARNING * (1 - result.late / result.streamed - self.hit_rate)
        seconds = max(0.0, result.seconds - self.end_seconds * bool(result.drawn))
        if len(batch.spans) == 1 and not batch.spans[0].is_prompt:
            computing = max(0.0, seconds - result.stall_seconds)
            self.layer_seconds += LEARNING / 2 * (seconds / layers - self.layer_seconds)
            self.compute_seconds += LEARNING / 2 * (computing / layers - self.compute_seconds)
        elif all(_is_plain_prompt(span) for span in batch.spans) and batch.tokens >= 16:
            self._note_chunk(seconds / layers, batch.tokens)
        else:
            self._note_sessions(batch.spans, seconds / layers)

    def _note_sessions(self, spans: Sequence[WorkSpan], seconds: float) -> None:
        """What is left of a batch's time is the further sessions' that decode in it."""
        tokens = sum(span.length for span in spans if span.is_prompt)
        steps = sum(not span.is_prompt for span in spans)
        base, further = (
            (self.chunk_seconds + tokens * self.prompt_seconds, steps) if tokens else (self.layer_seconds, steps - 1)
        )
        if further > 0:
            self.session_seconds += LEARNING * (max(0.0, seconds - base) / further - self.session_seconds)

    def _note_chunk(self, seconds: float, tokens: int) -> None:
        """The line through a chunk's costs is stretched as a whole: most of a short one is not its tokens' doing, and what
        it took too long would be taken for a much higher price of each.
        """
        expected = self.chunk_seconds + self.prompt_seconds * tokens
        if not expected:
            self.prompt_seconds = seconds / tokens
            return
        stretch = 1 + LEARNING * (min(MOST_STRETCH, seconds / expected) - 1)
        self.chunk_seconds *= stretch
        self.prompt_seconds *= stretch
