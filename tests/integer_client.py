"""A client of integer nodes as a process of its own: `python -m tests.integer_client WHAT HOST OPTIONS [PEER …]`.

WHAT: ask (for one answer), keep-asking (for one after the other until standard input ends), see (wait for nodes). OPTIONS:
JSON, what the function takes by name. Without peers it browses. Prints lines of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Mapping

from swarm.client.news import Delivered, RouteTaken
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.client.transcript import Turn
from swarm.errors import SwarmError
from swarm.keys import new_identity
from swarm.messages.sampling import Sampling
from tests.swarms import KEYS

PROMPT = [3, 1, 4, 1, 5]


def make_prompt(length: int) -> list[int]:
    return [number % 1000 for number in range(length)]


def ask(client: SwarmClient, tokens: int, prompt_tokens: int = 0, find_seconds: float = 20) -> None:
    """{"route": …, "at": …} whenever the chain changes, {"id": …, "at": …} as each token comes."""
    prompt = make_prompt(prompt_tokens) if prompt_tokens else PROMPT
    generation = client.open_generation(client.card(client.find_model(None, find_seconds)))
    for event in generation.generate(Turn(ids=prompt, max_tokens=tokens, sampling=Sampling(), stop_ids=[])):
        if isinstance(event, RouteTaken):
            say({"route": [[str(hop.part), hop.node] for hop in event.route], "at": time.monotonic()})
        if isinstance(event, Delivered):
            for token in event.ids:
                say({"id": token, "at": time.monotonic()})
    generation.cancel()


def keep_asking(client: SwarmClient, tokens: int) -> None:
    """{"answer": ids, "longest_gap": seconds between two tokens} or {"error": text} for each answer asked for."""
    card = client.card(client.find_model(None, 20))
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    while not is_over.is_set():
        generation = client.open_generation(card)
        turn = Turn(ids=PROMPT, max_tokens=tokens, sampling=Sampling(), stop_ids=[])
        try:
            ids: list[int] = []
            times: list[float] = []
            for event in generation.generate(turn):
                if isinstance(event, Delivered):
                    ids += event.ids
                    times.append(time.monotonic())
            gap = max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)
            say({"answer": ids, "longest_gap": gap})
        except SwarmError as error:
            say({"error": str(error)})
        generation.cancel()


def see(client: SwarmClient, wanted: int, seconds: float = 60, is_mesh: bool = False) -> None:
    """{"nodes": …, "resent": …} once so many are seen, each linked to every other if is_mesh; {"error": …} if none are."""
    links = wanted - 1 if is_mesh else 0
    try:
        client.wait_for(lambda beats: sum(len(beat.rtts) >= links for beat in beats) >= wanted, seconds)
        seen = [beat for beat in client.beats if len(beat.rtts) >= links]
        say({"nodes": len(seen), "resent": sum(beat.resent for beat in seen)})
    except SwarmError as error:
        say({"error": str(error)})


def main(what: str, host: str, options: str, *peers: str) -> None:
    """Do one of these."""
    act = {"ask": ask, "keep-asking": keep_asking, "see": see}[what]
    settings = ClientSettings(hosts=[host], peers=peers, use_mdns=not peers)
    with SwarmClient(settings, KEYS, new_identity()) as client:
        act(client, **json.loads(options))


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
