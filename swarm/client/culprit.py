"""What a token's time is spent on most, and how much faster it would be without: the planner's word. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from swarm.client.waterfall import HopTimes, Waterfall
from swarm.plan.holdings import GAIN
from swarm.plan.moves import with_figures
from swarm.plan.shares import PlannedNode, Share, seconds_of
from swarm.plan.streaming import share_out

Kind = Literal["computing", "queue", "turn", "link"]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A chain that would be faster: which node would run how many layers. lacks_room: if it had the memory for that."""

    layers: Mapping[str, int]
    seconds: float
    lacks_room: bool = False


@dataclass(frozen=True, slots=True)
class Culprit:
    """What takes most of a token. node: where, or where a link begins; target: where a link ends, else the same."""

    kind: Kind
    node: str
    target: str
    seconds: float


def find_culprit(waterfall: Waterfall) -> Culprit:
    """The largest of: what a node computes, what steps wait there for others, or for cores, what a link takes."""
    hops = waterfall.hops
    spent: dict[tuple[Kind, str, str], float] = {}
    for times, following in zip(hops, [*hops[1:], hops[0]], strict=True):
        node, target = times.hop.node, following.hop.node
        parts: list[tuple[Kind, str, float]] = [
            ("computing", node, times.computed),
            ("queue", node, times.queued),
            ("turn", node, times.waited),
            ("link", target, times.sent),
        ]
        for kind, end, seconds in parts:
            spent[kind, node, end] = spent.get((kind, node, end), 0.0) + seconds
    (kind, node, target), seconds = max(spent.items(), key=lambda item: item[1])
    return Culprit(kind, node, target, seconds)


def find_remedy(waterfall: Waterfall, culprit: Culprit, members: Sequence[PlannedNode], layers: int) -> Remedy | None:
    """The best chain that there could be instead, by this answer's own figures where its nodes are concerned.

    None where none would be faster by what a move must gain, or where its nodes do not move.
    """
    known = with_figures(sorted(members, key=lambda member: member.key))
    used = {(times.hop.node, times.hop.variant) for times in waterfall.hops}
    seen = [_as_measured(member, waterfall) if (member.node, member.variant) in used else member for member in known]
    ends = [culprit.target, culprit.node] if culprit.kind == "link" else []
    choices = [*(_without_link(seen, known, node, waterfall) for node in ends), seen]
    here = _best(choices, layers)
    most = (1 - GAIN) * waterfall.seconds
    if here is not None and here.seconds <= most:
        return here
    roomy = _best([[_with_room(member, layers) for member in choice] for choice in choices], layers)
    return replace(roomy, lacks_room=True) if roomy is not None and roomy.seconds <= most else None


def _best(choices: Iterable[Sequence[PlannedNode]], layers: int) -> Remedy | None:
    found = [share_out([member for member in choice if not member.stays], layers) for choice in choices]
    remedies = [_remedy(shares) for shares in found if shares]
    return min(remedies, key=lambda remedy: remedy.seconds, default=None)


def _remedy(shares: Sequence[Share]) -> Remedy:
    layers: dict[str, int] = {}
    for share in shares:
        layers[share.member.node] = layers.get(share.member.node, 0) + share.layers
    return Remedy(layers, seconds_of(shares))


def _as_measured(member: PlannedNode, waterfall: Waterfall) -> PlannedNode:
    """A node of the chain, with what it and the way to it took in this answer."""
    hops = waterfall.hops
    mine = [index for index, times in enumerate(hops) if times.hop.node == member.node]
    layers = sum(hops[index].hop.part.layer_count for index in mine)
    end = any(hops[index].hop.part.end for index in mine)
    predicted = layers * member.layer_seconds + end * member.end_seconds
    scale = sum(hops[index].computed for index in mine) / predicted if predicted else 1.0
    waits = sum(hops[index].queued + hops[index].waited + hops[index - 1].sent for index in mine)
    return replace(
        member,
        layer_seconds=member.layer_seconds * scale,
        end_seconds=member.end_seconds * scale,
        link_seconds=waits / len(mine),
    )


def _without_link(
    seen: Sequence[PlannedNode], known: Sequence[PlannedNode], node: str, waterfall: Waterfall
) -> list[PlannedNode]:
    """Without a node; whoever came after it is reached from elsewhere, at what that says a hop to it costs."""
    hops = waterfall.hops
    after = {times.hop.node for index, times in enumerate(hops) if hops[index - 1].hop.node == node}
    said = {member.key: member.link_seconds for member in known}
    return [
        replace(member, link_seconds=said[member.key]) if member.node in after else member
        for member in seen
        if member.node != node
    ]


def _with_room(member: PlannedNode, layers: int) -> PlannedNode:
    """The same with memory for all layers of the model whose files it has."""
    costs = member.costs
    return replace(member, budget=member.budget + costs.begin + layers * costs.layer + costs.end)


def describe_culprit(waterfall: Waterfall, culprit: Culprit, remedy: Remedy | None, names: Mapping[str, str]) -> str:
    """One sentence for people. names: of nodes."""
    share = culprit.seconds / waterfall.seconds if waterfall.seconds else 0.0
    node, target = (names.get(one, one) for one in (culprit.node, culprit.target))
    match culprit.kind:
        case "computing":
            what = f"{node} computes {share:.0%} of a token"
        case "queue":
            what = f"on {node} a token waits {share:.0%} of its time for others"
        case "turn":
            what = f"on {node} a token waits {share:.0%} of its time for its turn at the machine's cores"
        case "link":
            what = f"the link from {node} to {target} takes {share:.0%} of a token"
    if remedy is None:
        return f"{what}; no other chain would be clearly faster"
    faster = f"{waterfall.seconds / remedy.seconds:.1f} times faster"
    held = count_layers(waterfall.hops)
    change = _describe_change(held, remedy.layers, culprit, names)
    return f"{what}; {f'if there were room, {change}' if remedy.lacks_room else change}: {faster}"


def count_layers(hops: Iterable[HopTimes]) -> dict[str, int]:
    """Node → how many layers of the chain it runs."""
    held: dict[str, int] = {}
    for times in hops:
        held[times.hop.node] = held.get(times.hop.node, 0) + times.hop.part.layer_count
    return held


def _describe_change(
    held: Mapping[str, int], wanted: Mapping[str, int], culprit: Culprit, names: Mapping[str, str]
) -> str:
    """Who would give layers to whom."""
    donors = {node: count - wanted.get(node, 0) for node, count in held.items() if wanted.get(node, 0) < count}
    gainers = [names.get(node, node) for node, count in wanted.items() if count > held.get(node, 0)]
    donor = next(iter(donors), "")
    if len(donors) == 1 and gainers:
        lost = donors[donor]
        all_of = "its layers" if lost == held[donor] else f"{lost} of its {held[donor]} layers"
        whose = all_of if donor == culprit.node else all_of.replace("its", f"{names.get(donor, donor)}'s")
        return f"with {whose} on {_join(gainers)}"
    return "with " + _join([f"{count} layers on {names.get(node, node)}" for node, count in wanted.items() if count])


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
