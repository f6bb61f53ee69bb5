"""Which nodes should serve other cells than they do, one move after the other, and what that is worth.

Pure. Every node computes the same plan from the same published figures; carrying out the first move is its node's affair.
A plan that has been carried out leaves nothing to plan: it goes on until no further change is worth its moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from swarm.parts import runs
from swarm.plan.holdings import Cells, Forecast, Holdings, Move
from swarm.plan.routes import UNMEASURED_SECONDS
from swarm.plan.shares import PlannedNode, Share, seconds_of
from swarm.plan.streaming import READ_LAYERS, share_out
from swarm.plan.windows import arrange


@dataclass(frozen=True, slots=True)
class Plan:
    """Moves in order, and why; `standby`: nodes that the best chain does without, and why."""

    moves: tuple[Move, ...]
    before: Forecast
    after: Forecast
    standby: Mapping[str, str]


def plan_moves(members: Sequence[PlannedNode], layers: int) -> Plan:
    """What should change for one model of `layers` layers.

    Same members, same plan, in whatever order they are given. Where the model would have gaps otherwise, the nodes' other
    models give way: what they keep is read from disk.
    """
    known = with_figures(sorted(members, key=lambda member: member.key))
    shares = _share(known, layers)
    if not shares:
        yielding = [replace(member, budget=max(member.budget, member.most_budget)) for member in known]
        shares = _share(yielding, layers)
        known = yielding if shares else known
    holdings = Holdings(known, layers)
    before = holdings.forecast()
    to_best_chain, to_thinnest = partial(_form_chain, shares), partial(_spread, shares)
    while holdings.improve(to_best_chain) or holdings.improve(to_thinnest):
        pass
    _release(shares, holdings)
    standby = _explain_standby(holdings.members.values(), shares)
    return Plan(tuple(holdings.moves), before, holdings.forecast(), standby)


def _share(members: Sequence[PlannedNode], layers: int) -> list[Share]:
    return share_out([member for member in members if not member.stays], layers)


def with_figures(members: Sequence[PlannedNode]) -> list[PlannedNode]:
    """Those who have not measured themselves count as the middle one of those who have."""
    layer_seconds = _middle([member.layer_seconds for member in members], UNMEASURED_SECONDS)
    prompt_seconds = _middle([member.prompt_seconds for member in members], 0.0)
    read_seconds = _middle([member.read_seconds for member in members], READ_LAYERS * layer_seconds)
    # Only who has held the end knows what it costs there; in layers it costs about the same everywhere.
    end_layers = _middle([member.end_seconds / (member.layer_seconds or layer_seconds) for member in members], 0.0)
    return [
        replace(
            member,
            layer_seconds=member.layer_seconds or layer_seconds,
            end_seconds=member.end_seconds or end_layers * (member.layer_seconds or layer_seconds),
            prompt_seconds=member.prompt_seconds or prompt_seconds,
            read_seconds=member.read_seconds or read_seconds,
        )
        for member in members
    ]


def _middle(figures: Iterable[float], otherwise: float) -> float:
    measured = sorted(figure for figure in figures if figure > 0)
    return measured[len(measured) // 2] if measured else otherwise


def _explain_standby(members: Iterable[PlannedNode], shares: Sequence[Share]) -> dict[str, str]:
    """Why each node that the best chain does without is left out of it."""
    if not shares:
        return {}
    chain = {share.member.node for share in shares}
    count = "one node" if len(chain) == 1 else f"{len(chain)} nodes"
    reason = f"the best chain has {count} and takes {seconds_of(shares) * 1000:.1f} ms a token without it"
    return {member.node: reason for member in members if member.node not in chain}


# Towards the best chain -----------------------------------------------------------------------------------------------


def _form_chain(shares: Sequence[Share], holdings: Holdings) -> None:
    """Move nodes to their windows of the best chain, one after the other, dropping only what others serve by then.

    Or what nobody else does, where all wait for each other and no token comes as it is.
    """
    windows = {key: _possible(holdings, key, window) for key, window in arrange(shares, holdings.held).items()}
    pending = {key: window for key, window in windows.items() if not _serves(holdings, key, window)}
    while pending:
        free = [key for key, window in pending.items() if holdings.may_drop(holdings.held[key] - window)]
        if free:
            # Those whom nobody waits for go first: what they load may free the others.
            key = min(free, key=lambda key: (holdings.is_needed(key), key))
            holdings.move(key, _widen(holdings, key, pending.pop(key)))
        elif not _move_partly(holdings, pending):
            if not holdings.forecast().missing:
                return
            key = min(pending, key=lambda key: (holdings.count_alone(holdings.held[key] - pending[key]), key))
            holdings.move(key, pending.pop(key))


def _serves(holdings: Holdings, key: str, window: Cells) -> bool:
    """Whether a node's place on the chain needs no move. What else it holds does no harm, unless it reads for that."""
    held = holdings.held[key]
    return held == window if holdings.streams(key, held) else held >= window


