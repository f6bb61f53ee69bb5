"""A line of output for each line of input. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from swarm.batch.lines import BadLine, Request
from swarm.batch.texts import Text


def describe_error(line: BadLine) -> dict[str, object]:
    """Of a line that could not be done."""
    if line.custom_id:
        error = {"code": "invalid_request", "message": line.message}
        return {"id": f"line-{line.number}", "custom_id": line.custom_id, "response": None, "error": error}
    return {"line": line.number, "error": line.message}


def describe_answer(request: Request, text: Text, said: str, model: str) -> dict[str, object]:
    """Of a prompt that was answered. said: the answer's text."""
    if not request.custom_id:
        return {"line": request.number, "text": said, "token_ids": text.answer, "finish": text.finish}
    if request.messages:
        choice: dict[str, object] = {"message": {"role": "assistant", "content": said}}
    else:
        choice = {"text": said}
    body = {
        "object": "chat.completion" if request.messages else "text_completion",
        "model": model,
        "choices": [{"index": 0, **choice, "finish_reason": text.finish}],
        "usage": {
            "prompt_tokens": text.prompt,
            "completion_tokens": len(text.answer),
            "total_tokens": len(text.ids),
        },
    }
    response = {"status_code": 200, "request_id": f"line-{request.number}", "body": body}
    return {"id": f"line-{request.number}", "custom_id": request.custom_id, "response": response, "error": None}


def describe_scores(request: Request, texts: Sequence[Text]) -> dict[str, object]:
    """Of a prompt's continuations, or of a prompt itself."""
    totals = [math.fsum(text.scores) for text in texts]
    if not request.continuations:
        (text,), (total,) = texts, totals
        mean = total / len(text.scores)
        return {
            "line": request.number,
            "log_probability": total,
            "tokens": len(text.scores),
            "perplexity": math.exp(-mean),
        }
    return {
        "line": request.number,
        "continuations": [
            {
                "text": written,
                "log_probability": total,
                "token_ids": text.answer,
                "token_log_probabilities": text.scores,
            }
            for written, text, total in zip(request.continuations, texts, totals, strict=True)
        ],
        "best": max(range(len(totals)), key=lambda index: totals[index]),
    }
