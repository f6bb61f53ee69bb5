"""What messages are made of: bounded numbers and names, and their common ancestor."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL = 1

NodeId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
ModelId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
# Only ever looked up among ids that are known, so their length is all that needs checking: a pattern would be most of
# what it costs to decode a step.
SessionId = Annotated[str, Meta(min_length=32, max_length=32)]
KnownModelId = Annotated[str, Meta(min_length=32, max_length=32)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=500)]
MOST_SPEC = 200
Spec = Annotated[str, Meta(max_length=MOST_SPEC)]
Address = Annotated[str, Meta(max_length=80, pattern=r"^[0-9A-Za-z.:\[\]%_-]+:[0-9]{1,5}$")]
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Small = Annotated[int, Meta(ge=0, le=1 << 24)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Channel = Literal["control", "data"]
ClaimState = Literal["unplaced", "loading", "serving", "draining"]
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "uint8"]


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message is."""
