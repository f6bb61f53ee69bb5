"""A client of integer nodes as a process of its own: `python -m tests.integer_client HOST TOKENS PEER …`.

Prints lines of JSON: {"route": …, "attempts": …} whenever the chain changes, {"id": …, "at": …} as each token comes.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping

from swarm.client.effects import Delivered, RouteTaken
from swarm.client.session import Turn
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.errors import SwarmError
from swarm.keys import new_identity
from swarm.messages import ModelCard, Sampling
from tests.swarms import KEYS

PROMPT = [3, 1, 4, 1, 5]


def make_prompt(length: int) -> list[int]:
    return [number % 1000 for number in range(length)]


def main(host: str, tokens: str, *peers: str) -> None:
    """Ask for one answer, to a prompt of P tokens where TOKENS is `N@P`; for one after the other until standard input ends,
    where it is `Nx`; or, where it is `=N`, say when so many nodes are seen.
    """
    settings = ClientSettings(hosts=[host], peers=peers, use_mdns=False)
    with SwarmClient(settings, KEYS, new_identity()) as client:
        if tokens.startswith("="):
            client.wait_for(lambda beats: len(beats) >= int(tokens[1:]), 60)
            say({"nodes": len(client.beats)})
            return
        card = client.card(client.find_model(None, 20))
        if tokens.endswith("x"):
            keep_asking(client, card, int(tokens[:-1]))
            return
        session = client.open_session(card)
        count, _, length = tokens.partition("@")
        prompt = make_prompt(int(length)) if length else PROMPT
        for event in session.generate(Turn(ids=prompt, max_tokens=int(count), sampling=Sampling(), stop_ids=[])):
            if isinstance(event, RouteTaken):
                say({"route": [[str(hop.part), hop.node] for hop in event.route], "attempts": event.attempts})
            if isinstance(event, Delivered):
                for token in event.ids:
                    say({"id": token, "at": time.monotonic()})
        session.cancel()


def keep_asking(client: SwarmClient, card: ModelCard, tokens: int) -> None:
    """{"answer": ids} or {"error": text} for each answer asked for."""
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    while not is_over.is_set():
        session = client.open_session(card)
        turn = Turn(ids=PROMPT, max_tokens=tokens, sampling=Sampling(), stop_ids=[])
        try:
            ids = [token for event in session.generate(turn) if isinstance(event, Delivered) for token in event.ids]
            say({"answer": ids})
        except SwarmError as error:
            say({"error": str(error)})
        session.cancel()


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
