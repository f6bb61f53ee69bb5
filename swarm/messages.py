"""Every message that crosses the wire, one frozen struct each, validated when decoded.

Names a model, a part, a session: never code, a path or a memory address. Knows neither sockets nor bytes.
Channels: everything travels on `control` except Steps, Credit, Probe, their answers and Tokens, which travel on `data`.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL = 1

NodeId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
ModelId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
# Only ever looked up among ids that are known, so their length is all that needs checking: a pattern would be most of
# what it costs to decode a step.
SessionId = Annotated[str, Meta(min_length=32, max_length=32)]
KnownModelId = Annotated[str, Meta(min_length=32, max_length=32)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=500)]
MOST_SPEC = 200
Spec = Annotated[str, Meta(max_length=MOST_SPEC)]
Address = Annotated[str, Meta(max_length=80, pattern=r"^[0-9A-Za-z.:\[\]%_-]+:[0-9]{1,5}$")]
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Small = Annotated[int, Meta(ge=0, le=1 << 24)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Channel = Literal["control", "data"]
ClaimState = Literal["unplaced", "loading", "serving", "draining"]
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "uint8"]

ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1}


class WireTensor(Struct, frozen=True):
    """A dense tensor in row-major order; `data` holds prod(shape) items and is never written again."""

    dtype: Dtype
    shape: tuple[Small, ...]
    data: bytes | memoryview

    def rows(self, start: int, stop: int) -> WireTensor:
        """Rows start..stop as a tensor over the same memory."""
        view = memoryview(self.data)
        row_bytes = len(view) // self.shape[0]
        return WireTensor(self.dtype, (stop - start, *self.shape[1:]), view[start * row_bytes : stop * row_bytes])


def ids_tensor(ids: list[int]) -> WireTensor:
    """Token ids as an int32 tensor [len(ids)]."""
    return WireTensor("int32", (len(ids),), struct.pack(f"<{len(ids)}i", *ids))


def ids_of(tensor: WireTensor) -> list[int]:
    """The token ids of an int32 tensor."""
    return list(struct.unpack(f"<{tensor.shape[0]}i", tensor.data))


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message is."""


# Who is there ---------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """First on every connection: who dialled. `node` must be the hash of the key that authenticated."""

    node: NodeId
    kind: Literal["node", "client"]
    incarnation: Count


class Welcome(Message, frozen=True, tag="welcome"):
    """Answers Hello: who listens, and on which port it takes data."""

    node: NodeId
    incarnation: Count
    name: Name
    data_port: Port


class Claim(Struct, frozen=True, kw_only=True):
    """A node's word that it serves (or loads) a part of a model."""

    model: ModelId
    name: Name
    layers: Small
    part: Spec
    state: ClaimState
    layer_seconds: Seconds = 0.0
    end_seconds: Seconds = 0.0
    prompt_seconds: Seconds = 0.0
    kv_free_positions: Count = 0
    kind: Name = ""  # of processor that computes it: those of one kind round alike
    loaded_bytes: Count = 0  # so far, of what is loading: one that stands still is not waited for


class Capacity(Struct, frozen=True, kw_only=True):
    """How much of one model a node that may move could hold, KV included; the budget is what other models leave."""

    model: ModelId
    name: Name
    layers: Small
    layer_bytes: Count
    begin_bytes: Count
    end_bytes: Count
    budget_bytes: Count
    present: Spec = "f"  # what the node has the weights of


class Beat(Message, frozen=True, tag="beat"):
    """What a node says of itself each second: the truth about it."""

    node: NodeId
    incarnation: Count
    sequence: Count  # of every word about itself, asked for or not
    name: Name
    addresses: Annotated[list[Address], Meta(max_length=8)]
    device: Name
    memory_total: Count
    memory_free: Count
    tick: Count
    round: Count = 0  # of the words that it gives each second by itself
    layer_seconds: Seconds = 0.0
    sessions: Small = 0
    queue: Small = 0
    refused: Count = 0
    dropped: Count = 0
    resent: Count = 0
    passed_over: Count = 0  # batches computed although another node had the machine's cores, and did not go on
    caches: Small = 0  # that its engines hold, one a session and part
    claims: Annotated[list[Claim], Meta(max_length=16)] = []
    capacities: Annotated[list[Capacity], Meta(max_length=16)] = []
    intent: Spec = ""  # the part that this node would move to next, if nobody of a lower id has an intent too
    link_seconds: Seconds = 0.0  # what a hop to it costs a token; 0: not measured
    leaving: bool = False
    memory_budget: Count = 0  # of memory_total, what the node may use; 0: not told
    machine: Name = ""  # the same for nodes that share processors; "": not known
    rtts: Annotated[dict[NodeId, Seconds], Meta(max_length=512)] = {}
    rates: Annotated[dict[NodeId, Count], Meta(max_length=512)] = {}  # bytes a second to nodes that it sends data to
    peers: Annotated[dict[NodeId, Address], Meta(max_length=512)] = {}


