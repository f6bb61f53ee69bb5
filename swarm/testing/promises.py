"""What must hold at every event of a simulated swarm, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.node.batches import Batch
from swarm.node.machine import NodeMachine
from swarm.node.residence import Loading, Residence
from swarm.parts import Part, join_parts, whole


@dataclass(slots=True)
class BrokenPromiseError(Exception):
    """A promise was broken: what, and in which run."""

    seed: int
    what: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.what}"


def check_fences(seed: int, machine: NodeMachine, batch: Batch) -> None:
    """Whatever is computed belongs to a session that is held here, at its attempt, on a part that is served."""
    served = machine.sessions.served.get(batch.model)
    for span in batch.spans:
        hop = machine.sessions.sessions.get((span.session, span.stage))
        if hop is None or served is None or hop.order.attempt != span.attempt or not served.part.covers(batch.part):
            raise BrokenPromiseError(seed, f"{machine.node[:4]} ran a step outside its fence")


def check_drop(
    seed: int, machine: NodeMachine, before: Part, after: Part, views: Iterable[Sequence[NodeMachine]]
) -> None:
    """No cell is dropped of one's own accord while nobody else serves it, unless the model has other gaps.

    Nor while nobody else serves or loads it, unless the model has gaps that nobody is about to close. views: who else is
    there, in every way in which it may be seen; it has to be right in one of them.
    """
    wrong = [_find_wrong_drop(before, after, others) for others in views]
    if all(wrong):
        raise BrokenPromiseError(seed, f"{machine.node[:4]} dropped {wrong[0]}")


def _find_wrong_drop(before: Part, after: Part, others: Sequence[NodeMachine]) -> str:
    claims = [claim for other in others for claim in other.claims.by_model.values()]
    served, held = join_parts(claim.serving for claim in claims), join_parts(claim.held for claim in claims)
    for elsewhere, verb in ((served, "serves"), (held, "holds")):
        lost = (before - after) - elsewhere
        if before | elsewhere == whole(before.depth) and not lost.is_empty():
            return f'"{lost}", which nobody else {verb}'
    return ""


def check_present(seed: int, machine: NodeMachine, part: Part) -> None:
    """Nothing is loaded that a node has no weights of."""
    (local,) = machine.membership.local.values()
    if not local.present.covers(part):
        raise BrokenPromiseError(seed, f'{machine.node[:4]} loads "{part}", which it has not got')


def check_memory(seed: int, machine: NodeMachine, part: Part, residence: Residence) -> None:
    """What is held, and what is loaded beside it, fits the memory of a node that chooses its part.

    So it does while it is loaded, but for a node that has no more memory than for one layer that is kept and one that is
    read: what is new has to be made somewhere.
    """
    budget = machine.membership.me.budget
    if not budget:
        return
    (local,), (claim,) = machine.membership.local.values(), machine.claims.by_model.values()
    loading = Loading(claim.loaded_as, claim.loaded.layers, residence, part.layers)
    taken = max(budget - machine.claims.account.free(), local.bytes_while(loading, part | claim.loaded))
    if taken > budget and len(loading.kept) > 1:
        raise BrokenPromiseError(seed, f"{machine.node[:4]} takes {taken - budget} bytes too many")


def check_scores(seed: int, client: str, scores: list[float], expected: list[float], tokens: int) -> None:
    """With each token how likely it is, exactly."""
    if scores != expected[:tokens]:
        raise BrokenPromiseError(
            seed, f"client {client[:4]} got {len(scores)} scores for {tokens} tokens, or wrong ones"
        )


def check_tokens(seed: int, client: str, received: list[int], expected: list[int]) -> None:
    """Each token once, in order, and the right one."""
    if received != expected[: len(received)]:
        at = next(
            (index for index, pair in enumerate(zip(received, expected, strict=False)) if pair[0] != pair[1]),
            len(expected),
        )
        raise BrokenPromiseError(seed, f"client {client[:4]} got {received[at]} at {at}")
