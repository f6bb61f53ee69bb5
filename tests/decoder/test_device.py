"""Devices: which there are, what is packed to cross at once, which errors end a node."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.decoder import device
from swarm.decoder.device import Cpu, best_device, device_named, place_packed
from swarm.errors import RequestError
from tests.decoder.dataless_cuda import DatalessCuda


def test_tensors_that_cross_together_arrive_as_they_were() -> None:
    tensors = [
        torch.arange(7),
        torch.randn(3, 5, dtype=torch.bfloat16),
        torch.empty(0, 4),
        torch.tensor([True]),
        torch.randn(2, 2).T,
    ]
    placed = place_packed(tensors, torch.device("cpu"))
    for before, after in zip(tensors, placed, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("error", "is_fatal"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), False),
        (ValueError("a batch that is wrong"), False),
        (ArithmeticError("logits hold NaN"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("device-side assert triggered"), True),
    ],
)
def test_which_errors_stay_with_a_card(error: Exception, is_fatal: bool) -> None:
    assert DatalessCuda().is_fatal(error) == is_fatal
    assert not Cpu().is_fatal(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_said_to_be_missing_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r'device "cuda:0" is not there: torch .* is built without CUDA'):
        device_named("cuda:0")
    with pytest.raises(RequestError, match="write auto, cpu or cuda:0"):
        device_named("gpu")
    monkeypatch.setattr(device, "DRIVERS", (str(tmp_path / "none"),))
    chosen, doubt = best_device()
    assert (chosen.name, doubt) == ("cpu", None)
    monkeypatch.setattr(device, "DRIVERS", (str(tmp_path),))
    chosen, doubt = best_device()
    assert chosen.name == "cpu"
    assert "is built without CUDA; computing on the CPU" in (doubt or "")
