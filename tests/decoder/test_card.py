"""A real card: what the two that are not there cannot show. Nothing here runs where there is none."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swarm.decoder.device import CARD_BYTES, Cpu, Cuda
from swarm.loading import init_part
from swarm.node.batches import LARGEST_CHUNK, SAMPLED_ROWS
from swarm.node.compute.memory import running_bytes
from tests.bare_layers import filled, make_part
from tests.decoder.engine_script import EngineScript
from tests.decoder.layouts import LAYOUTS
from tests.layouts import maker_of
from tests.llama.members import MEMBERS
from tests.node.test_memory import DRAWS, shape

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card that torch can use")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_there_what_it_says_on_the_cpu(weights_of: dict[str, Path], layout: str) -> None:
    here = EngineScript(weights_of[layout], Cpu(), contextlib.nullcontext).play()
    assert EngineScript(weights_of[layout], Cuda(0), contextlib.nullcontext).play() == here


@pytest.mark.parametrize("member", MEMBERS)
def test_logits_of_every_member_are_the_cpus_however_a_prompt_is_cut(member: str, tmp_path: Path) -> None:
    maker_of(member).save_sepweight(member, tmp_path)
    ids = torch.randint(2, 90, (80,), generator=torch.Generator().manual_seed(3))
    expected = init_part(tmp_path, "f", "cpu", torch.float32)(ids)
    part = init_part(tmp_path, "f", "cuda:0", torch.float32)
    for lengths in ([80], [1] * 80, [33, 47]):
        cache = part.new_cache()
        logits = torch.cat([part(piece, cache) for piece in ids.split(lengths)])
        assert (logits.cpu() - expected).abs().max() < 1e-4


def test_a_lack_of_memory_is_a_batchs_alone(weights_of: dict[str, Path]) -> None:
    card = Cuda(0)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(card.measure().total, 2, dtype=torch.uint8, device=card.where)
    assert not card.is_fatal(caught.value)
    card.trim()
    part = init_part(weights_of["40b"], "f", card)
    assert part([1, 2, 3]).isfinite().all()


def test_an_assertion_on_the_card_stays_with_the_process() -> None:
    code = (
        "import torch\n"
        "from swarm.decoder.device import Cuda\n"
        "card = Cuda(0)\n"
        "try:\n"
        "    table = torch.zeros(4, 4, device=card.where)\n"
        "    card.fetch(torch.nn.functional.embedding(torch.tensor([9], device=card.where), table))\n"
        "except Exception as error:\n"
        "    print(card.is_fatal(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "True\n", done.stderr


def test_free_bytes_are_those_that_the_driver_tells() -> None:
    card = Cuda(0)
    assert abs(card.glance() - card.measure().free) < 64 << 20


@pytest.mark.parametrize("name", ["7b", "180b", "gemma2 27b"])
def test_what_is_used_is_what_is_counted(name: str) -> None:
    """The largest chunk and sixteen sessions whose caches double, two layers, tokens drawn: all that the card gives away."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.decoder.test_card", name],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, counted = map(int, done.stdout.split())
    assert used <= counted


def measure_use(name: str) -> tuple[int, int]:
    """Bytes that the card has given to this process since it was first measured, at most; those that are counted."""
    card, decoder = Cuda(0), shape(name)
    before = card.measure().free

    def draw(size: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(size, dtype=torch.bfloat16, device=card.where) * 0.02

    with torch.inference_mode():
        part, head = make_part(decoder, card, 2, draw)
        weights = torch.cuda.memory_allocated()
        lengths = [LARGEST_CHUNK, *[1] * SAMPLED_ROWS]
        spans = [filled(part, decoder.context // 2, length) for length in lengths]
        card.trim()
        rows = torch.randn(sum(lengths), decoder.hidden, dtype=part.dtype, device=card.where)
        hidden = part.run_layers(rows, spans)
        DRAWS.choose(head(hidden[-SAMPLED_ROWS:]), card.place(DRAWS.tensors), can_count=False)
        card.finish()
    reserved = len(spans) * 2 * decoder.context * decoder.cache_bytes(part.dtype.itemsize)
    return before - card.measure().free, weights + reserved + running_bytes(decoder, part.dtype.itemsize) + CARD_BYTES


if __name__ == "__main__":
    print(*measure_use(sys.argv[1]))