class BeatAck(Message, frozen=True, tag="beat-ack"):
    """Answers a Beat, for the round-trip time."""

    sequence: Count


class Goodbye(Message, frozen=True, tag="goodbye"):
    """This incarnation leaves now."""

    node: NodeId
    incarnation: Count


class AskPeers(Message, frozen=True, tag="ask-peers"):
    """The peer table, please, from the first id above `after`."""

    after: str = ""


class PeerPage(Message, frozen=True, tag="peer-page"):
    """The last beats of live nodes in id order; ask again after the last one if there are more."""

    nodes: Annotated[list[Beat], Meta(max_length=64)]
    more: bool


# Models ---------------------------------------------------------------------------------------------------------------


class DocumentCard(Struct, frozen=True):
    """A file that clients fetch by digest."""

    digest: Digest
    bytes: Count


class ModelCard(Message, frozen=True, tag="model-card"):
    """What a client must know of a model before it opens a session."""

    model: ModelId
    name: Name
    layers: Small
    context: Small
    vocabulary: Small
    end_ids: Annotated[list[TokenId], Meta(max_length=16)]
    documents: Annotated[dict[Name, DocumentCard], Meta(max_length=16)]


class AskModel(Message, frozen=True, tag="ask-model"):
    model: ModelId


class AskFile(Message, frozen=True, tag="ask-file"):
    """A piece of a document, from `offset` on."""

    digest: Digest
    offset: Count


class FileChunk(Message, frozen=True, tag="file-chunk"):
    """Carries a uint8 tensor; the file has `total` bytes."""

    digest: Digest
    offset: Count
    total: Count


class AskHold(Message, frozen=True, tag="ask-hold"):
    """Go on serving these cells, please, until I say that I have dropped them."""

    model: ModelId
    part: Spec
    number: Count


class HoldAnswer(Message, frozen=True, tag="hold-answer"):
    """What is held for the asker, of what it asked for under this number; "" for nothing."""

    number: Count
    part: Spec


class EndHold(Message, frozen=True, tag="end-hold"):
    """The hold asked for under this number is no longer needed."""

    number: Count


# Sessions -------------------------------------------------------------------------------------------------------------


class Range(Struct, frozen=True):
    """Which values a sampling setting may have. low_open: `low` itself is none."""

    number: type[int] | type[float]
    low: float
    high: float
    low_open: bool = False

    def __str__(self) -> str:
        if self.high > 1 << 20:
            return f"{self.low:g} or more, a whole number"
        return f"{'above ' if self.low_open else ''}{self.low:g} to {self.high:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is one of them; what is no number never is."""
        return (self.low < value if self.low_open else self.low <= value) and value <= self.high


SAMPLING_RANGES = {
    "temperature": Range(float, 0, 100),
    "top_k": Range(int, 0, (1 << 24) - 1),
    "top_p": Range(float, 0, 1, low_open=True),
    "typical_p": Range(float, 0, 1, low_open=True),
    "repetition_penalty": Range(float, 0, 100, low_open=True),
    "seed": Range(int, 0, (1 << 62) - 1),
}


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Temperature 0 is greedy; 0 or 1 switches a filter off as noted.

    Raises ValueError for a value out of its range, here and wherever one arrives.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in SAMPLING_RANGES.items():
            value = getattr(self, name)
            if not allowed.holds(value):
                raise ValueError(f"{name}: {allowed}, got {value}")


class Tail(Struct, frozen=True, kw_only=True):
    """What the last hop alone needs: how to sample and when to stop. Its token ids travel as a tensor beside it."""

    sampling: Sampling
    stop_ids: Annotated[list[TokenId], Meta(max_length=64)]
    limit: Small  # token ids in all, prompt included, at which the answer ends


class Open(Message, frozen=True, tag="open"):
    """Open a session on one hop, or move it to a new attempt, keeping what is cached below `keep`."""

    session: SessionId
    attempt: Small
    hop: Small
    model: ModelId
    part: Spec
    previous: NodeId  # whose steps this hop takes besides the opener's prompt
    next: NodeId
    next_part: Spec
    positions: Small  # to reserve
    keep: Small
    is_first: bool
    tail: Tail | None = None


