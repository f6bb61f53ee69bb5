"""What a card would be asked to do: nothing crosses twice, nothing is launched too often, all that is held is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from swarm.decoder.buffer import LayerBuffer
from swarm.decoder.crossing import Lane
from swarm.decoder.description import Decoder
from swarm.decoder.device import ALIGNMENT, Cpu
from swarm.decoder.direct import DIRECT_STEP
from swarm.decoder.int8_linear import PackedInt8Linear, UnpackedInt8Linear, WideningInt8Linear
from swarm.decoder.layer import Head, Layer
from swarm.decoder.part import DecoderPart
from swarm.decoder.schemes import quantisation_named
from swarm.loading import init_part
from swarm.node.batches import LARGEST_CHUNK, SAMPLED_ROWS, Batch
from swarm.node.compute.memory import running_bytes
from swarm.node.compute.models import read_weights
from swarm.node.residence import ALL_KEPT
from swarm.sepweight.manifest import read_manifest
from tests.bare_layers import filled, make_part
from tests.decoder.dataless_cuda import DatalessCuda
from tests.decoder.engine_script import LAYERS, MODEL, EngineScript, loader_of, parse_part
from tests.decoder.layouts import LAYOUTS, STREAMED
from tests.decoder.planted import MISTAKES
from tests.node.test_memory import DRAWS, SHAPES, shape

MOST_KERNELS = (24, 4)  # of a layer at one session, and for each further one
MOST_KERNELS_OF = {"gemma2 27b": (40, 12)}  # four norms in float32, and scores that no one kernel computes


def play(weights: Path, form: str = "plain", *, is_streamed: bool = False) -> None:
    cuda = DatalessCuda()
    crossings: list[Counter[tuple[str, str]]] = []

    def note(batch: Batch) -> None:
        crossings.append(Counter(cuda.seen.crossings))
        cuda.seen.reset()

    script = EngineScript(weights, cuda, cuda.running, note, cuda.seen.reset, quantisation=quantisation_named(form))
    script.is_streamed = is_streamed
    script.play()
    assert set(map(str, crossings)) == {str(Counter({("cpu", "cuda"): 1, ("cuda", "cpu"): 1}))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_one_upload_and_one_download_and_mixes_no_devices(weights_of: dict[str, Path], layout: str) -> None:
    play(weights_of[layout])


@pytest.mark.parametrize("form", ["int8", "int4:32"])
@pytest.mark.parametrize("layout", ["7b", "rw", "qwen3, yarn, biases"])
def test_smaller_matrices_are_made_plain_there(weights_of: dict[str, Path], layout: str, form: str) -> None:
    play(weights_of[layout], form)


@pytest.mark.parametrize("form", ["int8", "int4:32", "int4:64/plain"])
@pytest.mark.parametrize("layout", ["7b", "40b"])
def test_of_smaller_matrices_as_much_is_held_as_a_node_says(
    weights_of: dict[str, Path], layout: str, form: str
) -> None:
    """On a card, and on the CPU, where a row of theirs may be longer than it was."""
    weights, asked = weights_of[layout], quantisation_named(form)
    cuda = DatalessCuda()
    engine = EngineScript(weights, cuda, cuda.running).load(
        loader_of(weights, cuda, asked), parse_part("f", LAYERS), None
    )
    made = engine.part._tables
    tables = sum(table.nbytes for table in (*made._frequencies, *made._rotations.get(0, ())))
    (there,) = read_weights([weights], None, cuda, asked).values()
    padding = cuda.seen.alive.now - tables - there.memory.weights(parse_part("f", LAYERS))
    assert 0 <= padding < ALIGNMENT * (7 * LAYERS + 1), "what crosses together begins at whole multiples"
    (here,) = read_weights([weights], None, Cpu(), asked).values()
    part = init_part(weights, "f", quantisation=asked)
    held = sum(_bytes_of(module) for module in part.modules())
    assert held == here.memory.weights(parse_part("f", LAYERS))


def _bytes_of(module: Module) -> int:
    """Of its own tensors, and of the sums of a packed int8 matrix, which no tensor shows.

    Where this processor has no such kernels, neither sums nor zero points are there; a node counts them all the same.
    """
    own = {id(one): one for one in vars(module).values() if isinstance(one, Tensor)} | {
        id(one): one for one in module._parameters.values() if one is not None
    }
    match module:
        case PackedInt8Linear():
            hidden = 4 * len(module.scales)
        case UnpackedInt8Linear() | WideningInt8Linear():
            hidden = 8 * len(module.scales)
        case _:
            hidden = 0
    return hidden + sum(one.nbytes for one in own.values())


@pytest.mark.parametrize("layout", [STREAMED[0], STREAMED[-1]])
def test_layers_that_come_from_disk_mix_no_devices_and_take_a_buffer(
    weights_of: dict[str, Path], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the card as much as a layer; steps cross once each way beside."""
    cuda, take_over = DatalessCuda(), LayerBuffer.__init__

    def take_over_there(self: LayerBuffer, kind: Hashable, layer: Layer, lane: Lane | None = None) -> None:
        with cuda.running():
            take_over(self, kind, layer, lane)

    monkeypatch.setattr(LayerBuffer, "__init__", take_over_there)
    play(weights_of[layout], is_streamed=True)
    weights, part = weights_of[layout], parse_part("0-4", LAYERS)
    held: list[int] = []
    for is_streamed in (False, True):
        script = EngineScript(weights, cuda, cuda.running, is_streamed=is_streamed)
        before = cuda.seen.alive.now
        engine = script.load(loader_of(weights, cuda), part, None)
        held.append(cuda.seen.alive.now - before)
        del engine
    (there,) = read_weights([weights], None, cuda, None).values()
    spared = (LAYERS - 1) * there.memory.weight_costs.layer
    assert abs(held[0] - held[1] - spared) < DIRECT_STEP + LAYERS * 7 * ALIGNMENT, "what rounds up"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_left_behind_in_the_machines_memory_is_noticed(weights_of: dict[str, Path], mistake: str) -> None:
    variant, planted = MISTAKES[mistake]
    with planted(), pytest.raises(RuntimeError, match="device"):
        play(weights_of[variant])


