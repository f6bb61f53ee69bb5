"""A beat is read once; what makes no sense of it is nobody else's loss."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from swarm.messages.members import Beat, Capacity, Claim
from swarm.parts import parse_part
from swarm.plan.view import read_views
from tests.beats import make_beat

MODEL = "1" * 32


def beat(node: str, part: str, layers: int = 8, present: str = "f", others: Sequence[Claim] = ()) -> Beat:
    """others: what it claims besides."""
    claim = Claim(model=MODEL, name="m", layers=layers, part=part, state="serving", variant="int4")
    capacity = Capacity(
        model=MODEL,
        variant="int4",
        name="m",
        layers=layers,
        layer_bytes=10,
        begin_bytes=1,
        end_bytes=2,
        budget_bytes=50,
        present=present,
    )
    return structs.replace(make_beat(node, claim), claims=[claim, *others], capacities=[capacity])


def test_what_is_no_part_of_the_model_hides_nobody_else() -> None:
    views = read_views(
        [beat("b", "4-8 e"), beat("a", "0-400"), beat("c", "b 0-4", present="x"), beat("d", "f")], MODEL, 8
    )
    assert [view.node[0] for view in views] == ["b", "d"]


def test_who_speaks_of_another_number_of_layers_speaks_of_another_model() -> None:
    assert read_views([beat("a", "f", layers=9)], MODEL, 8) == []


def test_a_view_is_what_planner_and_router_need() -> None:
    (view,) = read_views([beat("a", "4-8 e")], MODEL, 8)
    assert (view.server.node, view.server.variant, str(view.server.part)) == ("a" * 16, "int4", "4-8 e")
    member = view.member(8)
    assert (member.budget, member.part, member.stays) == (50, parse_part("4-8 e", 8), False)
    assert view.member(8, passed=["a" * 16]).stays


def test_a_nodes_variants_of_a_model_are_told_apart() -> None:
    """Each has its parts, figures and memory; others of its machine count for the same variant alone."""
    claims = [
        Claim(model=MODEL, name="m", layers=8, part=part, state=state, variant="bfloat16", layer_seconds=seconds)
        for part, state, seconds in (("0-2", "serving", 0.2), ("2-3", "loading", 0.1))
    ]
    small, large = sorted(read_views([beat("a", "f", others=claims)], MODEL, 8), key=lambda view: -len(view.variant))[
        ::-1
    ]
    assert (small.variant, small.part("serving"), small.budget) == ("int4", parse_part("f", 8), 50)
    assert (large.variant, large.part("serving", "loading"), large.budget) == ("bfloat16", parse_part("0-3", 8), None)
    assert (small.pace.layer, large.pace.layer) == (0.0, 0.1)
