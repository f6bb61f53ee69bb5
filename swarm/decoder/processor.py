"""What a CPU is, as far as rounding goes: its name and the matrix instructions by which torch and oneDNN choose kernels."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

MATRIX_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2")


def describe_processor(capability: str) -> str:
    """At most 48 characters. capability: what torch itself says, where the system does not tell."""
    name, flags = _read_processor()
    return f"{name[:36]} {next((flag for flag in MATRIX_FLAGS if flag in flags), capability)}"


@cache
def has_tiles() -> bool:
    """Whether products of 16-bit numbers are made with AMX tiles."""
    return "amx_bf16" in _read_processor()[1]


@cache
def has_half_kernels() -> bool:
    """Whether products of 16-bit numbers are FBGEMM's: with AVX2, where there is no AVX-512 for oneDNN's."""
    flags = _read_processor()[1]
    return {"avx2", "fma", "f16c"} <= flags and "avx512bw" not in flags


def _read_processor() -> tuple[str, set[str]]:
    """Its name and flags, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return "cpu", set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else "cpu", set(flags[1].split()) if flags else set()
