"""Messages and tensors to frames and back: `[version + msgpack header][raw tensor pieces]…`.

A small tensor, as a decode step's is, rides in the header: a second frame would cost a hop more than copying it.
Everything is bounded before anything is allocated; what does not fit is a WireError that its sender can be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgpack
import msgspec

from swarm.errors import PeerError
from swarm.messages.any import AnyMessage
from swarm.messages.base import PROTOCOL, Dtype, Small
from swarm.messages.tensors import ITEM_BYTES, WireTensor

HEADER_LIMIT = 64 << 10
FRAME_LIMIT = 1 << 20
INLINE_LIMIT = 24 << 10
SMALLEST_FRAME = 64 << 10  # however slow the link: 50 ms at 10 Mbit/s
TENSOR_LIMIT = 64 << 20
MAX_FRAMES = 1 + TENSOR_LIMIT // SMALLEST_FRAME
MAX_MESSAGE_SIZE = FRAME_LIMIT + HEADER_LIMIT  # per frame: what the socket itself refuses
_VERSION = bytes([PROTOCOL])

Frame = bytes | memoryview


class WireError(PeerError):
    """Frames that are no message of ours; `code` is BAD_MESSAGE or BAD_VERSION."""


class _TensorHead(msgspec.Struct, frozen=True, array_like=True):
    dtype: Dtype
    shape: tuple[Small, ...]
    data: memoryview = memoryview(b"")  # what does not follow in frames of its own


class _Header(msgspec.Struct, frozen=True, array_like=True):
    message: AnyMessage
    tensor: _TensorHead | None


_encoder = msgspec.msgpack.Encoder()
# Straight into typed, bounded messages: with cold caches a third of what unpacking and converting cost.
_decoder = msgspec.msgpack.Decoder(_Header)


def encode(message: AnyMessage, tensor: WireTensor | None = None, frame_limit: int = FRAME_LIMIT) -> list[Frame]:
    """Frames of a message; a large tensor's bytes are not copied, only cut into pieces of at most `frame_limit`."""
    if tensor is None:
        return [_encode_header(message, None)]
    if len(tensor.data) <= INLINE_LIMIT:
        return [_encode_header(message, _TensorHead(tensor.dtype, tensor.shape, memoryview(tensor.data)))]
    view = memoryview(tensor.data)
    if len(view) > TENSOR_LIMIT:
        raise ValueError(f"tensor of {len(view)} bytes; at most {TENSOR_LIMIT}")
    pieces = [view[start : start + frame_limit] for start in range(0, len(view), frame_limit)]
    return [_encode_header(message, _TensorHead(tensor.dtype, tensor.shape)), *pieces]


def _encode_header(message: AnyMessage, tensor: _TensorHead | None) -> bytes:
    header = _VERSION + _encoder.encode(_Header(message, tensor))
    if len(header) > HEADER_LIMIT:
        raise ValueError(f"header of {len(header)} bytes; at most {HEADER_LIMIT}")
    return header


def decode(frames: Sequence[Frame]) -> tuple[AnyMessage, WireTensor | None]:
    """The message and tensor that frames hold.

    Raises WireError for a foreign version, an unknown type, a field out of bounds or a tensor whose bytes do not fit
    its shape.
    """
    if not frames or len(frames) > MAX_FRAMES:
        raise WireError(f"{len(frames)} frames; between 1 and {MAX_FRAMES} are allowed", code="BAD_MESSAGE")
    header = frames[0]
    if not 1 < len(header) <= HEADER_LIMIT:
        raise WireError(f"header of {len(header)} bytes; at most {HEADER_LIMIT}", code="BAD_MESSAGE")
    if header[0] != PROTOCOL:
        raise WireError(f"protocol version {header[0]}; this node speaks {PROTOCOL}", code="BAD_VERSION")
    typed = _decode_header(bytes(header[1:]))
    message, head = typed.message, typed.tensor
    pieces = frames[1:]
    if head is None:
        if pieces:
            raise WireError(f"{len(pieces)} frames without a tensor", code="BAD_MESSAGE")
        return message, None
    data = head.data if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(head.shape) > 4 or math.prod(head.shape) * ITEM_BYTES[head.dtype] != len(data):
        raise WireError(f"{len(data)} bytes for a {head.dtype} tensor of {head.shape}", code="BAD_MESSAGE")
    return message, WireTensor(head.dtype, head.shape, data)


def _decode_header(data: bytes) -> _Header:
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise WireError(f"{_name_type(data)}: {str(error)[:200]}", code="BAD_MESSAGE") from None


def _name_type(data: bytes) -> str:
    """What a header that was refused says it is; its sender will want to know which message it was."""
    try:
        raw: object = msgpack.unpackb(
            data,
            strict_map_key=False,
            max_str_len=4096,
            max_bin_len=INLINE_LIMIT,
            max_array_len=8192,
            max_map_len=1024,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException):
        return "no msgpack of ours"
    match raw:
        case [{"type": str(name)}, *_]:
            return f"message of type {name[:40]!r}"
        case _:
            return "not a message"
