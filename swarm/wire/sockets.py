"""ZeroMQ sockets with the options that every one of ours has."""

from __future__ import annotations

import zmq

from swarm.keys import Identity, SwarmKeys
from swarm.wire.codec import MAX_MESSAGE_SIZE

ZAP_DOMAIN = b"swarm"
QUEUE_MESSAGES = 1000  # decode steps are small; prompt chunks are bounded by credit

_COMMON = {
    zmq.LINGER: 0,
    zmq.HEARTBEAT_IVL: 700,
    zmq.HEARTBEAT_TIMEOUT: 2500,  # cut one way, a peer is noticed in 3.9 s: its last ping calls off our first timeout
    zmq.HEARTBEAT_TTL: 6000,
    zmq.HANDSHAKE_IVL: 3000,
    zmq.TCP_MAXRT: 5000,
    zmq.MAXMSGSIZE: MAX_MESSAGE_SIZE,
    zmq.SNDHWM: QUEUE_MESSAGES,
    zmq.RCVHWM: QUEUE_MESSAGES,
}


def make_dealer(context: zmq.Context[zmq.Socket[bytes]], keys: SwarmKeys, identity: Identity) -> zmq.Socket[bytes]:
    """A DEALER that authenticates as `identity` to a listener of this swarm."""
    socket = context.socket(zmq.DEALER)
    for option, value in _COMMON.items():
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 3000)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    socket.curve_serverkey = keys.server_public
    socket.curve_publickey = identity.public
    socket.curve_secretkey = identity.secret
    return socket


def make_router(context: zmq.Context[zmq.Socket[bytes]], keys: SwarmKeys) -> zmq.Socket[bytes]:
    """A ROUTER that lets members of this swarm in, and nobody while no ZAP handler answers."""
    socket = context.socket(zmq.ROUTER)
    for option, value in _COMMON.items():
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.curve_server = True
    socket.curve_secretkey = keys.server_secret
    return socket
