"""AWQ checkpoints: whole numbers of 4 bits that share words along the rows, in an order of their own.

qweight: int32 [in, out / 8]; qzeros: int32 [groups, out / 8]; scales: float16 [groups, out]. The eight numbers of a word are
those of its rows 0, 2, 4, 6, 1, 3, 5, 7 (https://arxiv.org/abs/2306.00978; the "gemm" layout of AutoAWQ).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.quantised import Find, Int4Matrix, StoredMatrix, find_packed, unpack_words

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # in a word, of its rows one after another


class Awq:
    """How an AWQ checkpoint stores matrices."""

    form: str | None = "awq"

    def read(self, find: Find, where: str) -> StoredMatrix | None:
        found = find_packed(find, where)
        if found is None:
            return None
        words, zeros, scales = found
        columns, rows, count = words.shape[0], 8 * words.shape[1], scales.shape[0]
        if tuple(scales.shape) != (count, rows) or tuple(zeros.shape) != (count, words.shape[1]) or columns % count:
            raise WeightsError(
                f"{where}: qweight {list(words.shape)}, qzeros {list(zeros.shape)} and scales {list(scales.shape)} "
                "do not belong together"
            )
        return Int4Matrix(_unpack(words).T.contiguous(), scales.T.contiguous(), _unpack(zeros).T.contiguous())


def open_awq(told: Mapping[str, Any]) -> Awq:
    """Of a quantization_config. Raises WeightsError for what is not implemented."""
    bits, version = told.get("bits", told.get("w_bit")), str(told.get("version", "gemm")).lower()
    if bits != 4:
        raise WeightsError(f"quantization_config: AWQ of {bits} bits is not implemented; 4 are")
    if version != "gemm":
        raise WeightsError(f'quantization_config: AWQ of version "{version}" is not implemented; "gemm" is')
    return Awq()


def _unpack(words: Tensor) -> Tensor:
    """[n, words] → [n, 8 · words], rows in their order."""
    return unpack_words(words, 4, 1).unflatten(1, (-1, 8))[:, :, list(PLACES)].flatten(1)
