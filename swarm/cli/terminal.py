"""The interactive conversation: prompt, streaming, slash commands."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import msgspec
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory

from swarm.cli.command import state_dir, why_unusable
from swarm.cli.why import print_why
from swarm.client.answer import Piece
from swarm.client.conversation import Conversation, Report, Settings
from swarm.client.news import RouteTaken
from swarm.client.prompts import Message
from swarm.client.settings import SPOKEN, parse_setting, parse_switch
from swarm.client.text import THOUGHT_BEGIN, ThoughtSplitter
from swarm.errors import RequestError, SwarmError
from swarm.messages.sampling import Sampling
from swarm.plan.routes import Hop

HELP = """\
/help              this text
/set NAME VALUE    temperature, top_k, top_p, typical_p, repetition_penalty, seed, max_tokens;
                   system TEXT (nothing takes it away); thinking on|off
/show              the model, the route and the settings
/clear             start a new conversation
/regenerate        ask the last question again with a new seed
/save FILE         write the conversation as JSON
/load FILE         go on with a conversation that was saved
/why               after each answer, show where its tokens spent their time; again: no more
/bye               leave (Ctrl-D too)
\"\"\"                begins and ends a message of several lines
Ctrl-C             stops the answer"""
FENCE = '"""'
_SWITCH = {None: "as the model is used to", True: "on", False: "off"}