def empty_part(decoder: Decoder, cuda: DatalessCuda) -> tuple[DecoderPart, Head]:
    """Two layers, and an end, at true sizes."""
    return make_part(decoder, cuda, 2, lambda size: torch.empty(size, dtype=torch.bfloat16, device=cuda.where))


@pytest.mark.parametrize("name", SHAPES)
def test_kernels_of_a_layer(name: str) -> None:
    cuda = DatalessCuda()
    decoder = shape(name)

    def count(part: DecoderPart, sessions: int) -> int:
        """Of a second layer, behind the first, once tables are made and caches have grown."""
        spans = [filled(part, 600 + index, 1) for index in range(sessions)]
        launched: list[int] = []
        for only in ([0, 1], [0], [0, 1]):
            cuda.seen.reset()
            hidden = torch.empty(sessions, decoder.hidden, dtype=part.dtype, device=cuda.where)
            part.run_layers(hidden, spans, only)
            launched.append(sum(cuda.seen.kernels.values()))
            for index, span in enumerate(spans):
                span.cache.truncate(600 + index)
        return launched[2] - launched[1]

    with cuda.running(), torch.inference_mode():
        part, _ = empty_part(decoder, cuda)
        one, two, many = (count(part, sessions) for sessions in (1, 2, 16))
    most, more = MOST_KERNELS_OF.get(name, MOST_KERNELS)
    assert one <= most
    assert two <= one + more
    assert many <= one + 15 * more


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_alive_is_what_is_counted(name: str) -> None:
    """The largest chunk and sixteen sessions whose caches double, two layers, and tokens drawn with every filter."""
    cuda = DatalessCuda()
    decoder = shape(name)
    with cuda.running(), torch.inference_mode():
        part, head = empty_part(decoder, cuda)
        weights = cuda.seen.alive.now
        lengths = [LARGEST_CHUNK, *[1] * SAMPLED_ROWS]
        spans = [filled(part, decoder.context // 2, length) for length in lengths]  # all double now
        rows = torch.empty(sum(lengths), decoder.hidden, dtype=part.dtype, device=cuda.where)
        hidden = part.run_layers(rows, spans)
        del rows
        DRAWS.choose(head(hidden[-SAMPLED_ROWS:]), cuda.place(DRAWS.tensors), can_count=False)
    reserved = len(spans) * 2 * decoder.context * decoder.cache_bytes(part.dtype.itemsize)
    counted = weights + reserved + running_bytes(decoder, part.dtype.itemsize)
    assert weights + reserved < cuda.seen.alive.peak <= counted


@pytest.mark.parametrize("variant", ["7b", "11b"])
def test_a_tied_embedding_is_held_once_and_a_move_shares_it(weights_of: dict[str, Path], variant: str) -> None:
    manifest = read_manifest(weights_of[variant])
    stored = sum(tensor.nbytes for file in manifest.files.values() for tensor in file.tensors.values())
    cuda = DatalessCuda()
    loader = loader_of(weights_of[variant], cuda)
    whole = parse_part("f", LAYERS)
    for spec in ("f", "b 0-4", "0-4 e"):
        script = EngineScript(weights_of[variant], cuda, cuda.running)
        engine = script.load(loader, parse_part(spec, LAYERS), None)
        made = engine.part._tables
        tables = sum(table.nbytes for table in (*made._frequencies, *made._rotations.get(0, ())))
        held = cuda.seen.alive.now - tables
        *progress, make = loader.load(MODEL, whole, ALL_KEPT, engine)
        read = progress[-1][1] if progress else 0
        assert held + read == stored
        assert cuda.seen.alive.now - tables == stored
        del engine, make
