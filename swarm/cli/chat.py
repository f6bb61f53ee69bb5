"""swarm-chat: talks to a model that the swarm serves. Imports no torch."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.command import cache_dir, run, version_option
from swarm.cli.connecting import connect, swarm_options

if TYPE_CHECKING:
    from swarm.client.conversation import Conversation, Event, Report, Settings
    from swarm.client.documents import Documents
    from swarm.client.swarm import SwarmClient

FIND_SECONDS = 6.0
DEFAULT_MAX_TOKENS = 512
NO_TEMPLATE = "{name} has no chat template: it is given what you write as it stands, and goes on from there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line as it was given; None where the model's own default counts."""

    model: str | None
    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stops: tuple[str, ...]
    ignore_eos: bool
    system: str
    thinking: bool | None
    why: bool


class Setting(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """One of the settings that /set knows too, told from its words alike."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        from swarm.client.settings import parse_setting
        from swarm.errors import RequestError

        try:
            return parse_setting(self.name, str(value))
        except RequestError as error:
            self.fail(str(error), param, ctx)


@click.command(name="swarm-chat", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", required=False)
@click.option("--model", help="Name or id of the model, where several are served.")
@click.option("--variant", default="", help="Use only this form of the model, as swarm-status names it.")
@click.option("--max-tokens", type=Setting("max_tokens"), default=DEFAULT_MAX_TOKENS, show_default=True)
@click.option(
    "--temperature",
    type=Setting("temperature"),
    help="0 is greedy; default: as the model's generation_config.json says, else 0.",
)
@click.option("--top-k", type=Setting("top_k"), help="Keep the k most likely tokens; 0 keeps all.")
@click.option("--top-p", type=Setting("top_p"), help="Keep the likeliest tokens that make up so much.")
@click.option("--typical-p", type=Setting("typical_p"), help="Likewise, of those that surprise as much as is usual.")
@click.option(
    "--repetition-penalty", type=Setting("repetition_penalty"), help="Above 1: less of what was said already."
)
@click.option("--seed", type=Setting("seed"), help="Default: drawn anew for each answer.")
@click.option("--stop", "stops", multiple=True, help="End the answer before this string; may be given again.")
@click.option("--ignore-eos", is_flag=True, help="Go on past the end-of-text token.")
@click.option("--system", default="", help="What the model is told before the conversation.")
@click.option(
    "--thinking/--no-thinking",
    "thinking",
    default=None,
    help="Whether a model that can think first does; default: as its template has it.",
)
@click.option(
    "--why", is_flag=True, help="After an answer, show where its tokens spent their time, and what would help."
)
@click.option("--raw", is_flag=True, help="Send PROMPT as it stands, without the chat template.")
@click.option("--score", "scores", is_flag=True, help="Do not answer: say how likely each answer of --of is.")
@click.option("--of", "answers", multiple=True, help="An answer for --score; may be given again.")
@click.option(
    "--likeliest",
    type=click.IntRange(0, 20),
    default=0,
    help="With --score and --jsonl: also so many likeliest tokens at each place.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--jsonl", is_flag=True, help="Print the route and each token as JSON lines, then that object.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0, 86_400),
    default=0.0,
    help="Seconds to wait for missing layers, before an answer and in the middle of one.",
)
@swarm_options
@version_option
def chat(
    prompt: str | None,
    model: str | None,
    variant: str,
    max_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    typical_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    stops: tuple[str, ...],
    ignore_eos: bool,
    system: str,
    thinking: bool | None,
    why: bool,
    raw: bool,
    scores: bool,
    answers: tuple[str, ...],
    likeliest: int,
    as_json: bool,
    jsonl: bool,
    wait_seconds: float,
    peers: tuple[str, ...],
    no_mdns: bool,
    hosts: tuple[str, ...],
    secret_file: Path | None,
) -> None:
    """Talk to a model that the swarm on this LAN serves.

    With PROMPT, or input from a pipe, prints the answer and ends; else opens a conversation.
    """
    prompt = read_prompt(prompt)
    if scores != bool(answers) or (scores and not prompt):
        raise click.UsageError("--score takes a PROMPT and an answer or more: --of ANSWER")
    options = Options(
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        typical_p=typical_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stops=stops,
        ignore_eos=ignore_eos,
        system=system,
        thinking=thinking,
        why=why,
    )
    with connect(peers, not no_mdns, hosts, secret_file, wait_seconds, variant) as swarm:
        conversation, documents = open_conversation(swarm, model)
        settings = make_settings(options, documents)
        if conversation.form is None and not raw:
            click.echo(f"swarm-chat: {NO_TEMPLATE.format(name=conversation.card.name)}", err=True)
        if prompt and scores:
            from swarm.cli.scores import print_scores

            with swarm.open_generation(conversation.card) as generation:
                print_scores(
                    generation,
                    conversation,
                    prompt,
                    answers,
                    settings,
                    likeliest,
                    is_raw=raw,
                    as_json=as_json,
                    each_token=jsonl,
                )
            return
        if prompt is None:
            from swarm.cli.terminal import Terminal

            Terminal(conversation, settings, drawn_seed=seed is None).run()
            return
        events = conversation.complete(prompt, settings) if raw else conversation.ask(prompt, settings)
        if as_json or jsonl:
            print_json(events, conversation, settings, each_token=jsonl)
        else:
            print_text(events)
            if why and conversation.last is not None:
                from swarm.cli.why import print_why

                print_why(conversation.last.why, conversation.names())
        if conversation.last is not None and conversation.last.was_capped:
            context, count = conversation.card.context, len(conversation.last.ids)
            click.echo(f"swarm-chat: the context of {context} tokens is full; {count} were answered", err=True)


def read_prompt(given: str | None) -> str | None:
    """The prompt of the command line, or what comes through a pipe; None on a terminal. Raises RequestError."""
    from swarm.errors import RequestError

    try:
        if given is not None:
            given.encode()
            return given
        return None if sys.stdin.isatty() else sys.stdin.buffer.read().decode()
    except UnicodeError as error:
        raise RequestError(f"the prompt is no UTF-8: {error}; convert it, for example with iconv -t UTF-8") from None


def open_conversation(swarm: SwarmClient, model: str | None) -> tuple[Conversation, Documents]:
    """A conversation with the model asked for, once a chain serves it."""
    from swarm.client.conversation import Conversation
    from swarm.client.documents import Documents

    card = swarm.card(swarm.find_model(model, FIND_SECONDS))
    documents = Documents(swarm, card, cache_dir() / "documents")
    tokenizer = documents.tokenizer()
    return Conversation(swarm, card, tokenizer, documents.prompt_form(tokenizer)), documents


def make_settings(options: Options, documents: Documents) -> Settings:
    """What the user asked for, and the model's own defaults for the rest."""
    from swarm.client.conversation import Settings
    from swarm.client.prompts import read_defaults
    from swarm.messages.sampling import Sampling

    defaults = {} if options.temperature == 0 else dict(read_defaults(documents.read("generation_config.json")))
    asked = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "typical_p": options.typical_p,
        "repetition_penalty": options.repetition_penalty,
    }
    merged: dict[str, Any] = {**defaults, **{name: value for name, value in asked.items() if value is not None}}
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    return Settings(
        max_tokens=options.max_tokens,
        sampling=Sampling(**merged, seed=seed),
        stops=options.stops,
        ignore_end=options.ignore_eos,
        system=options.system,
        thinking=options.thinking,
        explain=options.why,
    )


