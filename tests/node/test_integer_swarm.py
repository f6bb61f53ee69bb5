"""The whole protocol under the real shell and sockets, with a model that notices every misplaced step."""

from __future__ import annotations

from swarm.testing.integer_model import IntegerModel
from tests.swarms import client_of, generate, integer_swarm

MODEL = IntegerModel()
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def test_one_node_answers_as_the_model_alone() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, PROMPT, 64) == MODEL.answer(PROMPT, 64)


def test_three_nodes_answer_as_the_model_alone() -> None:
    with integer_swarm(MODEL, ["b 0-4", "4-8", "8-12 e"]) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, PROMPT, 64) == MODEL.answer(PROMPT, 64)
