"""A route covers begin…end exactly once, and is the cheapest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.parts import parse_part, part_of_cells, whole
from swarm.plan.routes import Server, find_route, missing_part, variants_of

LAYERS = 12
server_lists = st.lists(
    st.builds(
        lambda node, start, length, speed, variant: Server(
            f"{node:02}", part_of_cells(start, min(start + length, LAYERS + 2), LAYERS), speed, variant=variant
        ),
        st.integers(0, 20),
        st.integers(0, LAYERS + 1),
        st.integers(1, LAYERS + 2),
        st.sampled_from([0.001, 0.002, 0.01]),
        st.sampled_from(["bfloat16", "int4"]),
    ),
    max_size=10,
)


@given(server_lists)
@settings(max_examples=300)
def test_every_cell_is_covered_exactly_once_or_there_is_no_route(servers: list[Server]) -> None:
    route = find_route(servers, LAYERS)
    assert bool(route) == (missing_part(servers, LAYERS).is_empty())
    if route:
        assert [cell for hop in route for cell in hop.part.cells] == list(range(LAYERS + 2))
        for hop in route:
            assert any(
                (server.node, server.variant) == (hop.node, hop.variant) and server.part.covers(hop.part)
                for server in servers
            )
        complete = {
            variant
            for variant in ("bfloat16", "int4")
            if missing_part([server for server in servers if server.variant == variant], LAYERS).is_empty()
        }
        used = {hop.variant for hop in route}
        assert used in [{variant} for variant in complete] if complete else len(used) == 2
        for variant in complete:
            wanted = dict.fromkeys(range(LAYERS + 2), variant)
            assert {hop.variant for hop in find_route(servers, LAYERS, wanted=wanted)} == {variant}
    assert route == find_route(list(reversed(servers)), LAYERS)


@given(server_lists, st.lists(st.sampled_from(["bfloat16", "int4"]), min_size=LAYERS + 2, max_size=LAYERS + 2))
@settings(max_examples=300)
def test_a_cell_changes_its_variant_only_where_nobody_serves_it_in_that(servers: list[Server], like: list[str]) -> None:
    wanted = dict(enumerate(like))
    route = find_route(servers, LAYERS, wanted=wanted)
    assert bool(route) == (missing_part(servers, LAYERS).is_empty())
    served = {(cell, server.variant) for server in servers for cell in server.part.cells}
    for cell, variant in variants_of(route).items():
        assert variant == wanted[cell] or (cell, wanted[cell]) not in served
    assert [cell for hop in route for cell in hop.part.cells] == (list(range(LAYERS + 2)) if route else [])
    assert route == find_route(list(reversed(servers)), LAYERS, wanted=wanted)


def test_a_fast_node_is_preferred_and_a_short_chain_too() -> None:
    slow, fast = Server("1", whole(LAYERS), 0.02), Server("2", whole(LAYERS), 0.001)
    assert [hop.node for hop in find_route([slow, fast], LAYERS)] == ["2"]
    halves = [Server("3", parse_part("b 0-6", LAYERS), 0.001), Server("4", parse_part("6-12 e", LAYERS), 0.001)]
    assert [hop.node for hop in find_route([*halves, fast], LAYERS)] == ["2"]
    assert [hop.node for hop in find_route([*halves, fast], LAYERS, avoid={"2"})] == ["3", "4"]


def test_of_one_nodes_two_variants_the_same_one_is_taken_in_whatever_order_they_are_given() -> None:
    both = [Server("1", parse_part("b", LAYERS), variant=variant) for variant in ("bfloat16", "int4")]
    rest = [
        Server("2", parse_part("0-6", LAYERS), variant="int4"),
        Server("3", parse_part("6-12 e", LAYERS), variant="bfloat16"),
    ]
    assert find_route([*both, *rest], LAYERS) == find_route([*rest, *reversed(both)], LAYERS) != []