class Opened(Message, frozen=True, tag="opened"):
    """The hop is ready: its KV is reserved, its next link is up, its cache holds `end` positions."""

    session: SessionId
    attempt: Small
    hop: Small
    end: Small
    is_draining: bool = False  # as in Renewed


Code = Literal[
    "KV_FULL",
    "NOT_OWNER",
    "NOT_SERVING",
    "LINK_DOWN",
    "OVERLOADED",
    "STALE",
    "GAP",
    "DUPLICATE",
    "UNKNOWN_SESSION",
    "UNKNOWN_MODEL",
    "TOO_LONG",
    "CLOSED",
    "LEAVING",
    "BAD_MESSAGE",
    "BAD_VERSION",
    "FAILED",
]


class Refused(Message, frozen=True, tag="refused"):
    """Nothing was done, and why. retry_seconds > 0: the same request may succeed then."""

    code: Code
    message: Text
    session: str = ""
    attempt: Small = 0
    hop: Small = 0
    retry_seconds: Seconds = 0.0


class Renew(Message, frozen=True, tag="renew"):
    """Renews a session's lease on every hop of this node; `have`: token ids that the client holds."""

    session: SessionId
    attempt: Small
    have: Small


class Renewed(Message, frozen=True, tag="renewed"):
    """Where the session stands here. ends: hop index → cache end; known: token ids at the last hop, else 0."""

    session: SessionId
    attempt: Small
    ends: Annotated[dict[Small, Small], Meta(max_length=64)]
    known: Small
    tick: Count
    busy_seconds: Seconds = 0.0  # spent computing for this session here
    lost: Annotated[list[NodeId], Meta(max_length=64)] = []
    is_draining: bool = False  # this node will soon stop to serve what the session uses here


class Resend(Message, frozen=True, tag="resend"):
    """Send what this session last put out here once more: a frame seems to have been lost."""

    session: SessionId
    attempt: Small


class Close(Message, frozen=True, tag="close"):
    """The session is over here, up to this attempt: free its cache."""

    session: SessionId
    attempt: Small


# Work -----------------------------------------------------------------------------------------------------------------


class StepSpan(Struct, frozen=True, array_like=True):
    """`length` new positions of one session, from `position` on; rows of the message's tensor in order.

    is_prompt: they were given by the client, not sampled, and the hop before waits for credit.
    """

    session: SessionId
    attempt: Small
    hop: Small
    position: Small
    length: Annotated[int, Meta(ge=1, le=1 << 20)]
    is_prompt: bool


class Steps(Message, frozen=True, tag="steps"):
    """New positions of several sessions for one part: ids [tokens] for begin, else hidden states [tokens, hidden]."""

    model: KnownModelId
    part: Spec
    spans: Annotated[list[StepSpan], Meta(min_length=1, max_length=512)]


class Progress(Struct, frozen=True, array_like=True):
    """A session's hop has taken everything below `end`, and had the last of it for so long."""

    session: SessionId
    attempt: Small
    hop: Small
    end: Small
    held_seconds: Seconds = 0.0  # 0: not known


class Credit(Message, frozen=True, tag="credit"):
    """Leave to send on: what each session's hop has run, to the hop before it."""

    items: Annotated[list[Progress], Meta(min_length=1, max_length=512)]


class Probe(Message, frozen=True, tag="probe"):
    """Measures a link; odd ones carry a uint8 tensor as load."""

    number: Count


class ProbeAck(Message, frozen=True, tag="probe-ack"):
    """Answers a Probe once it has arrived as a whole."""

    number: Count


class StepRefused(Message, frozen=True, tag="step-refused"):
    """A step was not run; the sender resends from `end` after GAP, and drops the session after STALE."""

    session: SessionId
    attempt: Small
    hop: Small
    code: Code
    end: Small


class Tokens(Message, frozen=True, tag="tokens"):
    """New token ids for the client: ids[0] has position `index` in the whole sequence."""

    session: SessionId
    attempt: Small
    index: Small
    ids: Annotated[list[TokenId], Meta(min_length=1, max_length=4096)]
    finish: Literal["", "stop", "length"] = ""


AnyMessage = (
    Hello
    | Welcome
    | Beat
    | BeatAck
    | Goodbye
    | AskPeers
    | PeerPage
    | ModelCard
    | AskModel
    | AskFile
    | FileChunk
    | AskHold
    | HoldAnswer
    | EndHold
    | Open
    | Opened
    | Refused
    | Renew
    | Renewed
    | Resend
    | Close
    | Steps
    | Credit
    | Probe
    | ProbeAck
    | StepRefused
    | Tokens
)
