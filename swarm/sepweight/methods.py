"""The ways of quantising a checkpoint that this version reads: one line for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.errors import WeightsError
from swarm.sepweight.awq import open_awq
from swarm.sepweight.fp8 import open_fp8
from swarm.sepweight.gptq import open_gptq
from swarm.sepweight.quantised import Method


def open_method(told: Mapping[str, Any], zero_plus_one: bool | None = None) -> Method:
    """Of a checkpoint's quantization_config. zero_plus_one: as in open_gptq. Raises WeightsError for another one."""
    name = told.get("quant_method")
    if zero_plus_one is not None and name != "gptq":
        raise WeightsError(f'the checkpoint is quantised by "{name}"; --gptq-zero-plus-one is for GPTQ')
    match name:
        case "gptq":
            return open_gptq(told, zero_plus_one)
        case "awq":
            return open_awq(told)
        case "fp8":
            return open_fp8(told)
        case "compressed-tensors" if told.get("format") in ("float-quantized", "naive-quantized"):
            return open_fp8(told)
        case _:
            layout = f' of format "{told["format"]}"' if "format" in told else ""
            raise WeightsError(
                f'the checkpoint is quantised by "{name}"{layout}, which is not implemented; GPTQ, AWQ and FP8 are: '
                "convert the model that it was made from"
            )
