"""Whole numbers from -127 to 127 and a scale a row."""

from __future__ import annotations

from torch import Tensor

LARGEST = 127


def quantise_rows(matrix: Tensor) -> dict[str, Tensor]:
    """[rows, columns] → int8 of the same shape; scale [rows], float32: what one of a row's numbers stands for."""
    rows = matrix.float()
    scales = rows.abs().amax(1, keepdim=True).clamp_min(1e-30) / LARGEST
    return {"int8": (rows / scales).round().char(), "scale": scales[:, 0]}
