"""How likely given answers are, as swarm-chat --score prints it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from swarm.client.conversation import Conversation, Settings
from swarm.client.prompts import Message
from swarm.client.scoring import GivenAnswer, encode_answer, score_answer
from swarm.client.swarm import Generation
from swarm.messages.steps import Score


def print_scores(
    generation: Generation,
    conversation: Conversation,
    question: str,
    answers: Sequence[str],
    settings: Settings,
    likeliest: int,
    *,
    is_raw: bool,
    as_json: bool,
    each_token: bool,
) -> None:
    """A line an answer, and the best; or one JSON object at the end, with each_token a line a token before it.

    is_raw: the question is sent as it stands. likeliest: so many other tokens with each.
    """
    is_plain = is_raw or conversation.form is None
    prompt = question if is_plain else conversation.write_prompt([Message("user", question)], settings)
    given = [encode_answer(conversation.tokenizer, prompt, answer, is_raw=is_plain) for answer in answers]
    totals: list[float] = []
    for number, answer in enumerate(given):
        total = 0.0
        for token, score in score_answer(generation, answer, likeliest):
            total += score.log_probability
            if each_token:
                click.echo(json.dumps({"answer": number, **_describe(conversation, token, score)}))
        totals.append(total)
        if not as_json and not each_token:
            click.echo(f"{total:12.4f}  {answer.text}")
    best = max(range(len(totals)), key=totals.__getitem__)
    if as_json or each_token:
        click.echo(json.dumps(_describe_all(conversation, given, totals, best)))
    else:
        click.echo(f"best: {answers[best]}")


def _describe(conversation: Conversation, token: int, score: Score) -> dict[str, object]:
    others = [
        {"token_id": one, "text": _text(conversation, one), "log_probability": log} for one, log in score.likeliest
    ]
    told: dict[str, object] = {
        "token_id": token,
        "text": _text(conversation, token),
        "log_probability": score.log_probability,
    }
    return {**told, "likeliest": others} if others else told


def _describe_all(
    conversation: Conversation, given: Sequence[GivenAnswer], totals: Sequence[float], best: int
) -> dict[str, object]:
    answers = [
        {
            "text": answer.text,
            "prompt_tokens": len(answer.prompt_ids),
            "token_ids": list(answer.ids),
            "log_probability": total,
        }
        for answer, total in zip(given, totals, strict=True)
    ]
    return {"answers": answers, "best": best, "model": conversation.card.name}


def _text(conversation: Conversation, token: int) -> str:
    return conversation.tokenizer.decode([token], skip_special_tokens=False)
