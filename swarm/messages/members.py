"""Who is in the swarm, what they serve, and what they promise each other."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from swarm.messages.base import (
    Address,
    ClaimState,
    Count,
    Message,
    ModelId,
    Name,
    NodeId,
    Port,
    Seconds,
    Share,
    Small,
    Spec,
)


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
    compute_seconds: Seconds = 0.0  # of these, what is no waiting for a disk; 0: not told
    end_seconds: Seconds = 0.0
    prompt_seconds: Seconds = 0.0
    kv_free_positions: Count = 0
    kv_positions: Count = 0  # that sessions may reserve in all; 0: not told
    variant: Name = ""  # how its weights are stored and computed; "": not told
    kind: Name = ""  # of processor that computes it: those of one kind round alike
    streamed: Small = 0  # layers of the part that come from disk each time they are needed
    stall_seconds: Seconds = 0.0  # of a batch, that they are waited for
    hit_rate: Share = 1.0  # of them, what share is there in time
    source_rate: Count = 0  # bytes a second that they are read with; 0: not measured
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
    most_bytes: Count = 0  # the same if the other models kept as little of theirs as they can; 0: not told
    weight_bytes: Count = 0  # of layer_bytes, what a layer that is read from disk each time does not take; 0: none is
    source_rate: Count = 0  # bytes a second from disk; 0: not measured
    present: Spec = "f"  # what the node has the weights of
    variant: Name = ""  # how they are stored and computed; "": not told


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
    moves: Count = 0  # parts that it has changed to
    turns_waited: Count = 0  # batches before which it waited for its machine's cores
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


class AskHold(Message, frozen=True, tag="ask-hold"):
    """Go on serving these cells, please, until I say that I have dropped them."""

    model: ModelId
    part: Spec
    number: Count


class HoldAnswer(Message, frozen=True, tag="hold-answer"):
    """What is held for the asker, of what it asked for under this number; "" for nothing."""

    number: Count
    part: Spec


class ReleaseHold(Message, frozen=True, tag="release-hold"):
    """The hold asked for under this number is no longer needed."""

    number: Count
