"""Who holds which cells while moves are tried out, and what that promises.

Pure bookkeeping: counts, rates, forecasts, moves made and taken back. Knows no strategy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.parts import Part, part_of, runs
from swarm.plan.costs import NONE_STREAMED, Streamed
from swarm.plan.routes import HOP_SECONDS, Hop, Server, find_route
from swarm.plan.shares import PlannedNode

GAIN = 0.10  # of the seconds a token, of the tokens a second, of what is read; less is not worth its loading
# Of the same where layers are read before and after: what one disk gave three nodes varied from 750 to 1,030 MB/s within
# minutes, and while layers are loaded tokens wait for that disk, too.
READING_GAIN = 0.25

Cells = frozenset[int]


@dataclass(frozen=True, slots=True)
class Move:
    """One node's next part. Whatever it drops is served by others at that time, or no token comes before and after."""

    node: str
    before: Part
    after: Part
    reason: str
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the figures promise."""

    missing: int  # cells that nobody holds; while there are any, no token comes
    seconds_a_token: float  # of one stream alone
    tokens_a_second: float  # of as many streams as it takes
    prompt_tokens_a_second: float = 0.0  # of one prompt, a chunk of it on every hop
    streamed: int = 0  # layers that nodes read from disk each time, all together

    def is_better_than(self, other: Forecast) -> bool:
        """Whether it is worth moving for."""
        if self.missing or other.missing:
            return self.missing < other.missing
        if self._spares_reading(other):
            return True
        if self.seconds_a_token > other.seconds_a_token * (1 + 1e-9):
            return False
        gain = READING_GAIN if self.streamed and other.streamed else GAIN
        return (
            self.seconds_a_token <= (1 - gain) * other.seconds_a_token
            or self.tokens_a_second >= (1 + gain) * other.tokens_a_second
        )

    def _spares_reading(self, other: Forecast) -> bool:
        """Whether less is read without a token's taking longer for it; where nothing is read any more, a little longer.

        What is read while others compute costs a token no time, but the disk, and whatever else needs it.
        """
        if self.streamed > (1 - GAIN) * other.streamed or not other.streamed:
            return False
        allowed = 1e-9 * other.seconds_a_token if self.streamed else max(GAIN * other.seconds_a_token, HOP_SECONDS)
        return self.seconds_a_token <= other.seconds_a_token + allowed


def _exposed(streamed: Streamed, visits: int) -> int:
    """Layers that are read while a chain waits: buffers hold what is read between two visits, and no more."""
    return max(0, streamed.layers - visits * streamed.buffers)


class Holdings:
    """The cells of one model that each member holds, and the moves that led there."""

    def __init__(self, members: Sequence[PlannedNode], layers: int) -> None:
        self.layers = layers
        self.moves: list[Move] = []
        self.members = {member.key: member for member in members}
        self.held: dict[str, Cells] = {}  # by PlannedNode.key, as all that follows
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.count = [0] * (layers + 2)  # of nodes that hold each cell
        # A million times the tokens a second of each cell, if every node is busy with all that it holds: whole numbers
        # are the same again when what was added is taken away.
        self.rates = [0] * (layers + 2)
        self._forecast: Forecast | None = None
        for member in members:
            self.hold(member.key, frozenset(member.part.cells))

    def hold(self, key: str, held: Cells) -> None:
        """Let a node hold just these cells."""
        self._forecast = None
        self._count(key, self.held.get(key, frozenset()), -1)
        self._count(key, held, 1)
        self.held[key] = held
        self.ranges[key] = runs(sorted(held))

    def _count(self, key: str, held: Cells, sign: int) -> None:
        rate = self.rate(key, held)
        for cell in held:
            self.count[cell] += sign
            self.rates[cell] += sign * rate

    def rate(self, key: str, held: Cells) -> int:
        """Tokens in a million seconds of a node that is busy with all of these cells."""
        member, streamed = self.members[key], self.streamed(key, held)
        layers = sum(0 < cell <= self.layers for cell in held)
        computing = member.seconds_of(layers, self.layers + 1 in held)
        return round(1e6 / max(computing, streamed.layers * member.read_seconds))

    def streamed(self, key: str, held: Cells) -> Streamed:
        """What of these cells a node would read from disk."""
        return self._hold(key, held) or NONE_STREAMED

    def streams(self, key: str, held: Cells) -> bool:
        """Whether a node would read some of these cells from disk."""
        return self.streamed(key, held).layers > 0

    def can_hold(self, key: str, held: Cells, *, may_stream: bool) -> bool:
        """Whether a node has the memory for these cells."""
        found = self._hold(key, held)
        return found is not None and (may_stream or not found.layers)

    def _hold(self, key: str, held: Cells) -> Streamed | None:
        member = self.members[key]
        layers = sum(0 < cell <= self.layers for cell in held)
        left = member.left(0 in held, self.layers + 1 in held)
        return member.costs.hold(layers, left) if left >= 0 and not held & member.costs.absent else None

    def bytes_of(self, key: str, held: Cells) -> int:
        costs = self.members[key].costs
        return sum(costs.of(cell) for cell in held)

    def may_drop(self, dropped: Cells) -> bool:
        """Whether others hold all of these, that a node holds, too."""
        return not self.count_alone(dropped)

    def is_needed(self, key: str) -> bool:
        """Whether a node holds something that no other does."""
        return self.count_alone(self.held[key]) > 0

    def count_alone(self, held: Cells) -> int:
        """How many of these, that a node holds, no other one does."""
        return sum(self.count[cell] == 1 for cell in held)

    def forecast(self) -> Forecast:
        """What the holdings of this moment promise."""
        if self._forecast is None:
            self._forecast = self._predict()
        return self._forecast

    def _predict(self) -> Forecast:
        missing = self.count.count(0)
        if missing:
            return Forecast(missing, math.inf, 0.0)
        servers = [self._serve(key, held) for key, held in self.held.items() if held]
        route = find_route(servers, self.layers)
        slowest = max(hop.part.layer_count * self.members[hop.node].prompt_seconds for hop in route)
        prompt_rate = 1 / slowest if slowest else 0.0
        streamed = sum(self.streamed(key, held).layers for key, held in self.held.items())
        return Forecast(0, self._time_route(route), min(self.rates) / 1e6, prompt_rate, streamed)

    def _serve(self, key: str, held: Cells) -> Server:
        """A node as the router sees it: what it has to wait for its disk goes into its layers."""
        member, streamed, stretches = self.members[key], self.streamed(key, held), len(self.ranges[key])
        part = part_of(held, self.layers)
        waiting = _exposed(streamed, stretches) * member.read_seconds / max(1, part.layer_count)
        return Server(key, part, max(member.layer_seconds, waiting), member.end_seconds, member.link_seconds)

    def _time_route(self, route: Sequence[Hop]) -> float:
        """Seconds a token: of all hops together, or of the longest pass over what a node reads."""
        seconds = passes = 0.0
        for key in dict.fromkeys(hop.node for hop in route):
            member, streamed = self.members[key], self.streamed(key, self.held[key])
            hops = [hop for hop in route if hop.node == key]
            layers, end = sum(hop.part.layer_count for hop in hops), any(hop.part.end for hop in hops)
            waiting = _exposed(streamed, len(hops)) * member.read_seconds
            seconds += len(hops) * member.link_seconds + end * member.end_seconds
            seconds += max(layers * member.layer_seconds, waiting)
            passes = max(passes, streamed.layers * member.read_seconds)
        return max(seconds, passes)

    def move(self, key: str, held: Cells) -> None:
        """Let a node move to these cells, and say why."""
        gained = held - self.held[key]
        lacking = [cell for cell in sorted(gained) if self.count[cell] == 0]
        if lacking:
            reason = f"nobody serves {part_of(lacking, self.layers).describe()}"
        elif gained:
            reason = f"{part_of(sorted(gained), self.layers).describe()} will run faster or for more streams"
        else:
            reason = "others serve the rest"
        before, after = part_of(self.held[key], self.layers), part_of(held, self.layers)
        self.moves.append(Move(self.members[key].node, before, after, reason, self.members[key].variant))
        self.hold(key, held)

    def improve(self, change: Callable[[Holdings], None]) -> bool:
        """Let `change` make moves; take them back unless they are worth it."""
        before, made, held = self.forecast(), len(self.moves), dict(self.held)
        change(self)
        if len(self.moves) > made and self.forecast().is_better_than(before):
            return True
        del self.moves[made:]
        for key, cells_held in held.items():
            if self.held[key] != cells_held:
                self.hold(key, cells_held)
        self._forecast = before
        return False
