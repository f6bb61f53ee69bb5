"""The same bits with the kernels that processors have which lack something of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swarm.decoder.device import Cpu
from swarm.decoder.plain import PLAIN

EXACTNESS = Path(__file__).with_name("test_exactness.py")


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "AVX2", reason="this processor is itself a lesser one")
@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, id="AVX-512 without bfloat16"),
        pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, id="AVX2"),
    ],
)
def test_bfloat16_gives_the_same_bits_on_lesser_processors(limits: dict[str, str]) -> None:
    """With AVX2 alone there are no matrix kernels for reordered bfloat16: weights stay plain."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXACTNESS)]
    done = subprocess.run(
        [*command, "-k", "bfloat16 and (40b or rw) and not long"],
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_lack_of_memory_is_no_lack_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain weights round otherwise than reordered ones: the load fails rather than serve other bits."""

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", fail)
    with pytest.raises(RuntimeError, match="not enough memory"):
        PLAIN.make({"weight": torch.zeros(8, 8)}, None, torch.float32, Cpu())
