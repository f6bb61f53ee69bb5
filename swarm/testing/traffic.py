"""What nodes and clients of a simulated swarm have for each other: messages cross the network, connections are told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarm.client.effects import Send
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import Welcome
from swarm.messages.tensors import WireTensor
from swarm.node.effects import Answer, Dial, DialData, Effect, HangUp, SendClient, SendPeer
from swarm.node.events import Event
from swarm.testing.clients import SimulatedClient
from swarm.testing.connections import Connections, Link
from swarm.testing.network import Network
from swarm.testing.nodes import SimulatedNode
from swarm.wire.events import Arrived, Asker, LinkDown, LinkMessage, LinkUp


class Traffic:
    """Between the members of one swarm."""

    def __init__(
        self,
        network: Network,
        nodes: Mapping[str, SimulatedNode],
        clients: Mapping[str, SimulatedClient],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """nodes, clients: kept up to date by the caller. after: does something when so many seconds have passed."""
        self.connections = Connections(network, self)
        self.after = after
        self._network = network
        self._nodes = nodes
        self._clients = clients

    def carry(self, name: str, effect: Effect) -> None:
        """What a node has for others reaches them, perhaps."""
        match effect:
            case SendPeer(target, channel, message, tensor):
                if self.connections.is_up(name, target, channel):
                    arrived = Arrived(Asker(name, channel, name.encode()), message, tensor)
                    self._send(name, target, lambda: self._feed(target, arrived))
            case Answer(asker, message, tensor):
                self._answer(name, asker, message, tensor)
            case SendClient(target, message):
                if target in self._clients:
                    self._send(name, target, lambda: self._clients[target].receive(name, message))
            case Dial(address):
                for target in self._nodes_at(address):
                    self.connections.dial(name, target, "control")
            case HangUp(address):
                for target in self._nodes_at(address):
                    self.connections.hang_up(name, target)
            case DialData(target):
                if target in self._nodes:
                    self.connections.dial(name, target, "data")
            case _:
                pass

    def carry_from_client(self, client: str, sent: Send) -> None:
        """A client's message to a node."""
        arrived = Arrived(Asker(client, sent.channel, client.encode()), sent.message, sent.tensor)
        self._send(client, sent.node, lambda: self._feed(sent.node, arrived))

    def _answer(self, name: str, asker: Asker, message: AnyMessage, tensor: WireTensor | None) -> None:
        if asker.node in self._clients:
            self._send(name, asker.node, lambda: self._clients[asker.node].receive(name, message))
        elif asker.node in self._nodes:
            event = LinkMessage(name, asker.channel, message, tensor)
            self._send(name, asker.node, lambda: self._feed(asker.node, event))

    def _send(self, source: str, target: str, act: Callable[[], None]) -> None:
        """Something crosses the network, perhaps."""
        for delay in self._network.delays(source, target):
            self.after(delay, lambda: act() if self._network.passes(source, target) else None)

    def _feed(self, name: str, event: Event) -> None:
        if name in self._nodes:
            self._nodes[name].feed(event)

    def _nodes_at(self, address: str) -> list[str]:
        return [name for name, node in self._nodes.items() if node.address == address]

    # Connections ------------------------------------------------------------------------------------------------------

    def is_listening(self, name: str) -> bool:
        """Whether there is a node of that name now."""
        return name in self._nodes and self._nodes[name].is_up

    def link_up(self, link: Link) -> None:
        """Tell whoever dialled."""
        source, target, channel = link
        node = self._nodes[target]
        if source in self._clients:
            self._clients[source].link_up(target, channel)
        else:
            incarnation = node.machine.membership.me.incarnation
            welcome = Welcome(node=target, incarnation=incarnation, name=target[:4], data_port=7701)
            self._feed(source, LinkUp(target, channel, node.address, welcome))

    def link_down(self, link: Link) -> None:
        """Likewise."""
        source, target, channel = link
        if source in self._clients:
            self._clients[source].link_down(target, channel)
        elif target in self._nodes:
            self._feed(source, LinkDown(target, channel, self._nodes[target].address))

    def link_refused(self, link: Link) -> None:
        """Nodes make nothing of it."""
        source, target, channel = link
        if source in self._clients:
            self._clients[source].link_refused(target, channel)

    def connect_from_client(self, client: str, target: str, channel: Channel) -> None:
        """A client's connection to a node, which takes its time."""
        self.connections.dial(client, target, channel)
