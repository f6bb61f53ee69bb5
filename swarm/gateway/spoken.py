"""What a model says, and what it only thinks, as its answer comes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.client.answer import Piece
from swarm.client.text import ThoughtSplitter

Said = tuple[str, bool]  # a piece of text, and whether it is only thought


class Spoken:
    """An answer's text; blanks before a thought and before what is said are left out."""

    def __init__(self, is_thinking: bool, has_begun: bool = False) -> None:
        """is_thinking: the prompt has opened a thought already. has_begun: it ends with some of what is said."""
        self.reasoning_tokens = 0
        self._splitter = ThoughtSplitter(is_thinking)
        self._begun: set[bool] = {False} if has_begun else set()

    def read(self, pieces: Sequence[Piece]) -> list[Said]:
        """What new pieces add."""
        shown: list[Said] = []
        for piece in pieces:
            self.reasoning_tokens += self._splitter.is_thinking
            shown += self._splitter.push(piece.text)
        return self._join(shown)

    def finish(self, rest: str) -> list[Said]:
        """What the end of the text adds."""
        return self._join([*self._splitter.push(rest), *self._splitter.finish()])

    def _join(self, shown: Sequence[Said]) -> list[Said]:
        """Neighbours of a kind as one."""
        found: list[Said] = []
        for text, is_thought in shown:
            told = text if is_thought in self._begun else text.lstrip()
            if not told:
                continue
            self._begun.add(is_thought)
            if found and found[-1][1] == is_thought:
                found[-1] = (found[-1][0] + told, is_thought)
            else:
                found.append((told, is_thought))
        return found
