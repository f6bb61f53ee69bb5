"""The connections of a simulated swarm: dialled, broken, made again, refused. Both ends hear of it as real ones do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from swarm.messages.base import Channel
from swarm.testing.network import Network

Link = tuple[str, str, Channel]  # a connection: who dialled, whom, for what

CONNECT_SECONDS = 0.003
RECONNECT_SECONDS = 0.2
HEARTBEAT_SECONDS = 6.0  # without an answer, until a connection counts as broken


class Ends(Protocol):
    """Who is connected."""

    def after(self, delay: float, act: Callable[[], None], /) -> None: ...

    def is_listening(self, name: str) -> bool:
        """Whether connections to it can be made."""
        ...

    def link_up(self, link: Link) -> None: ...

    def link_down(self, link: Link) -> None: ...

    def link_refused(self, link: Link) -> None: ...


class Connections:
    """Every connection that somebody wants is there unless it is broken; ZeroMQ tries those again and again."""

    def __init__(self, network: Network, ends: Ends) -> None:
        self._network = network
        self._ends = ends
        self._broken: set[Link] = set()
        self._given_up: set[Link] = set()  # that nobody wants any more

    def is_up(self, source: str, target: str, channel: Channel) -> bool:
        return (source, target, channel) not in self._broken

    def dial(self, source: str, target: str, channel: Channel) -> None:
        link = source, target, channel
        self._broken.add(link)
        self._given_up.discard(link)
        self._ends.after(CONNECT_SECONDS, lambda: self._mend(link))

    def hang_up(self, source: str, target: str) -> None:
        """Try no more for a control connection."""
        self._given_up.add((source, target, "control"))

    def mend(self, target: str | None = None) -> None:
        """Make those to one, or all, that can be made again."""
        for link in sorted(self._broken):
            if target in (None, link[1]):
                self._mend(link)

    def reset(self, left: str, right: str) -> None:
        """Break those between two; they come back."""
        for link in self._between(left, right):
            self._break(link)
            self._ends.after(RECONNECT_SECONDS, lambda link=link: self._mend(link))

    def cut(self, left: str, right: str) -> None:
        """A cable between two carries nothing any more: their heartbeats fail, if that is still so by then."""
        self._ends.after(HEARTBEAT_SECONDS, lambda: self._give_up(left, right))

    def end(self, name: str, others: Iterable[str]) -> None:
        """A node is gone: what others have to it breaks, and is refused when they try again."""
        for other in others:
            for channel in ("control", "data"):
                if other != name:
                    self._break((other, name, channel))
        self._broken -= {link for link in self._broken if link[0] == name}
        self._ends.after(RECONNECT_SECONDS, lambda: self._refuse(name))

    def _mend(self, link: Link) -> None:
        is_wanted = link in self._broken and link not in self._given_up
        if is_wanted and self._ends.is_listening(link[1]) and self._network.is_whole(*link[:2]):
            self._broken.discard(link)
            self._ends.link_up(link)

    def _break(self, link: Link) -> None:
        if link not in self._broken:
            self._broken.add(link)
            self._ends.link_down(link)

    def _give_up(self, left: str, right: str) -> None:
        if not self._network.is_whole(left, right):
            for link in self._between(left, right):
                self._break(link)

    def _refuse(self, name: str) -> None:
        """Those who are cut off from there hear nothing."""
        for link in sorted(self._broken):
            if link[1] == name and not self._ends.is_listening(name) and self._network.is_whole(*link[:2]):
                self._ends.link_refused(link)

    def _between(self, left: str, right: str) -> list[Link]:
        """Every connection that there may be between two."""
        return [
            (source, target, channel)
            for source, target in ((left, right), (right, left))
            for channel in ("control", "data")
        ]
