"""Which processors the bits have been compared on."""

from __future__ import annotations

from pathlib import Path

import pytest


def is_measured() -> bool:
    """Whether this is one of those on which every cut of a sequence gave the same bits: AMD with AVX-512, so far."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return "AuthenticAMD" in text and "avx512_bf16" in text and "amx_bf16" not in text


# Run everywhere, and must pass where it was measured: other processors' kernels (AMX, MKL on Intel) may round by other
# rules, and what they need is still to be found out there.
same_bits = pytest.mark.xfail(
    not is_measured(),
    reason="compared on AMD with AVX-512 alone so far; AMX and Intel are still to be measured",
    strict=False,
)
