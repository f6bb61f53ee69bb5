"""Text out of tokens: whole characters, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from swarm.client.text import StopScanner, TextStream


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = byte_tokenizer()


@given(st.text(max_size=30).filter(lambda text: "\ufffd" not in text))
def test_pieces_add_up_and_never_end_in_half_a_character(text: str) -> None:
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(token) for token in TOKENIZER.encode(text).ids]
    assert "".join(pieces) + stream.finish() == text
    assert all("\ufffd" not in piece for piece in pieces)


@given(st.text("abU\n", max_size=40), st.lists(st.text("abU\n", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_a_scanner_lets_through_just_what_comes_before_the_first_stop(text: str, stops: list[str], size: int) -> None:
    scanner = StopScanner(stops)
    shown, is_stopped = "", False
    for start in range(0, len(text), size):
        scanned = scanner.push(text[start : start + size])
        shown += scanned.text
        if scanned.is_stopped:
            is_stopped = True
            break
    if not is_stopped:
        shown += scanner.finish()
    first = min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=len(text))
    assert is_stopped == any(stop in text for stop in stops)
    assert shown == text[:first] or (is_stopped and text.startswith(shown) and not any(stop in shown for stop in stops))
