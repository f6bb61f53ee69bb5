"""A swarm as a program sees it: who is there, what models there are, generations.

with SwarmClient(settings, keys, identity) as swarm:
    card = swarm.card(swarm.find_model(None))
    with swarm.open_generation(card) as generation:
        for event in generation.generate(Turn(...)): ...
"""

from __future__ import annotations

import hashlib
import logging
import queue
import random
import secrets
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from swarm.client.effects import Effect
from swarm.client.generation import GenerationMachine
from swarm.client.loop import ClientLoop
from swarm.client.news import Failed, Finished, News
from swarm.client.transcript import Turn
from swarm.discovery.lan import Lan
from swarm.discovery.remembered import read_remembered, remember
from swarm.errors import AccessError, PeerError, RequestError, SwarmError
from swarm.keys import Identity, SwarmKeys
from swarm.messages.any import AnyMessage
from swarm.messages.files import AskFile, AskModel, FileChunk, ModelCard
from swarm.messages.members import Beat
from swarm.messages.sessions import Refused
from swarm.parts import Part
from swarm.plan.routes import missing_part
from swarm.plan.view import read_views
from swarm.wire.events import UNREACHABLE

CALL_SECONDS = 5.0
DOCUMENT_LIMIT = 256 << 20
QUIET_SECONDS = 0.3  # adverts that arrive together belong to one first look

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What the command line decides.

    hosts: local addresses that mDNS may use. remembered_peers: a file that keeps addresses of nodes between runs.
    wait_seconds: how long an answer waits for a chain where there is none. variant: of models, the only one to be used; ""
    where any will do.
    """

    hosts: Sequence[str]
    peers: Sequence[str] = ()
    remembered_peers: Path | None = None
    use_mdns: bool = True
    wait_seconds: float = 0.0
    variant: str = ""


class Generation:
    """Answers one after another, of which each goes on from what the swarm has cached. `with` frees that at the end.

    id: the client's own name for it, the same over all chains.
    """

    def __init__(
        self, machine: GenerationMachine, loop: ClientLoop, generations: MutableMapping[str, Generation]
    ) -> None:
        """generations: of the client, by id; this one is among them until it is closed."""
        self.id = secrets.token_hex(16)
        self.machine = machine
        self._loop = loop
        self._generations = generations
        self._sink: Callable[[News], None] = lambda news: None
        generations[self.id] = self

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the caches; nobody finds it any more."""
        self._generations.pop(self.id, None)
        self.cancel()

    def begin(self, turn: Turn, sink: Callable[[News], None]) -> None:
        """Ask for an answer. What comes of it goes to `sink` on the client's thread, Finished or Failed last."""
        self._sink = sink
        self._order(lambda now: self.machine.begin(turn, now))

    def generate(self, turn: Turn) -> Iterator[News]:
        """RouteTaken and Delivered events as they come, then Finished. Raises the SwarmError that ends it early."""
        events: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.begin(turn, events.put)
        while True:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return

    def halt(self, keep: int) -> None:
        """Stop the answer; token ids from `keep` on never were."""
        self._order(lambda now: self.machine.halt(keep))

    def cancel(self) -> None:
        """Stop the answer and free the caches."""
        self._order(lambda now: self.machine.cancel())

    def _order(self, act: Callable[[float], list[Effect]]) -> None:
        self._loop.order(self.machine, self._sink, act)


