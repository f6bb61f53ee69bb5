"""The errors that the swarm raises on purpose.

SwarmError            anything below; its message gives the value, the limit and the next step
├── RequestError      the caller's fault: never retry the same request
├── PeerError         this peer cannot do it: another may
│   └── AccessError   wrong swarm secret, or not a swarm
└── WeightsError      a file on disk is missing, cut short, altered or of an unsupported kind
"""


class SwarmError(Exception):
    """Anything that the swarm raises on purpose."""


class RequestError(SwarmError):
    """The request can never succeed as it stands."""


class PeerError(SwarmError):
    """A peer refused, vanished or answered nonsense.

    peer: node id or address; stage: index of its hop in the route, where there is one; code: the wire's error code.
    """

    def __init__(self, message: str, *, peer: str = "", stage: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.stage = stage
        self.code = code


class AccessError(PeerError):
    """The other side does not share our secret, or is no swarm at all."""


class WeightsError(SwarmError):
    """A weights file is missing, cut short, altered or unsupported."""