class Terminal:
    """Reads messages and commands, shows answers as they come."""

    def __init__(self, conversation: Conversation, settings: Settings, drawn_seed: bool) -> None:
        """drawn_seed: draw a new seed for each answer."""
        self._conversation = conversation
        self._settings = settings
        self._drawn_seed = drawn_seed
        self._last: Report | None = None
        directory = state_dir()
        kept = why_unusable(directory) is None
        history = FileHistory(str(directory / "history")) if kept else InMemoryHistory()
        self._prompt: PromptSession[str] = PromptSession(history=history)
        self._commands: Mapping[str, Callable[[str], None]] = {
            "/help": lambda _: click.echo(HELP),
            "/?": lambda _: click.echo(HELP),
            "/set": self._set,
            "/show": lambda _: self._show(),
            "/clear": lambda _: self._clear(),
            "/regenerate": lambda _: self._regenerate(),
            "/save": self._save,
            "/load": self._load,
            "/why": lambda _: self._explain(),
        }

    def run(self) -> None:
        """Until /bye or Ctrl-D."""
        click.echo(f"{self._conversation.card.name}: type a message, or /help", err=True)
        while True:
            try:
                text = self._read()
            except EOFError:
                return
            except KeyboardInterrupt:
                click.echo("(Ctrl-D or /bye leaves)", err=True)
                continue
            if text.strip() in ("/bye", "/exit", "/quit"):
                return
            if text.startswith("/"):
                self._command(text)
            elif text.strip():
                self._answer(text)

    def _read(self) -> str:
        text = self._prompt.prompt(">>> ")
        if not text.lstrip().startswith(FENCE):
            return text
        text = text.lstrip().removeprefix(FENCE)
        while FENCE not in text:
            text += "\n" + self._prompt.prompt("... ")
        inside, _, behind = text.partition(FENCE)
        return f"{inside}{behind.rstrip()}".strip("\n")

    def _command(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            click.echo(f"{name} is no command; /help lists them", err=True)
        else:
            command(argument.strip())

    def _answer(self, question: str) -> None:
        if self._drawn_seed:
            sampling = self._settings.sampling
            self._settings = replace(self._settings, sampling=_with(sampling, seed=secrets.randbelow(1 << 32)))
        events = self._conversation.ask(question, self._settings)
        printer = _Printer(self._conversation)
        routes: list[Sequence[Hop]] = []
        try:
            for event in events:
                match event:
                    case Piece(_, text):
                        printer.show(text)
                    case RouteTaken():
                        routes.append(event.route)
                    case Report():
                        self._last = event
            printer.finish()
            if routes and routes[-1] != routes[0]:
                click.echo(f"(went on over another chain, attempt {len(routes)})", err=True)
                for part, variants in self._last.variants if self._last is not None else ():
                    if len(variants) > 1:
                        click.echo(f"({part.describe()}: {' and then '.join(variants)})", err=True)
            if self._last is not None and self._settings.explain:
                print_why(self._last.why, self._conversation.names())
            if self._last is not None and self._last.was_capped:
                click.echo(f"(the context of {self._conversation.card.name} is full)", err=True)
        except KeyboardInterrupt:
            events.close()  # type: ignore[attr-defined]
            click.echo("\n(stopped)", err=True)
        except SwarmError as error:
            click.echo(f"\n{error}", err=True)

    def _set(self, argument: str) -> None:
        name, _, text = argument.partition(" ")
        try:
            if name in SPOKEN:
                said = text.strip()
                told = {name: said if name == "system" else parse_switch(name, said)}
                self._settings = replace(self._settings, **told)
                return
            value = parse_setting(name, text.strip())
        except RequestError as error:
            click.echo(str(error), err=True)
            return
        if name == "max_tokens":
            self._settings = replace(self._settings, max_tokens=int(value))
        else:
            self._settings = replace(self._settings, sampling=_with(self._settings.sampling, **{name: value}))
            self._drawn_seed = self._drawn_seed and name != "seed"

    def _show(self) -> None:
        card, sampling = self._conversation.card, self._settings.sampling
        click.echo(f"model       {card.name} ({card.layers} layers, context {card.context})")
        if self._last is not None:
            click.echo(
                f"route       {' -> '.join(f'{hop.node} [{hop.part}] {hop.variant}'.rstrip() for hop in self._last.route)}"
            )
            click.echo(f"speed       {self._last.tokens_per_second:.1f} tokens/s")
        for name in sampling.__struct_fields__:
            click.echo(f"{name:11} {getattr(sampling, name)}")
        click.echo(f"max_tokens  {self._settings.max_tokens}")
        click.echo(f"system      {self._settings.system}")
        click.echo(f"thinking    {_SWITCH[self._settings.thinking]}")

    def _explain(self) -> None:
        self._settings = replace(self._settings, explain=not self._settings.explain)
        click.echo("answers are explained" if self._settings.explain else "answers are no longer explained", err=True)

    def _clear(self) -> None:
        self._conversation.forget()
        self._last = None

    def _regenerate(self) -> None:
        question = self._conversation.drop_last_answer()
        if question is None:
            click.echo("there is no answer yet", err=True)
        else:
            self._answer(question)

    def _load(self, argument: str) -> None:
        if not argument:
            click.echo("write /load FILE", err=True)
            return
        try:
            messages = read_messages(Path(argument).read_bytes())
        except (OSError, RequestError) as error:
            click.echo(f"{argument} cannot be read: {error}", err=True)
            return
        self._clear()
        self._conversation.messages = messages
        click.echo(f"{len(messages)} messages", err=True)

    def _save(self, argument: str) -> None:
        if not argument:
            click.echo("write /save FILE", err=True)
            return
        messages = [{"role": message.role, "content": message.content} for message in self._conversation.messages]
        try:
            text = json.dumps({"model": self._conversation.card.name, "messages": messages}, indent=2)
            Path(argument).write_text(text + "\n", "utf-8")
        except OSError as error:
            click.echo(f"{argument} cannot be written: {error}", err=True)


class _Printer:
    """Shows an answer as it comes: what the model thinks dimmed, and no white space before the first word."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._splitter: ThoughtSplitter | None = None
        self._is_first = True

    def show(self, text: str) -> None:
        if self._splitter is None:  # not before there is a prompt
            self._splitter = ThoughtSplitter(self._conversation.prompt.rstrip().endswith(THOUGHT_BEGIN))
        for piece, is_thought in self._splitter.push(text):
            self._print(piece, is_thought)

    def finish(self) -> None:
        for piece, is_thought in self._splitter.finish() if self._splitter else ():
            self._print(piece, is_thought)
        click.echo()

    def _print(self, text: str, is_thought: bool) -> None:
        text = text.lstrip() if self._is_first else text
        self._is_first = self._is_first and not text
        click.echo(click.style(text, dim=True) if is_thought and text else text, nl=False)


def read_messages(data: bytes) -> list[Message]:
    """The messages of a conversation that /save has written. Raises RequestError if it holds none."""
    try:
        return msgspec.json.decode(data, type=_Saved).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"it holds no conversation: {error}") from None


class _Saved(msgspec.Struct):
    messages: list[Message]


def _with(sampling: Sampling, **changes: float) -> Sampling:
    """The settings with some changed."""
    return msgspec.structs.replace(sampling, **changes)
