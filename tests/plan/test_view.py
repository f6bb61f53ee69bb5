"""A beat is read once; what makes no sense of it is nobody else's loss."""

from __future__ import annotations

from swarm.messages.members import Beat, Capacity, Claim
from swarm.parts import parse_part
from swarm.plan.view import read_views
from tests.beats import make_beat

MODEL = "1" * 32


def beat(node: str, part: str, layers: int = 8, present: str = "f") -> Beat:
    claim = Claim(model=MODEL, name="m", layers=layers, part=part, state="serving", variant="int4")
    capacity = Capacity(
        model=MODEL,
        name="m",
        layers=layers,
        layer_bytes=10,
        begin_bytes=1,
        end_bytes=2,
        budget_bytes=50,
        present=present,
    )
    return Beat(
        **{name: getattr(make_beat(node, claim), name) for name in Beat.__struct_fields__ if name != "capacities"},
        capacities=[capacity],
    )


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
