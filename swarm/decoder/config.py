"""Reads a checkpoint's config.json key by key, with checks. What nobody reads may change the mathematics, and is refused.

Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, cast

from swarm.errors import WeightsError

# Keys that no computation reads, whatever the family.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation architectures attention_dropout auto_map bos_token_id chunk_size_feed_forward dtype
    eos_token_id finetuning_task id2label initializer_range is_decoder is_encoder_decoder label2id max_new_tokens model_type
    name_or_path output_attentions output_hidden_states pad_token_id problem_type return_dict torch_dtype
    transformers_version unk_token_id use_cache use_return_dict
    """.split()
)
MOST = 1 << 24  # of anything
MOST_LAYERS = 1 << 14


class Config:
    """An object of a config.json. Every reader raises WeightsError naming the key; a value of null counts as absent."""

    def __init__(self, raw: Mapping[str, Any], where: str = "config") -> None:
        """where: what it is called in messages."""
        self._raw = raw
        self._where = where
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether a key is there, null or not."""
        return name in self._raw

    def get(self, *names: str) -> object:
        """The first of some spellings of one key that is there; None without any."""
        self._read.update(names)
        return next((self._raw[name] for name in names if self._raw.get(name) is not None), None)

    def number(self, *names: str, default: int | None = None, most: int = MOST) -> int:
        """A positive whole number, up to `most`."""
        name, found = self._find(names, default)
        value = self._whole(name, found)
        if value <= 0:
            raise WeightsError(f"{self._where}: {name} is {value}; it must be a positive number")
        if value > most:
            raise WeightsError(f"{self._where}: {name} is {value}; it must be a number of at most {most}")
        return value

    def real(self, *names: str, default: float | None = None, above: float = -math.inf) -> float:
        """A finite number that is larger than `above`."""
        name, found = self._find(names, default)
        value = self._real(name, found)
        if not value > above:
            raise WeightsError(f"{self._where}: {name} is {_shown(found)}; it must be a number above {above:g}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false; null is false, as whoever reads it would have it."""
        return default if not self.has(name) else bool(self.get(name))

    def text(self, *names: str, default: str | None = None) -> str:
        """A string."""
        name, value = self._find(names, default)
        if not isinstance(value, str):
            raise WeightsError(f"{self._where}: {name} is {_shown(value)}; it must be a string")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """A token id, or a list of them; none if it is absent."""
        return tuple(self._whole(name, one) for one in self._values(name))

    def reals(self, name: str) -> tuple[float, ...]:
        """A list of numbers; none if it is absent."""
        return tuple(self._real(name, one) for one in self._values(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; none if it is absent."""
        return tuple(str(one) for one in self._values(name))

    def part(self, *names: str) -> Config:
        """An object inside; an empty one if it is absent."""
        name, value = self._find(names, {})
        if not isinstance(value, Mapping):
            raise WeightsError(f"{self._where}: {name} is {_shown(value)}; it must be an object")
        return Config(cast("Mapping[str, Any]", value), name)

    def model_type(self, known: Collection[str]) -> str:
        """Which of the types that a family reads this is."""
        value = self.get("model_type")
        if value not in known:
            raise WeightsError(f'config: model_type "{value}" is unsupported; known: {", ".join(known)}')
        return str(value)

    @property
    def unread(self) -> list[str]:
        """Keys that are set and that nobody has read."""
        return sorted(
            name for name, value in self._raw.items() if name not in self._read and value not in (None, False)
        )

    def refuse_unread(self, harmless: Collection[str] = HARMLESS) -> None:
        """Raise WeightsError if a key is set that nobody has read."""
        unknown = [name for name in self.unread if name not in harmless]
        if unknown:
            raise WeightsError(
                f"{self._where}: unknown key {', '.join(unknown)}: it may change the mathematics; "
                "remove it from config.json if you know that it does not"
            )

    def _find(self, names: tuple[str, ...], default: object) -> tuple[str, object]:
        value = self.get(*names)
        if value is None:
            if default is None:
                raise WeightsError(f"{self._where}: {' or '.join(names)} is missing")
            return names[0], default
        return next(name for name in names if self._raw.get(name) is not None), value

    def _values(self, name: str) -> list[object]:
        value = self.get(name)
        return cast("list[object]", value) if isinstance(value, list) else [] if value is None else [value]

    def _whole(self, name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise WeightsError(f"{self._where}: {name} is {_shown(value)}; it must be a whole number")
        return value

    def _real(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise WeightsError(f"{self._where}: {name} is {_shown(value)}; it must be a number")
        return float(value)


def _shown(value: object) -> str:
    return json.dumps(value)[:60]
