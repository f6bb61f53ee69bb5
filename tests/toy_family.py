"""A family that no checkpoint has: what a new one takes is this file, and one line in FAMILIES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.decoder.description import Decoder, DecoderFamily, Rope, Slot


class ToyFamily(DecoderFamily):
    """Two parallel branches with relu, each behind a norm of its own, and names of its own."""

    name = "toy"
    model_types: tuple[str, ...] = ("toy",)

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        hidden, ffn = raw["width"], 3 * raw["width"]
        return Decoder(
            layers=raw["depth"],
            hidden=hidden,
            heads=4,
            kv_heads=1,
            head_dim=hidden // 4,
            ffn=ffn,
            vocabulary=raw["words"],
            context=256,
            slots={
                "before_attention": Slot("look_norm", (hidden,), has_bias=True),
                "query_key_value": Slot("look", (hidden // 4 * 6, hidden), has_bias=False),
                "out": Slot("look_out", (hidden, hidden), has_bias=False),
                "before_mlp": Slot("think_norm", (hidden,), has_bias=True),
                "up": Slot("think", (ffn, hidden), has_bias=True),
                "down": Slot("think_out", (hidden, ffn), has_bias=True),
            },
            final_norm=Slot("last_norm", (hidden,), has_bias=True),
            ropes=(Rope(rotated=hidden // 4),),
            embedding="words",
            parallel=True,
            fused="grouped",
            norm="layer",
            tied=True,
            activation="relu",
            end_ids=(1,),
        )

    def checkpoint_names(self, key: str, tensor: str) -> tuple[str, ...]:
        return (f"{key}/{tensor}",)


TOY = ToyFamily()
