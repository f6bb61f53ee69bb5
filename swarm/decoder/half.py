"""Which matrices are multiplied as float16 numbers (swarm.decoder.half_linear), and what that costs. Imports no torch."""

from __future__ import annotations

from swarm.decoder.device import Device
from swarm.decoder.processor import has_half_kernels

HALF_BYTES, WIDE_BYTES = 2, 4  # of a float16, and of a float32 number
ROW_BLOCK, COLUMN_BLOCK = 16, 512  # what is packed is whole blocks
SUMMED_COLUMNS = 1024  # over which oneDNN adds as FBGEMM does
LEAST_NUMBERS = 1 << 20  # smaller matrices take little time either way
MOST_PADDING = 1 / 4  # of what is packed
PADDING_ALONE = 1 / 8  # more, and two rows are packed as one: 576 columns take 1.33 times their bytes, not 1.78
PIECE_NUMBERS = 4 << 20  # are packed by one thread
PIECES_AT_ONCE = 2
HEAD_NUMBERS = 8 << 20  # of a head are read at a time: as long as they are packed, they lie beside it


def may_be_half(shape: tuple[int, int], item: int, device: Device) -> bool:
    """Whether a matrix [out, in] may be multiplied so. item: bytes of a number."""
    numbers = shape[0] * shape[1]
    has_gain = numbers >= LEAST_NUMBERS and numbers * HALF_BYTES >= (1 - MOST_PADDING) * packed_bytes(shape)
    return device.is_host and item == HALF_BYTES and has_gain and has_half_kernels()


def rows_beside(columns: int) -> int:
    """How many rows of so many columns are packed as one. A product of many rows takes longer by that factor."""
    return 1 if columns >= (1 - PADDING_ALONE) * _whole_blocks(columns) else 2


def summed_columns(columns: int) -> list[int]:
    """Of each product that one of so many columns is made of."""
    return [min(SUMMED_COLUMNS, columns - start) for start in range(0, columns, SUMMED_COLUMNS)]


def packed_bytes(shape: tuple[int, int]) -> int:
    """That a packed matrix [out, in] takes."""
    rows, columns = shape
    beside = rows_beside(columns)
    packed_rows = -(-rows // (ROW_BLOCK * beside)) * ROW_BLOCK
    return packed_rows * sum(_whole_blocks(beside * width) for width in summed_columns(columns)) * HALF_BYTES


def _whole_blocks(columns: int) -> int:
    return -(-columns // COLUMN_BLOCK) * COLUMN_BLOCK


def packing_bytes(shape: tuple[int, int]) -> int:
    """That packing a matrix takes beside it."""
    return min(shape[0] * shape[1], PIECES_AT_ONCE * PIECE_NUMBERS) * WIDE_BYTES
