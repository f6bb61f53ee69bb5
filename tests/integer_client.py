"""A client of integer nodes as a process of its own: `python -m tests.integer_client HOST TOKENS PEER …`.

Prints lines of JSON: {"route": …, "attempts": …} whenever the chain changes, {"id": …, "at": …} as each token comes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping

from swarm.client.effects import Delivered, RouteTaken
from swarm.client.session import Turn
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.keys import new_identity
from swarm.messages import Sampling
from tests.swarms import KEYS

PROMPT = [3, 1, 4, 1, 5]


def main(host: str, tokens: str, *peers: str) -> None:
    """Ask for one answer."""
    settings = ClientSettings(hosts=[host], peers=peers, use_mdns=False)
    with SwarmClient(settings, KEYS, new_identity()) as client:
        session = client.open_session(client.card(client.find_model(None, 20)))
        for event in session.generate(Turn(ids=PROMPT, max_tokens=int(tokens), sampling=Sampling(), stop_ids=[])):
            if isinstance(event, RouteTaken):
                say({"route": [[str(hop.part), hop.node] for hop in event.route], "attempts": event.attempts})
            if isinstance(event, Delivered):
                for token in event.ids:
                    say({"id": token, "at": time.monotonic()})
        session.cancel()


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
