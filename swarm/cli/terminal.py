"""The interactive conversation: prompt, streaming, slash commands."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory

from swarm.cli.command import state_dir
from swarm.client.conversation import Conversation, Piece, Report, Settings
from swarm.client.effects import RouteTaken
from swarm.errors import SwarmError
from swarm.messages import Sampling

HELP = """\
/help              this text
/set NAME VALUE    temperature, top_k, top_p, typical_p, repetition_penalty, seed, max_tokens
/show              the model, the route and the settings
/clear             start a new conversation
/regenerate        ask the last question again with a new seed
/save FILE         write the conversation as JSON
/bye               leave (Ctrl-D too)
\"\"\"                begins and ends a message of several lines
Ctrl-C             stops the answer"""
FENCE = '"""'


class Terminal:
    """Reads messages and commands, shows answers as they come."""

    def __init__(self, conversation: Conversation, settings: Settings, drawn_seed: bool) -> None:
        """drawn_seed: draw a new seed for each answer."""
        self._conversation = conversation
        self._settings = settings
        self._drawn_seed = drawn_seed
        self._last: Report | None = None
        history = state_dir() / "history"
        history.parent.mkdir(parents=True, exist_ok=True)
        self._prompt: PromptSession[str] = PromptSession(history=FileHistory(str(history)))
        self._commands: Mapping[str, Callable[[str], None]] = {
            "/help": lambda _: click.echo(HELP),
            "/?": lambda _: click.echo(HELP),
            "/set": self._set,
            "/show": lambda _: self._show(),
            "/clear": lambda _: self._clear(),
            "/regenerate": lambda _: self._regenerate(),
            "/save": self._save,
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
        lines = [text] if text else []
        while not (lines and lines[-1].rstrip().endswith(FENCE)):
            lines.append(self._prompt.prompt("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return "\n".join(lines).strip("\n")

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
        is_first = True
        attempts = 0
        try:
            for event in events:
                match event:
                    case Piece(_, text):
                        text = text.lstrip() if is_first else text
                        is_first = is_first and not text
                        click.echo(text, nl=False)
                    case RouteTaken():
                        attempts = event.attempts
                    case Report():
                        self._last = event
            click.echo()
            if attempts > 1:
                click.echo(f"(went on over another chain, attempt {attempts})", err=True)
        except KeyboardInterrupt:
            events.close()  # type: ignore[attr-defined]
            click.echo("\n(stopped)", err=True)
        except SwarmError as error:
            click.echo(f"\n{error}", err=True)

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        try:
            if name == "max_tokens":
                self._settings = replace(self._settings, max_tokens=max(1, int(value)))
            elif name in ("top_k", "seed"):
                self._settings = replace(self._settings, sampling=_with(self._settings.sampling, **{name: int(value)}))
                self._drawn_seed = self._drawn_seed and name != "seed"
            elif name in ("temperature", "top_p", "typical_p", "repetition_penalty"):
                sampling = _with(self._settings.sampling, **{name: float(value)})
                self._settings = replace(self._settings, sampling=sampling)
            else:
                click.echo(f"{name or 'nothing'} cannot be set; /help lists what can", err=True)
        except ValueError as error:
            click.echo(f"{name} stays as it is: {error}", err=True)

    def _show(self) -> None:
        card, sampling = self._conversation.card, self._settings.sampling
        click.echo(f"model       {card.name} ({card.layers} layers, context {card.context})")
        if self._last is not None:
            click.echo(f"route       {' -> '.join(f'{hop.node} [{hop.part}]' for hop in self._last.route)}")
            click.echo(f"speed       {self._last.tokens_per_second:.1f} tokens/s")
        for name in sampling.__struct_fields__:
            click.echo(f"{name:11} {getattr(sampling, name)}")
        click.echo(f"max_tokens  {self._settings.max_tokens}")

    def _clear(self) -> None:
        self._conversation.forget()
        self._last = None

    def _regenerate(self) -> None:
        question = self._conversation.drop_last_answer()
        if question is None:
            click.echo("there is no answer yet", err=True)
        else:
            self._answer(question)

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


def _with(sampling: Sampling, **changes: float) -> Sampling:
    """The settings with some changed. Raises ValueError for a value out of bounds."""
    import msgspec

    values = {name: getattr(sampling, name) for name in sampling.__struct_fields__}
    return msgspec.convert({**values, **changes}, type=Sampling)
