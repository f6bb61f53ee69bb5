"""What the conversation says beside the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from swarm.cli import terminal
from swarm.cli.terminal import Terminal
from swarm.client.conversation import Event, Piece, Report, Settings
from swarm.client.news import RouteTaken
from swarm.parts import parse_part
from swarm.plan.routes import Hop

HERE, THERE = (Hop(name * 16, parse_part("f", 8)) for name in "ab")


class Talk:
    """A conversation whose answer takes these routes, one after the other."""

    def __init__(self, routes: Sequence[Hop]) -> None:
        self.prompt = ""
        self._routes = routes

    def ask(self, question: str, settings: Settings) -> Iterator[Event]:
        del question, settings
        for number, hop in enumerate(self._routes):
            yield RouteTaken((hop,), number + 1)
            yield Piece(1, "word ")
        yield Report(text="word")


@pytest.mark.parametrize(("routes", "is_said"), [([HERE, HERE], False), ([HERE, THERE], True), ([HERE], False)])
def test_only_another_chain_is_called_another_chain(
    routes: list[Hop], is_said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chat that was suspended opens its session anew, on the same nodes."""
    monkeypatch.setattr(terminal, "PromptSession", lambda **_: None)
    Terminal(Talk(routes), Settings(), drawn_seed=False)._answer("hello")  # type: ignore[arg-type]
    assert ("went on over another chain" in capsys.readouterr().err) == is_said
