"""What POST /v1/responses is asked."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from swarm.client.prompts import Message
from swarm.gateway.failures import unsupported, wrong
from swarm.gateway.openai.chat import ContentPart, join_text
from swarm.gateway.openai.fields import likeliest

DROPPED = "reasoning"  # what earlier answers were thought with
TEXTS = ("input_text", "output_text", "text")
SCORES = "message.output_text.logprobs"  # among what is to be included


class Item(Struct, frozen=True):
    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] = "user"
    content: str | list[ContentPart] | None = None


class ResponsesRequest(Struct, frozen=True, kw_only=True):
    """https://platform.openai.com/docs/api-reference/responses/create"""

    model: str
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    tools: list[Any] | None = None
    tool_choice: Any = None

    def refuse(self) -> None:
        """Raise Failure for what would change the answer in a way that there is not."""
        if self.tools:
            raise unsupported("tools", "are not to be had: this model server only writes text")
        if self.tool_choice not in (None, "none", "auto"):
            raise unsupported("tool_choice", "there are no tools")
        for name in ("background", "conversation", "prompt"):
            if getattr(self, name):
                raise unsupported(name, "is not to be had")
        form = (self.text or {}).get("format")
        if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):  # pyright: ignore[reportUnknownMemberType]
            raise unsupported("text.format", "only text is to be had")

    @property
    def scores(self) -> int | None:
        """How many likeliest tokens come with each one; None: nothing. Raises Failure."""
        count = likeliest("top_logprobs", self.top_logprobs or 0)
        return count if SCORES in (self.include or []) else None

    @property
    def thinking(self) -> bool | None:
        """Whether a model that can think first does; None: as it is used to."""
        effort = (self.reasoning or {}).get("effort")
        return None if effort is None else effort != "none"

    def said(self) -> list[Message]:
        """What is new of the conversation. Raises Failure."""
        if isinstance(self.input, str):
            return [Message("user", self.input)]
        found: list[Message] = []
        for place, item in enumerate(self.input):
            if item.type == DROPPED:
                continue
            if item.type != "message":
                raise unsupported(f"input[{place}].type", f'only "message" is read, not "{item.type}"')
            role = "system" if item.role == "developer" else item.role
            found.append(Message(role, join_text(item.content, f"input[{place}].content", TEXTS)))
        if not found:
            raise wrong("input", "is empty")
        return found
