"""Operations that are made of others arrive whole in inference mode; a device that is not there looks at the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