class SwarmClient:
    """A member that serves nothing."""

    def __init__(self, settings: ClientSettings, keys: SwarmKeys, identity: Identity) -> None:
        self._settings = settings
        path = settings.remembered_peers
        self._loop = ClientLoop(keys, identity, settings.peers, [] if path is None else read_remembered(path))
        self._lan: Lan | None = None
        self._generations: WeakValueDictionary[str, Generation] = WeakValueDictionary()

    def __enter__(self) -> SwarmClient:
        self._loop.start()
        if self._settings.use_mdns:
            try:
                self._lan = Lan(self._settings.hosts)
                self._lan.browse(self._loop.see_advert)
            except OSError as error:
                log.warning("no mDNS: %s", error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._settings.remembered_peers is not None:
            remember(self._settings.remembered_peers, self._loop.reached)
        self._loop.stop()
        if self._lan is not None:
            # zeroconf takes its time to say goodbye, and a client has nothing to say goodbye to
            threading.Thread(target=self._lan.close, daemon=True).start()

    # Who is there -----------------------------------------------------------------------------------------------------

    @property
    def beats(self) -> Sequence[Beat]:
        """The peer table as last heard, in id order."""
        return self._loop.beats

    def wait_for(self, is_enough: Callable[[Sequence[Beat]], bool], seconds: float) -> Sequence[Beat]:
        """The peer table once `is_enough` says so, or as it is after `seconds`.

        Raises AccessError or PeerError, saying what was seen, if no node has answered by then.
        """
        with self._loop.changed:
            self._loop.changed.wait_for(lambda: is_enough(self._loop.beats), seconds)
        if self._loop.beats:
            return self._loop.beats
        raise self._explain_silence()

    def _explain_silence(self) -> SwarmError:
        for address, reason in self._loop.failures.items():
            if reason == UNREACHABLE:
                return PeerError(
                    f"a node was named at {address}, but TCP {address} times out or is refused: is it running? "
                    "if so, open that port in its firewall",
                    code="BLOCKED",
                )
            return AccessError(f"{address}: {reason}", code="ACCESS")
        if self._loop.foreign_tags and self._loop.was_member:
            return PeerError(
                "none of your swarm's nodes answers, though another swarm is announced on this LAN; "
                "start swarm-node on one of your machines",
                code="NO_PEERS",
            )
        if self._loop.foreign_tags:
            return AccessError(
                "wrong swarm secret, or not a swarm: the nodes announced on this LAN belong to another swarm; copy the "
                "secret file from one of its machines",
                code="ACCESS",
            )
        return PeerError("no peers seen; is swarm-node running on this LAN? try --peer HOST:PORT", code="NO_PEERS")

    # Models -----------------------------------------------------------------------------------------------------------

    def find_model(self, name: str | None, seconds: float) -> str:
        """The id of the model called `name` (or of the only one), once a whole chain serves it.

        Raises PeerError naming the layers that are missing after `seconds`, or after the settings' wait_seconds if those
        are more; RequestError if the name does not decide.
        """
        seconds = max(seconds, self._settings.wait_seconds)
        self.wait_for(lambda beats: any(part.is_empty() for part in missing_of(beats, name).values()), seconds)
        missing = missing_of(self.beats, name)
        names = {claim.model: claim.name for beat in self.beats for claim in beat.claims}
        if not missing:
            known = ", ".join(sorted(set(names.values()))) or "none yet"
            wanted = "a model" if name is None else f'a model "{name}"'
            raise PeerError(f"no node serves {wanted}; models seen: {known}", code="UNKNOWN_MODEL")
        complete = [model for model, lacking in missing.items() if lacking.is_empty()]
        if len(complete) > 1:
            choices = ", ".join(sorted(f"{names[model]} ({model[:8]})" for model in complete))
            raise RequestError(f"several models are served; choose one with --model: {choices}")
        if complete:
            return complete[0]
        model = min(missing, key=lambda model: len(missing[model].cells))
        raise PeerError(
            f"no chain covers {names[model]}: {missing[model].describe()} missing; start swarm-node on another "
            "machine, give a node more --memory, or wait if swarm-status shows parts loading",
            code="NO_ROUTE",
        )

    def card(self, model: str) -> ModelCard:
        """What there is to know of a model, from any node that claims it. Raises PeerError."""
        answers = self._ask_holders(
            model,
            AskModel(model=model),
            lambda reply: _is_refusal(reply) or (isinstance(reply, ModelCard) and reply.model == model),
        )
        for _, answer, _ in answers:
            if isinstance(answer, ModelCard):
                return answer
        raise PeerError(f"no node knows model {model}", code="UNKNOWN_MODEL")

    def fetch(self, card: ModelCard, name: str) -> bytes:
        """A document of a model, checked against its digest. Raises PeerError."""
        entry = card.documents[name]
        if entry.bytes > DOCUMENT_LIMIT:
            raise PeerError(f"{name} has {entry.bytes} bytes; at most {DOCUMENT_LIMIT} are fetched")
        data = b""
        while len(data) < entry.bytes:
            piece = self._fetch_piece(card.model, entry.digest, len(data))
            if not piece:
                raise PeerError(f"no node sends {name} of {card.name}", code="UNKNOWN_MODEL")
            data += piece
        if hashlib.sha256(data).hexdigest() != entry.digest:
            raise PeerError(f"{name} of {card.name} arrived with another digest than its card says")
        return data

    def _fetch_piece(self, model: str, digest: str, offset: int) -> bytes:
        def matches(reply: object) -> bool:
            is_piece = isinstance(reply, FileChunk) and (reply.digest, reply.offset) == (digest, offset)
            return is_piece or _is_refusal(reply)

        for _, answer, data in self._ask_holders(model, AskFile(digest=digest, offset=offset), matches):
            if isinstance(answer, FileChunk):
                return data
        return b""

    def _ask_holders(
        self, model: str, message: AskModel | AskFile, matches: Callable[[object], bool]
    ) -> Iterator[tuple[str, object, bytes]]:
        """Ask one node after another that claims the model, until the caller has what it wants."""
        for beat in self.beats:
            if any(claim.model == model for claim in beat.claims):
                answer = self._loop.ask(beat.node, message, matches, CALL_SECONDS)
                if answer is not None:
                    tensor = answer[1]
                    yield beat.node, answer[0], b"" if tensor is None else bytes(tensor.data)

    def ask(
        self, node: str, message: AnyMessage, matches: Callable[[AnyMessage], bool], seconds: float
    ) -> AnyMessage | None:
        """What a node answers, by what `matches`; None if that does not come in time."""
        answer = self._loop.ask(node, message, matches, seconds)
        return None if answer is None else answer[0]

    def open_generation(self, card: ModelCard) -> Generation:
        """A new one; nothing is sent before its first turn."""
        machine = GenerationMachine(
            card, lambda: secrets.token_hex(16), random.random(), self._settings.wait_seconds, self._settings.variant
        )
        return Generation(machine, self._loop, self._generations)

    def find_generation(self, name: str) -> Generation | None:
        """An open one by its id."""
        return self._generations.get(name)


def _is_refusal(reply: object) -> bool:
    """Whether a question was refused; what a session is refused is its own affair."""
    return isinstance(reply, Refused) and not reply.session


def missing_of(beats: Sequence[Beat], name: str | None) -> dict[str, Part]:
    """Model id → what no node serves, for models of that name (or id, or any if None)."""
    layers: dict[str, int] = {}
    for claim in (claim for beat in beats for claim in beat.claims):
        if name is None or claim.name == name or claim.model.startswith(name.lower()):
            layers.setdefault(claim.model, claim.layers)
    return {
        model: missing_part([view.server for view in read_views(beats, model, depth)], depth)
        for model, depth in sorted(layers.items())
    }
