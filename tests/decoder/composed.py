"""What devices that are not there share: they look at the parts of what arrives whole, and take no tensors made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from swarm.decoder import attention

ONE_KERNEL = (
    torch.ops.aten.linear.default,
    torch.ops.aten.rms_norm.default,
    torch.ops.aten.scaled_dot_product_attention.default,
)


def run_parts(mode: TorchDispatchMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The result, by parts that pass through the mode; NotImplemented where there are none, or a card has one kernel."""
    if func.namespace != "aten" or func in ONE_KERNEL:
        return NotImplemented
    with mode:
        return func.decompose(*args, **(kwargs or {}))


def masks_written_out() -> AbstractContextManager[Any]:
    """Causal masks that are only a name become tensors of the queries' device."""

    def write(queries: Tensor, keys: int) -> Tensor:
        rows = queries.shape[-2]
        mask = torch.full((rows, keys), float("-inf"), dtype=queries.dtype, device=queries.device)
        return mask.triu_(keys - rows + 1).expand(1, 1, rows, keys)

    return patch.object(attention, "name_causal_mask", write)