def _possible(holdings: Holdings, key: str, window: Cells) -> Cells:
    """The longest stretch of a window that a node has the weights of; the chain is left as it is if that opens a gap."""
    if not window & holdings.members[key].costs.absent:
        return window
    stretches = runs(sorted(window - holdings.members[key].costs.absent))
    start, stop = max(stretches, key=lambda run: (run[1] - run[0], -run[0]), default=(0, 0))
    return frozenset(range(start, stop))


def _widen(holdings: Holdings, key: str, wanted: Cells) -> Cells:
    """A window with what its node can keep or take beside it: what it holds already first, then the thinner side.

    Where a node streams there is no such room, and what lies between its windows is others'.
    """
    start, stop = min(wanted), max(wanted) + 1
    costs = holdings.members[key].costs
    left = holdings.members[key].budget - holdings.bytes_of(key, wanted)
    if stop - start != len(wanted):
        return wanted
    while True:
        sides = [
            (cell not in holdings.held[key], holdings.rates[cell], cell)
            for cell in (start - 1, stop)
            if 0 <= cell < holdings.layers + 2 and costs.of(cell) <= left
        ]
        if not sides:
            return frozenset(range(start, stop))
        cell = min(sides)[2]
        left -= costs.of(cell)
        start, stop = min(start, cell), max(stop, cell + 1)


def _move_partly(holdings: Holdings, pending: Mapping[str, Cells]) -> bool:
    """Where every node waits for another, one gives up what it may for as much of its window as fits then."""
    for key in sorted(pending):
        held, wanted = holdings.held[key], pending[key]
        bound = frozenset(cell for cell in held - wanted if holdings.count[cell] == 1)
        grown = _grow(holdings, key, held & wanted | bound, wanted)
        if len(grown & wanted) > len(held & wanted):
            holdings.move(key, grown)
            return True
    return False


def _grow(holdings: Holdings, key: str, kept: Cells, wanted: Cells) -> Cells:
    """`kept` with as many cells of `wanted` as the budget allows, the nearest first."""
    grown, may_stream = kept, holdings.streams(key, wanted) or holdings.streams(key, holdings.held[key])
    for cell in sorted(wanted - kept, key=lambda cell: (min((abs(cell - other) for other in kept), default=0), cell)):
        if not holdings.can_hold(key, grown | {cell}, may_stream=may_stream):
            break
        grown |= {cell}
    return grown


# More tokens a second -------------------------------------------------------------------------------------------------


def _spread(shares: Sequence[Share], holdings: Holdings) -> None:
    """Have nodes outside the best chain serve the thinnest cells, where that lets more streams run."""
    chain = {share.member.key for share in shares}
    for key, member in holdings.members.items():
        if key in chain or member.stays or member.is_pressed:
            continue
        held = holdings.held[key]
        holdings.hold(key, frozenset())
        window = _find_thinnest(holdings, key)
        is_free = all(holdings.count[cell] for cell in held - window)
        is_better = _relief(holdings, key, window) > _relief(holdings, key, held)
        holdings.hold(key, held)
        if is_free and is_better:
            holdings.move(key, window)


def _find_thinnest(holdings: Holdings, key: str) -> Cells:
    """As many neighbouring cells as fit, around the one that the fewest tokens a second can pass."""
    member = holdings.members[key]
    fitting = [cell for cell in range(holdings.layers + 2) if member.costs.of(cell) <= member.budget]
    if not fitting:
        return frozenset()
    thinnest = min(fitting, key=lambda cell: (holdings.rates[cell], cell))
    return _widen(holdings, key, frozenset((thinnest,)))


def _release(shares: Sequence[Share], holdings: Holdings) -> None:
    """Have nodes drop what the best chain does without, where their other models need the memory."""
    pressed = [key for key, member in holdings.members.items() if member.is_pressed and not member.stays]
    windows = arrange(shares, holdings.held) if pressed else {}
    for key in pressed:
        held = holdings.held[key]
        needed = held & windows.get(key, frozenset())
        if held != needed and holdings.may_drop(held - needed):
            holdings.move(key, needed)


def _relief(holdings: Holdings, key: str, held: Cells) -> float:
    """How much less time a token spends in cells, with as many streams as they can take, if a node holds these too."""
    rate = holdings.rate(key, held)
    return sum(1 / (holdings.rates[cell] or 1) - 1 / (holdings.rates[cell] + rate) for cell in held)