def print_text(events: Iterator[Event]) -> None:
    """Only the answer, as it comes."""
    from swarm.client.answer import Piece
    from swarm.client.conversation import Report

    shown = ""
    for event in events:
        if isinstance(event, Piece):
            text = event.text if shown else event.text.lstrip()
            shown += text
            click.echo(text, nl=False)
        elif isinstance(event, Report) and len(event.text) > len(shown):
            click.echo(event.text[len(shown) :], nl=False)
    click.echo()


def print_json(events: Iterator[Event], conversation: Conversation, settings: Settings, *, each_token: bool) -> None:
    """One object at the end; with `each_token` the route and the tokens before it, a line each."""
    from swarm.client.answer import Piece
    from swarm.client.conversation import Report
    from swarm.client.news import RouteTaken
    from swarm.plan.routes import describe_route

    for event in events:
        match event:
            case RouteTaken() if each_token:
                click.echo(json.dumps({"route": describe_route(event.route), "attempts": event.attempts}))
            case Piece(token, text) if each_token:
                click.echo(json.dumps({"token_id": token, "text": text}))
            case Report():
                click.echo(json.dumps(describe_report(event, conversation, settings)))
            case _:
                pass
        sys.stdout.flush()


def describe_report(report: Report, conversation: Conversation, settings: Settings) -> dict[str, object]:
    from swarm.plan.routes import describe_route

    return {
        "text": report.text,
        "prompt_token_ids": report.prompt_ids,
        "token_ids": report.ids,
        "finish_reason": report.finish,
        "model": conversation.card.name,
        "seed": settings.sampling.seed,
        "route": describe_route(report.route),
        "attempts": report.attempts,
        "crossed_kinds": report.has_crossed_kinds,
        "variants": [{"part": str(part), "variants": list(variants)} for part, variants in report.variants],
        "timings": {
            "first_token_seconds": round(report.first_token_seconds, 4),
            "tokens_per_second": round(report.tokens_per_second, 3),
            "longest_gap_seconds": round(report.longest_gap_seconds, 4),
        },
        **({} if report.why is None else {"why": report.why.describe(conversation.names())}),
    }


def main() -> None:
    run(chat)
