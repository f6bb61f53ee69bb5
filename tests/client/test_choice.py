"""Which chain a session takes: the best there is, around nodes that failed lately where that is possible."""

from __future__ import annotations

from collections.abc import Hashable

from swarm.client.choice import AVOID_SECONDS, RouteChoice
from swarm.client.route_view import RouteView
from swarm.messages.base import ClaimState
from swarm.messages.members import Beat, Claim
from swarm.parts import parse_part
from swarm.plan.routes import Hop, variants_of
from swarm.testing.integer_model import MODEL_ID, IntegerModel
from tests.beats import make_beat

MODEL = IntegerModel(layers=8)


def beat(
    node: str,
    part: str,
    layer_seconds: float = 0.004,
    state: ClaimState = "serving",
    sessions: int = 0,
    machine: str = "",
    prompt_seconds: float = 0.0,
    variant: str = "",
    loaded_bytes: int = 0,
) -> Beat:
    claim = Claim(
        model=MODEL_ID,
        name="integers",
        layers=8,
        part=part,
        state=state,
        layer_seconds=layer_seconds,
        prompt_seconds=prompt_seconds,
        variant=variant,
        loaded_bytes=loaded_bytes,
    )
    return make_beat(node, claim, machine=machine, sessions=sessions)


def choose(*beats: Beat) -> RouteChoice:
    choice = RouteChoice(MODEL.card)
    choice.see(RouteView(beats))
    return choice


def names(route: list[Hop]) -> str:
    return "".join(hop.node[0] for hop in route)


def test_a_node_that_failed_is_left_out_for_a_while_where_there_is_another() -> None:
    choice = choose(beat("a", "b 0-4"), beat("b", "b 0-4", 0.005), beat("c", "4-8 e"))
    assert names(choice.find(0.0)) == "ac"
    choice.avoid(["a" * 16, "c" * 16], 0.0)
    assert names(choice.find(1.0)) == "ac", "better than none"
    choice = choose(beat("a", "b 0-4"), beat("b", "b 0-4", 0.005), beat("c", "4-8 e"))
    choice.avoid(["a" * 16], 0.0)
    assert names(choice.find(1.0)) == "bc"
    assert names(choice.find(AVOID_SECONDS + 1)) == "ac"


def test_a_node_whose_connection_broke_is_left_out_until_it_is_back() -> None:
    choice = choose(beat("a", "b 0-4"), beat("b", "b 0-4", 0.005), beat("c", "4-8 e"))
    choice.lose("a" * 16)
    choice.lose("c" * 16)
    assert names(choice.find(100.0)) == "ac", "better than none"
    choice.regain("c" * 16)
    assert names(choice.find(100.0)) == "bc"
    choice.regain("a" * 16)
    assert names(choice.find(100.0)) == "ac"


def test_what_is_loading_or_draining_is_not_taken() -> None:
    choice = choose(beat("a", "b 0-4"), beat("b", "4-8 e", state="loading"), beat("c", "4-8 e", state="draining"))
    assert choice.find(0.0) == []
    assert choice.describe_missing() == "layers 4-8, end"


def test_each_step_towards_a_chain_is_seen() -> None:
    def recovery(*beats: Beat) -> Hashable:
        return choose(beat("a", "b 0-4"), *beats).recovery

    steps = [
        recovery(),
        recovery(beat("b", "4-6", state="loading")),
        recovery(beat("b", "4-6", state="loading", loaded_bytes=5)),
        recovery(beat("b", "4-6", state="loading", loaded_bytes=5), beat("c", "6-8 e", state="loading")),
        recovery(beat("b", "4-6"), beat("c", "6-8 e", state="loading")),
    ]
    assert len(set(steps)) == len(steps)
    assert recovery(beat("b", "4-6", sessions=3)) == recovery(beat("b", "4-6", layer_seconds=1.0))


def test_a_chain_is_left_for_one_that_is_a_fifth_faster_whoever_is_busy() -> None:
    slow = [Hop("a" * 16, parse_part("b 0-4", 8)), Hop("c" * 16, parse_part("4-8 e", 8))]
    here = (beat("a", "b 0-4", sessions=9), beat("c", "4-8 e", sessions=9))
    assert choose(*here, beat("d", "f", 0.0038)).find_clearly_faster(slow, 10, 100, 0.0) == []
    assert names(choose(*here, beat("d", "f", 0.002)).find_clearly_faster(slow, 10, 100, 0.0)) == "d"
    assert choose(beat("d", "f", 0.002)).find_clearly_faster(slow, 10, 100, 0.0) == [], (
        "nothing is known of where it runs"
    )
    busier = choose(*here, beat("d", "f", 0.002, sessions=40))
    assert busier.find_clearly_faster(slow, 10, 100, 0.0) == [], "the faster one is not the one that would be taken"
    assert choose(*here).is_served(slow)
    assert not choose(here[0]).is_served(slow)


HERE = [Hop("a" * 16, parse_part("f", 8))]


def test_nodes_of_one_machine_are_equally_fast_whatever_they_have_measured() -> None:
    """One was timed while another was loading, or while it waited for the cores."""
    mine, other = beat("a", "f", 0.008, machine="m"), beat("c", "f", 0.004, machine="m")
    assert choose(mine, other).find_clearly_faster(HERE, 10, 100, 0.0) == []
    assert names(choose(mine, beat("c", "f", 0.004, machine="n")).find_clearly_faster(HERE, 10, 100, 0.0)) == "c"


def test_who_is_busy_slows_the_others_on_its_machine() -> None:
    halves = beat("a", "f", 0.004, sessions=5, machine="m"), beat("b", "f", 0.004, machine="m")
    assert names(choose(*halves, beat("c", "f", 0.005, machine="n")).find(0.0)) == "c"


def test_a_change_pays_for_the_prompt_that_it_computes_again() -> None:
    """16 ms a token are gained; 1,000 tokens cost 8 s on the new chain: as much as 500 tokens gain."""
    both = beat("a", "f", 0.004), beat("c", "f", 0.002, prompt_seconds=0.001)
    assert names(choose(*both).find_clearly_faster(HERE, 1000, 510, 0.0)) == "c"
    assert choose(*both).find_clearly_faster(HERE, 1000, 490, 0.0) == []
    there = [Hop("a" * 16, parse_part("b 0-7", 8)), Hop("c" * 16, parse_part("7-8 e", 8))]
    assert names(choose(*both).find_clearly_faster(there, 1000, 600, 0.0)) == "c"


def test_an_answer_goes_on_in_the_variant_in_which_it_began_where_that_is_served() -> None:
    """Others round otherwise: a token may come out another."""
    small, large = beat("a", "f", 0.004, variant="int4"), beat("c", "f", 0.002, variant="bfloat16")
    here = [Hop("b" * 16, parse_part("f", 8), "int4")]
    choice = choose(small, large)
    assert names(choice.find(0.0)) == "c"
    assert names(choice.find(0.0, variants_of(here))) == "a"
    assert choice.find_clearly_faster([Hop("a" * 16, parse_part("f", 8), "int4")], 0, 1000, 0.0) == []
    choice.avoid(["a" * 16], 0.0)
    assert names(choice.find(1.0, variants_of(here))) == "c"
    assert not choice.is_served([Hop("a" * 16, parse_part("f", 8), "bfloat16")])
