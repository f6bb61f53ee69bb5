"""A sequence that is taken back: drafts that were wrong, a stop string that was found late. Each hop forgets and goes on."""

from __future__ import annotations

import pytest

from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Tail
from swarm.messages.steps import StepRefused, Steps, StepSpan
from swarm.messages.tensors import ids_tensor
from swarm.node.account import MemoryAccount
from swarm.node.effects import Answer, Effect, Run
from swarm.node.hops.hop import Kept
from swarm.node.hops.opening import Opening
from swarm.node.hops.sessions import SessionTable
from swarm.node.hops.steps import StepRunner
from swarm.node.leaving import Leaving
from swarm.parts import parse_part
from swarm.testing.integer_model import IntegerEngine, IntegerModel
from swarm.wire.events import Asker
from tests.opens import SESSION, make_open

MODEL = IntegerModel(layers=8)
CLIENT = Asker("c" * 16, "data", b"")
FIRST, REST = "b 0-4", "4-8 e"


class TwoHops:
    """A node that is both hops of a chain; batches run when they are let."""

    def __init__(self, ids: list[int]) -> None:
        self.table = SessionTable("a" * 16, MemoryAccount(1 << 40, {}, {}), Leaving({}))
        self.engine = IntegerEngine(MODEL, parse_part("f", 8), 1 << 30)
        self.table.serve(self.engine.served)
        self.steps = StepRunner(self.table)
        self.waiting: list[Run] = []
        self.refused: list[StepRefused] = []
        self.computed = 0  # positions, at the first hop
        for stage, (part, following) in enumerate(((FIRST, REST), (REST, FIRST))):
            tail = Tail(sampling=Sampling(), stop_ids=[], limit=len(ids) + 1) if stage else None
            order = make_open(part, stage=stage, next_part=following, tail=tail)
            Opening(self.table).open(CLIENT, order, ids_tensor(ids) if stage else None, 0.0)

    def send(self, ids: list[int], position: int, branch: int) -> None:
        span = StepSpan(SESSION, 1, 0, position, len(ids), True, branch)
        message = Steps(model=MODEL.model, part=FIRST, spans=[span])
        self.take(self.steps.receive_steps(CLIENT, message, ids_tensor(ids), 0.0))
        self.take(self.steps.cores_taken(was_contended=False, now=0.0))

    def take(self, effects: list[Effect]) -> None:
        self.waiting += [effect for effect in effects if isinstance(effect, Run)]
        self.refused += [
            effect.message
            for effect in effects
            if isinstance(effect, Answer) and isinstance(effect.message, StepRefused)
        ]

    def run(self, batches: int = 1000) -> None:
        """All that there is to compute, or so many batches of it."""
        while self.waiting and batches:
            batches -= 1
            batch = self.waiting.pop(0).batch
            self.computed += batch.tokens * batch.part.begin
            self.take(list(self.steps.batch_done(self.engine.run(batch), 0.0)))
            self.take(self.steps.cores_taken(was_contended=False, now=0.0))

    @property
    def ends(self) -> list[int]:
        return [hop.cached for hop in self.table.hops_of(SESSION)]

    @property
    def answer(self) -> list[int]:
        return self.table.hops_of(SESSION)[1].ids


IDS = [1, 2, 3, 40, 50]
WRONG = [1, 2, 3, 7, 8, 9]


def test_what_follows_a_branch_is_what_would_have_followed_without_the_wrong_one() -> None:
    hops = TwoHops(IDS)
    hops.send(WRONG, 0, 0)
    hops.run()
    assert hops.ends == [6, 6]
    hops.send(IDS[3:], 3, 1)
    assert hops.ends == [3, 6]
    hops.run()
    assert hops.ends == [5, 5]
    assert hops.answer[5:] == MODEL.answer(IDS, 1)


@pytest.mark.parametrize("runs_before", [0, 1])
def test_what_waits_or_runs_when_a_branch_comes_counts_no_more(runs_before: int) -> None:
    """The batch that is under way is of the old branch; its output is passed on, and forgotten by the next hop, too."""
    hops = TwoHops(IDS)
    hops.send(WRONG[:2], 0, 0)
    if runs_before:
        hops.run()
    hops.send(WRONG[2:4], 2, 0)
    hops.send(WRONG[4:], 4, 0)
    hops.send(IDS[3:], 3, 1)
    hops.run(1)
    assert hops.ends[0] == (3 if runs_before else 2)
    hops.run()
    assert hops.ends == [5, 5]
    assert hops.computed == (2 + 2 + 2 if runs_before else 2 + 1 + 2)
    assert hops.answer[5:] == MODEL.answer(IDS, 1)


def test_steps_of_a_branch_that_was_left_are_stale_and_one_cannot_begin_beyond_the_end() -> None:
    hops = TwoHops(IDS)
    hops.send(IDS[:4], 0, 0)
    hops.run()
    hops.send(IDS[4:], 6, 1)
    hops.send(IDS[4:], 4, 2)
    hops.send([9], 4, 1)
    hops.send(IDS[4:], 4, 2)
    assert [refused.code for refused in hops.refused] == ["GAP", "STALE", "DUPLICATE"]


def test_what_a_batch_of_a_branch_that_was_left_draws_is_no_token() -> None:
    hops = TwoHops(IDS)
    hops.send(WRONG[:5], 0, 0)
    hops.run(1)  # the second hop draws from it now
    hop = hops.table.hops_of(SESSION)[1]
    hop.take(StepSpan(SESSION, 1, 1, 3, 1, True, 1), ids_tensor([0]).rows(0, 1), None, 0.0)
    hop.queue.clear()
    (run,) = hops.waiting
    list(hops.steps.batch_done(hops.engine.run(run.batch), 0.0))
    assert hops.answer == IDS


def test_credit_for_a_branch_that_was_left_lets_go_of_nothing_newer() -> None:
    hops = TwoHops(IDS)
    hop = hops.table.hops_of(SESSION)[0]
    tensor = ids_tensor([1, 2])
    hop.branch = 1
    hop.kept = [Kept(0, 2, tensor, True), Kept(2, 2, tensor, True, branch=1)]
    hop.take_credit(9, 0)
    assert [kept.branch for kept in hop.kept] == [1]
    hop.take_credit(9, 1)
    assert not hop.kept
