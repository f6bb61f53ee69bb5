"""What a device is, as far as rounding goes: two of one kind give the same bits for the same work."""

from __future__ import annotations

import re
from pathlib import Path

import torch

MATRIX_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2")  # which kernels torch and oneDNN choose by


def describe_kind(device: torch.device) -> str:
    """At most 64 characters: the processor, its matrix instructions and torch's version."""
    version = torch.__version__.partition("+")[0]
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} torch {version}"[:64]
    name, flags = _read_processor()
    best = next((flag for flag in MATRIX_FLAGS if flag in flags), torch.backends.cpu.get_cpu_capability())
    return f"{name[:36]} {best} torch {version}"[:64]


def _read_processor() -> tuple[str, set[str]]:
    """Its name and flags, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return "cpu", set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else "cpu", set(flags[1].split()) if flags else set()
