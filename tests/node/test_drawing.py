"""What a batch's spans want is drawn at once, from as many rows as each asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.decoder.device import Cpu
from swarm.falcon import init_part
from swarm.messages.sampling import Sampling
from swarm.messages.tensors import ids_tensor
from swarm.node.batches import DRAWN, SAMPLED_ROWS, Batch, Drawn, Want, WorkSpan
from swarm.node.compute.engine import DecoderEngine
from swarm.node.residence import ALL_KEPT
from tests.checkpoints import save_sepweight
from tests.decoder.engine_script import MODEL, loader_of, parse_part

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
WHOLE = parse_part("f", 4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drawing") / "weights"
    save_sepweight("40b", directory)
    return directory


@pytest.fixture
def engine(weights: Path) -> DecoderEngine:
    *_, make = loader_of(weights, Cpu()).load(MODEL, WHOLE, ALL_KEPT, None)
    assert callable(make)
    engine = make(None)
    assert isinstance(engine, DecoderEngine)
    return engine


def run(engine: DecoderEngine, *wants: Want | None) -> tuple[Drawn, ...]:
    """A prompt for each of as many sessions."""
    spans = tuple(WorkSpan(f"s{index}", 1, 0, 0, len(IDS), 64, True, want) for index, want in enumerate(wants))
    result = engine.run(Batch(1, MODEL, WHOLE, spans, (ids_tensor(IDS),) * len(spans), ()))
    for span in spans:
        engine.forget(span.session, WHOLE)
    return result.drawn


def test_rows_ids_and_how_likely_they_are_come_of_the_models_logits(weights: Path, engine: DecoderEngine) -> None:
    logits = init_part(weights, "f")(IDS)
    (drawn,) = run(engine, Want(Sampling(), 5, None, rows=4, given=(9, 2, 6, 7), top=3))
    logs = logits[-4:].log_softmax(-1)
    assert list(drawn.ids) == logits[-4:].argmax(-1).tolist()
    assert drawn.given == pytest.approx([float(row[token]) for row, token in zip(logs, (9, 2, 6, 7), strict=True)])
    for row, likeliest in zip(logs, drawn.top, strict=True):
        assert [token for token, _ in likeliest] == row.topk(3).indices.tolist()
        assert [value for _, value in likeliest] == pytest.approx(row.topk(3).values.tolist())


def test_how_likely_the_token_itself_was_can_be_asked_before_it_is_known(weights: Path, engine: DecoderEngine) -> None:
    sampling = Sampling(temperature=3.0, seed=11)
    (drawn,) = run(engine, Want(sampling, len(IDS), None, given=(DRAWN,)))
    logs = init_part(weights, "f")(IDS)[-1].log_softmax(-1)
    assert drawn.ids[0] != int(logs.argmax())
    assert drawn.given == pytest.approx([float(logs[drawn.ids[0]])])


def test_each_row_is_drawn_as_a_step_of_its_own_would_be(engine: DecoderEngine) -> None:
    """With a penalty, too: the ids before each row count, and none behind."""
    sampling = Sampling(temperature=0.9, top_k=30, repetition_penalty=1.5, seed=4)
    (drawn,) = run(engine, Want(sampling, 6, IDS, rows=3))
    for row in range(3):
        spans = (WorkSpan("s", 1, 0, 0, 6 + row, 64, True, Want(sampling, 6 + row, IDS[: 6 + row])),)
        alone = engine.run(Batch(1, MODEL, WHOLE, spans, (ids_tensor(IDS[: 6 + row]),), ()))
        assert alone.drawn == (Drawn((drawn.ids[row],)),)


def test_those_who_want_more_and_those_who_want_nothing_change_nobodys_draw(engine: DecoderEngine) -> None:
    plain = Want(Sampling(temperature=1.0, seed=9), len(IDS), None)
    rich = Want(Sampling(), 3, None, rows=6, given=(1, 5, 9, 2, 6, 0), top=2)
    (alone,) = run(engine, plain)
    (scored,) = run(engine, rich)
    many = run(engine, *([plain] * SAMPLED_ROWS), None, rich, plain)
    assert many[:SAMPLED_ROWS] == (alone,) * SAMPLED_ROWS
    assert many[SAMPLED_ROWS:] == (scored, alone)
    assert not alone.given
    assert not alone.top


def test_a_vocabulary_smaller_than_what_is_asked_for_gives_all_of_it(engine: DecoderEngine) -> None:
    (drawn,) = run(engine, Want(Sampling(), len(IDS), None, top=1000))
    assert sorted(token for token, _ in drawn.top[0]) == list(range(97))


def test_logits_that_are_not_finite_are_no_answer(engine: DecoderEngine) -> None:
    assert engine.part.head is not None
    with torch.no_grad():
        engine.part.head.norm.weight.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="NaN or infinity"):
        run(engine, Want(Sampling(), len(IDS), None))
