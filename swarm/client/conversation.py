"""A conversation with a model: messages in, text out, and the ids that keep its session's cache of use.

Knows text and tokens; leaves chains and caches to the session.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from swarm.client.answer import Answer, Piece
from swarm.client.news import Delivered, Finished, RouteTaken
from swarm.client.prompts import Message, PromptForm
from swarm.client.renderer import Renderer
from swarm.client.swarm import Generation, SwarmClient
from swarm.client.transcript import Turn
from swarm.client.why import Why, ask_why, names_of
from swarm.errors import RequestError
from swarm.messages.files import ModelCard
from swarm.messages.sampling import Sampling
from swarm.parts import Part
from swarm.plan.routes import Hop


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How answers are generated."""

    max_tokens: int = 512
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    ignore_end: bool = False
    system: str = ""  # what the model is told before the conversation
    thinking: bool | None = None  # whether a model that can think first does; None: as it is used to
    explain: bool = False  # ask the nodes afterwards where the time of its tokens went


@dataclass(slots=True)
class Report:
    """How an answer went."""

    text: str = ""
    prompt_ids: list[int] = field(default_factory=list[int])
    ids: list[int] = field(default_factory=list[int])
    finish: str = ""
    route: tuple[Hop, ...] = ()
    attempts: int = 0
    has_crossed_kinds: bool = False
    variants: tuple[tuple[Part, tuple[str, ...]], ...] = ()
    was_capped: bool = False  # the context was full before as many tokens had come as were asked for
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    longest_gap_seconds: float = 0.0
    why: Why | None = None  # where a token's time went, if that was asked for


Event = Piece | RouteTaken | Report


class Conversation:
    """Turns with one model in one session."""

    def __init__(self, swarm: SwarmClient, card: ModelCard, tokenizer: Tokenizer, form: PromptForm | None) -> None:
        """form: None for a model that was never taught one; it is given what is said as it stands."""
        self.card = card
        self.messages: list[Message] = []
        self._swarm = swarm
        self.tokenizer = tokenizer
        self.form = form
        self._renderer = Renderer()
        self._generation: Generation = swarm.open_generation(card)
        self.last: Report | None = None  # of the last answer
        self.prompt = ""  # of the last answer
        self._text = ""  # what the session's ids spell
        self._ids: list[int] = []

    def ask(self, question: str, settings: Settings) -> Iterator[Event]:
        """The answer to a message: pieces as they come, and a Report last.

        Closing the iterator early stops the answer and frees its cache.
        """
        messages = [*self.messages, Message("user", question)]
        with_stops = replace(settings, stops=(*settings.stops, *(self.form.stops if self.form else ())))
        prompt = self.write_prompt(messages, settings)
        for event in self._generate(prompt, with_stops, is_raw=self.form is None):
            if isinstance(event, Report):
                if self.form is not None:
                    event.text = event.text.strip()
                self.messages = [*messages, Message("assistant", event.text)]
            yield event

    def write_prompt(self, messages: Sequence[Message], settings: Settings) -> str:
        """What asks the model for the next answer."""
        told = [Message("system", settings.system), *messages] if settings.system else list(messages)
        if self.form is None:
            return "".join(message.content for message in told)
        return self._renderer.render(self.form.template, self.form.variables(told, settings.thinking))

    def complete(self, prompt: str, settings: Settings) -> Iterator[Event]:
        """What follows a prompt as it stands, without a template."""
        return self._generate(prompt, settings, is_raw=True)

    def names(self) -> dict[str, str]:
        """Node → how it is called."""
        return names_of(self._swarm)

    def forget(self) -> None:
        """Start a new conversation."""
        self._generation.close()
        self._generation = self._swarm.open_generation(self.card)
        self.messages, self._text, self._ids = [], "", []

    def drop_last_answer(self) -> str | None:
        """Take the last question and answer back; return the question."""
        if len(self.messages) < 2:
            return None
        question = self.messages[-2].content
        del self.messages[-2:]
        return question

    def _encode(self, text: str, *, is_raw: bool) -> list[int]:
        """Ids of a prompt; what continues the session's own text is encoded alone, so that its cache stays of use.

        is_raw: nobody has written the token that begins a text; a template does that itself.
        """
        if self._ids and text.startswith(self._text):
            rest = text[len(self._text) :]
            return self._ids + self.tokenizer.encode(rest, add_special_tokens=False).ids
        return self.tokenizer.encode(text, add_special_tokens=is_raw).ids

    def _generate(self, prompt: str, settings: Settings, *, is_raw: bool) -> Iterator[Event]:
        report = Report(prompt_ids=self._encode(prompt, is_raw=is_raw))
        if len(report.prompt_ids) >= self.card.context:
            raise RequestError(
                f"the prompt has {len(report.prompt_ids)} tokens; the context of {self.card.name} is "
                f"{self.card.context}, answer included"
            )
        stops = [] if settings.ignore_end else self.card.end_ids
        turn = Turn(ids=report.prompt_ids, max_tokens=settings.max_tokens, sampling=settings.sampling, stop_ids=stops)
        answer = Answer(self.tokenizer, settings.stops)
        self.prompt = prompt
        clock = _Clock()
        events = self._generation.generate(turn)
        taken: RouteTaken | None = None
        is_complete = False
        try:
            for event in events:
                match event:
                    case RouteTaken():
                        taken, report.route, report.attempts = event, event.route, event.attempts
                        report.has_crossed_kinds, report.variants = event.has_crossed_kinds, event.variants
                        yield event
                    case Delivered(ids):
                        for piece in answer.read(ids):
                            clock.note()
                            yield piece
                        if answer.is_stopped:
                            report.finish = "stop"
                    case Finished(reason):
                        report.finish = reason
                    case _:
                        pass
                if report.finish:
                    break
            is_complete = True
        finally:
            if not is_complete:
                self._generation.cancel()
                self._ids, self._text = [], ""
        if settings.explain and taken is not None:
            report.why = ask_why(self._swarm, self.card, taken, clock.times)
        report.was_capped = report.finish == "length" and len(answer.ids) < settings.max_tokens
        self._settle(prompt, report, answer)
        clock.fill(report)
        self.last = report
        yield report

    def _settle(self, prompt: str, report: Report, answer: Answer) -> None:
        """Drop what lies behind a stop string, from the output and from the caches; remember what the ids spell."""
        answer.finish()
        report.ids, report.text = answer.ids, answer.text
        self._ids = [*report.prompt_ids, *report.ids]
        if answer.is_stopped:
            self._generation.halt(len(self._ids))
        self._text = prompt + self.tokenizer.decode(report.ids, skip_special_tokens=False)


class _Clock:
    """When tokens came."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.times: list[float] = []

    def note(self) -> None:
        self.times.append(time.monotonic())

    def fill(self, report: Report) -> None:
        times = self.times
        if not times:
            return
        report.first_token_seconds = times[0] - self._started
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        if gaps:
            report.longest_gap_seconds = max(gaps)
            report.tokens_per_second = len(gaps) / max(times[-1] - times[0], 1e-9)
