"""How configs of the LLaMA family tell their rotation, in the spellings of the library's fourth and fifth versions."""

from __future__ import annotations

import math

from swarm.decoder.config import Config
from swarm.decoder.description import Rope
from swarm.errors import WeightsError

_TOLD = frozenset({"rope_type", "type", "rope_theta"})
_KNOWN = "default, linear, llama3, yarn, longrope"


def read_rope(config: Config, head_dim: int, theta: float, context: int, *, is_partial: bool) -> tuple[Rope, int]:
    """The rotation, and the context for which it holds.

    theta: the type's default. is_partial: whether partial_rotary_factor is read. Raises WeightsError for a kind whose
    rotation of a position depends on how long the sequence becomes.
    """
    told = config.part("rope_scaling", "rope_parameters")
    return read_told_rope(config, told, head_dim, theta, context, is_partial=is_partial)


def read_told_rope(
    config: Config, told: Config, head_dim: int, theta: float, context: int, *, is_partial: bool
) -> tuple[Rope, int]:
    """The same of an object that tells it; what is not there is read from the config."""
    kind = told.text("rope_type", "type", default="default")
    share = told.real("partial_rotary_factor", default=config.real("partial_rotary_factor", default=1.0))
    rotated = int(head_dim * share) if is_partial else head_dim
    theta = told.real("rope_theta", default=config.real("rope_theta", default=theta), above=1)
    original = told.number("original_max_position_embeddings", default=context)
    original = config.number("original_max_position_embeddings", default=original)
    match kind:
        case "default":
            rope = Rope(rotated=rotated, theta=theta)
        case "linear":
            rope = Rope(rotated=rotated, theta=theta, kind="linear", factor=told.real("factor", above=0))
        case "llama3":
            rope = Rope(
                rotated=rotated,
                theta=theta,
                kind="llama3",
                factor=told.real("factor", above=0),
                original=original,
                low=told.real("low_freq_factor", above=0),
                high=told.real("high_freq_factor"),
            )
        case "yarn":
            rope = _read_yarn(told, rotated, theta, context, original)
        case "longrope" | "su":
            rope, context = _read_longrope(told, rotated, theta, context, original), original
        case _:
            raise WeightsError(f'config: rope scaling of type "{kind}" is not implemented; known: {_KNOWN}')
    told.refuse_unread(_TOLD)
    return rope, context


def _read_yarn(told: Config, rotated: int, theta: float, context: int, original: int) -> Rope:
    factor = told.real("factor", default=context / original, above=0)
    scales = [told.real(name, default=0.0) for name in ("mscale", "mscale_all_dim")]
    scale = _yarn_scale(factor, scales[0]) / _yarn_scale(factor, scales[1]) if all(scales) else _yarn_scale(factor, 1.0)
    return Rope(
        rotated=rotated,
        theta=theta,
        kind="yarn",
        factor=factor,
        original=original,
        low=told.real("beta_slow", default=1.0, above=0),
        high=told.real("beta_fast", default=32.0, above=0),
        truncate=told.flag("truncate", default=True),
        scale=told.real("attention_factor", default=scale),
    )


def _yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _read_longrope(told: Config, rotated: int, theta: float, context: int, original: int) -> Rope:
    """As it is up to the original context: beyond that, all positions would have to be rotated anew."""
    factor = told.real("factor", default=context / original, above=0)
    if original == 1:
        raise WeightsError("config: original_max_position_embeddings is 1; a rotation for one position tells nothing")
    scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    stretch = told.reals("short_factor")
    told.get("long_factor")
    if len(stretch) != rotated // 2:
        raise WeightsError(f"config: short_factor has {len(stretch)} numbers, the rotation takes {rotated // 2}")
    scale = told.real("attention_factor", default=scale)
    return Rope(rotated=rotated, theta=theta, kind="longrope", stretch=stretch, scale=scale)
