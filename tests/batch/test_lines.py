"""Lines of input: what each asks for, and what is wrong with those that cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.batch.lines import MOST_LINE, BadLine, Request, parse_line, read_lines
from swarm.batch.partial import Partial
from swarm.batch.progress import Progress
from swarm.batch.texts import Text, TextBytes, group, seconds_left
from swarm.client.prompts import Message
from swarm.errors import RequestError
from swarm.messages.sampling import Sampling


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"prompt": "a"}', Request(7, "a")),
        ('{"prompt": "a", "max_tokens": 3}', Request(7, "a", max_tokens=3)),
        ('{"prompt": "a", "continuations": ["b", "c"]}', Request(7, "a", continuations=("b", "c"))),
        ('{"messages": [{"role": "user", "content": "a"}]}', Request(7, messages=[Message("user", "a")])),
        (
            '{"custom_id": "x", "body": {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 9}}',
            Request(7, messages=[Message("user", "a")], max_tokens=9, custom_id="x"),
        ),
        ("no json", BadLine(7, "no JSON")),
        ("[1]", BadLine(7, "no JSON object")),
        ("[" * 100_000, BadLine(7, "no JSON")),
        ("{}", BadLine(7, "neither prompt, a text, nor messages")),
        ('{"prompt": ""}', BadLine(7, "neither prompt, a text, nor messages")),
        ('{"prompt": "a", "messages": []}', BadLine(7, "prompt or messages, not both")),
        ('{"prompt": "a", "max_tokens": 0}', BadLine(7, "max_tokens 0 is no number from 1 on")),
        ('{"prompt": "a", "max_tokens": true}', BadLine(7, "max_tokens True is no number from 1 on")),
        ('{"prompt": "a", "continuations": "b"}', BadLine(7, "continuations are a list of texts")),
        ('{"messages": []}', BadLine(7, "messages are a list of objects with role and content")),
        ('{"messages": [1]}', BadLine(7, "a message has a role (system, user, assistant) and a content, a text")),
        ('{"custom_id": "x"}', BadLine(7, "custom_id goes with a body: an object", "x")),
        ('{"custom_id": "x", "body": {}}', BadLine(7, "neither prompt, a text, nor messages", "x")),
    ],
)
def test_a_line_is_what_it_asks_for(line: str, expected: Request | BadLine) -> None:
    assert parse_line(7, line.encode()) == expected


def test_a_file_of_anything_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n\n\xff\xfe\x00\n"' + b"x" * (3 * MOST_LINE) + b'"\n{"prompt": "b"}')
    found = read_lines(path)
    assert [type(one) for one in found] == [Request, BadLine, BadLine, Request]
    assert [one.number for one in found] == [1, 3, 4, 5]
    assert found[2] == BadLine(4, "longer than 4 MiB")
    path.write_bytes(b"\n \n")
    with pytest.raises(RequestError, match="is empty"):
        read_lines(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_lines(tmp_path / "none")


def make_text(line: int, prompt: int, most: int, *, is_given: bool = False) -> Text:
    return Text(line, 0, [1] * (prompt + most * is_given), prompt, most, Sampling(), is_given)


def test_as_many_texts_run_together_as_there_is_room_for() -> None:
    texts = [make_text(1, 5, 5), make_text(3, 9, 1), make_text(4, 30, 10)]
    sizes = TextBytes(9, 2, 1)
    assert [sizes.of(text) for text in texts] == [110, 110, 440]
    assert [[text.line for text in some] for some in group(texts, sizes, 220)] == [[1, 3], [4]]
    assert [[text.line for text in some] for some in group(texts, sizes, 660)] == [[1, 3, 4]]
    assert list(group([], sizes, 1)) == []
    assert seconds_left(2.0, [[texts[0], texts[2]], [texts[1]], []]) == 2.0 * (10 + 1)
    texts[2].finish = "stop"
    assert seconds_left(2.0, [[texts[2]], [texts[1]]]) == 2.0


def test_of_texts_that_go_through_once_a_layer_takes_memory_for_those_that_are_in_it() -> None:
    texts = [make_text(1, 5, 15, is_given=True), make_text(2, 10, 20, is_given=True)]
    sizes = TextBytes(9, 2, 1)
    assert sizes.of_given(texts) == 50
    assert sizes.of_piece(texts, 25) == 30 * 4
    assert sizes.of_piece(texts, 100) == 100 * 4
    assert sizes.of_piece([], 0) == 0


def test_what_is_done_is_kept_and_belongs_to_just_that_batch(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    kept = Partial(path, {"input": "a"})
    assert not kept.was_begun
    kept.note({"1.0": 7}, {}, {})
    kept.note({"1.0": 8}, {"2.0": [-0.5]}, {"2.0": "scored"})
    with path.open("ab") as file:
        file.write(b'{"tokens": {"1.0": 9')  # it ended here
    for _ in range(2):
        again = Partial(path, {"input": "a"})
        assert again.was_begun
        assert (again.answers, again.scores, again.finished) == (
            {"1.0": [7, 8]},
            {"2.0": [-0.5]},
            {"2.0": "scored"},
        )
    with pytest.raises(RequestError, match="is of another input, model or settings"):
        Partial(path, {"input": "b"})
    path.write_text("nonsense\n")
    with pytest.raises(RequestError, match="cannot be gone on with"):
        Partial(path, {"input": "a"})


def test_the_time_that_is_left_is_that_of_the_steps_so_far() -> None:
    said: list[str] = []
    now = 100.0
    progress = Progress(said.append, lambda: now)
    now = 104.0
    progress.note(10, "a few done")
    assert said == [], "not more often than one reads"
    now = 106.0
    progress.note(9, "some done")
    now = 400.0
    progress.note(100, "more done")
    progress.begin()
    now = 410.0
    progress.note(3, "another kind of step")
    assert said == [
        "some done, at most 27 s left",
        "more done, at most 167 min left",
        "another kind of step, at most 30 s left",
    ]
