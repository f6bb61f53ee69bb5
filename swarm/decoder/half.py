"""Which matrices are multiplied as float16 numbers (swarm.decoder.half_linear), and what that costs. Imports no torch."""

from __future__ import annotations

from swarm.decoder.device import Device
from swarm.decoder.processor import has_half_kernels

HALF_BYTES, WIDE_BYTES = 2, 4  # of a float16, and of a float32 number
ROW_BLOCK, COLUMN_BLOCK = 16, 512  # what is packed is whole blocks
SUMMED_COLUMNS = 1024  # over which oneDNN adds as FBGEMM does
LEAST_NUMBERS = 3 << 18  # a product of one row with a smaller matrix takes twice as long so
MOST_MORE = 1 / 8  # of what is kept, beyond the matrix' own bytes
PIECE_NUMBERS = 4 << 20  # are packed by one thread
PIECES_AT_ONCE = 2


def may_be_half(shape: tuple[int, int], item: int, device: Device) -> bool:
    """Whether a matrix [out, in] may be multiplied so. item: bytes of a number."""
    numbers = shape[0] * shape[1]
    has_gain = numbers >= LEAST_NUMBERS and numbers * HALF_BYTES >= (1 - MOST_MORE) * packed_bytes(shape)
    return device.is_host and item == HALF_BYTES and has_gain and has_half_kernels()


def packed_columns(columns: int) -> int:
    """Those of a matrix that are packed: the rest is kept in float32 where that takes less than one more block."""
    rest = columns % COLUMN_BLOCK
    return columns - rest if rest * WIDE_BYTES < COLUMN_BLOCK * HALF_BYTES else columns


def summed_columns(columns: int) -> list[int]:
    """Of each product that one of so many is made of."""
    packed = packed_columns(columns)
    rest = [columns - packed] if packed < columns else []
    return [min(SUMMED_COLUMNS, packed - start) for start in range(0, packed, SUMMED_COLUMNS)] + rest


def packed_bytes(shape: tuple[int, int]) -> int:
    """That a packed matrix [out, in] takes."""
    rows, columns = shape
    packed = packed_columns(columns)
    blocks = -(-rows // ROW_BLOCK) * -(-packed // COLUMN_BLOCK)
    return blocks * ROW_BLOCK * COLUMN_BLOCK * HALF_BYTES + rows * (columns - packed) * WIDE_BYTES


def packing_bytes(shape: tuple[int, int]) -> int:
    """That packing a matrix takes beside it."""
    return min(shape[0] * shape[1], PIECES_AT_ONCE * PIECE_NUMBERS) * WIDE_BYTES
