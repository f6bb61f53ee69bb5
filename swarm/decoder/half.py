"""Which matrices are multiplied as float16 numbers (swarm.decoder.half_linear), and what that costs. Imports no torch."""

from __future__ import annotations

from swarm.decoder.device import Device
from swarm.decoder.processor import has_half_kernels

HALF_BYTES, WIDE_BYTES = 2, 4  # of a float16, and of a float32 number
ROW_BLOCK, COLUMN_BLOCK = 16, 512  # what is packed is whole blocks
SUMMED_COLUMNS = 1024  # over which oneDNN adds as FBGEMM does
LEAST_NUMBERS = 1 << 20  # smaller matrices take little time either way
MOST_PADDING = 1 / 8  # of what is packed: a head of 576 columns would take 1.78 times its bytes
PIECE_NUMBERS = 4 << 20  # are packed by one thread
PIECES_AT_ONCE = 2


def may_be_half(shape: tuple[int, int], item: int, device: Device) -> bool:
    """Whether a matrix [out, in] may be multiplied so. item: bytes of a number."""
    numbers = shape[0] * shape[1]
    has_gain = numbers >= LEAST_NUMBERS and numbers * HALF_BYTES >= (1 - MOST_PADDING) * packed_bytes(shape)
    return device.is_host and item == HALF_BYTES and has_gain and has_half_kernels()


def packed_bytes(shape: tuple[int, int]) -> int:
    """That a packed matrix takes."""
    rows, columns = (-(-size // block) * block for size, block in zip(shape, (ROW_BLOCK, COLUMN_BLOCK), strict=True))
    return rows * columns * HALF_BYTES


def packing_bytes(shape: tuple[int, int]) -> int:
    """That packing a matrix takes beside it."""
    return min(shape[0] * shape[1], PIECES_AT_ONCE * PIECE_NUMBERS) * WIDE_BYTES
