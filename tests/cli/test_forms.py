"""What is asked for of smaller weights: what goes together, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from swarm.cli.quantised import choose_form, read_quantisation
from swarm.errors import RequestError


class Plain:
    """Somewhere with plain matrices."""

    where = Path("model")
    config: ClassVar[dict[str, Any]] = {}

    def read(self, key: str, tensor: str) -> Any: ...

    def documents(self) -> Any: ...

    def fingerprint(self) -> Any: ...

    def close(self) -> None: ...


class Quantised(Plain):
    """Somewhere with matrices that are quantised."""

    def __init__(self, form: str | None) -> None:
        self.form = form

    def keep(self, key: str, tensor: str) -> Any: ...


def choose(
    source: Plain, form: str | None = None, other: str | None = None, *, keeps: bool = False
) -> tuple[str, bool]:
    quantisation, keeps = choose_form(source, Path("model"), form, None, other, keeps_blocks=keeps)
    return "" if quantisation is None else quantisation.name, keeps


def test_what_becomes_of_matrices() -> None:
    assert choose(Plain()) == ("", False)
    assert choose(Plain(), "int8") == ("int8", False)
    assert choose(Plain(), "int4") == ("int4:64/int8", False)
    assert choose(Plain(), "int4:32/plain") == ("int4:32/plain", False)
    assert choose(Quantised("gptq")) == ("", True)
    assert choose(Quantised("gptq"), other="int8") == ("int8", False)
    assert choose(Quantised("gptq"), other="plain") == ("plain", False)
    assert choose(Quantised("gguf")) == ("", False)
    assert choose(Quantised("gguf"), keeps=True) == ("", True)
    assert choose(Quantised("gguf"), "int8") == ("int8", False)


def test_what_has_no_form_becomes_plain_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(Quantised(None)) == ("", True)
    assert "its matrices become plain; --requantize int8 makes them smaller" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "form", "other", "keeps", "pattern"),
    [
        (Quantised("awq"), "int8", None, False, "quantised already; leave --quantize out .* or pass --requantize int8"),
        (Plain(), None, None, True, "--keep-blocks is for GGUF files; model is none"),
        (Quantised("gptq"), None, None, True, "--keep-blocks is for GGUF files"),
        (Quantised("gguf"), "int8", None, True, "--keep-blocks and --quantize int8 do not go together"),
        (
            Plain(),
            None,
            "int8",
            False,
            "--requantize is for GPTQ, AWQ and FP8 checkpoints; model is none: pass --quantize",
        ),
        (Quantised("gguf"), None, "int8", False, "--requantize is for GPTQ"),
        (Plain(), "int5", None, False, '"int5" is no form of matrices; choose plain, int8, int4:32, int4:64, int4:128'),
        (Plain(), "int4:100", None, False, '"int4:100" is no form'),
    ],
)
def test_what_does_not_go_together_is_said(
    source: Plain, form: str | None, other: str | None, keeps: bool, pattern: str
) -> None:
    with pytest.raises(RequestError, match=pattern):
        choose(source, form, other, keeps=keeps)


def test_a_head_alone_is_not_quantised() -> None:
    with pytest.raises(RequestError, match="--quantize-head int8 goes with --quantize"):
        read_quantisation(None, "int8")
