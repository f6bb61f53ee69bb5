"""Layers that come from disk are the same as those that are kept, to the bit, and what goes wrong on the way is told."""

from __future__ import annotations

import errno
import gc
import hashlib
import mmap
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from swarm.bench.checkpoint import make_checkpoint
from swarm.bench.shapes import Shape
from swarm.decoder.builder import Streaming
from swarm.decoder.device import Cpu
from swarm.decoder.direct import DirectFile
from swarm.decoder.layer import Layer, Span
from swarm.decoder.loading import iterate_loading
from swarm.decoder.packed_folder import FOLDER
from swarm.decoder.part import DecoderPart, PackedPiece
from swarm.decoder.schemes import quantisation_named
from swarm.decoder.shelf import StreamingShelf
from swarm.errors import WeightsError
from swarm.families import family_named
from swarm.loading import init_part
from swarm.sepweight.manifest import file_name, layer_key, read_manifest, write_manifest
from swarm.sepweight.requantise import quantise
from tests.decoder.layouts import LAYOUTS
from tests.processes import peak_memory

IDS = torch.randint(2, 90, (24,), generator=torch.Generator().manual_seed(3))
HIDDEN = torch.randn(24, 256, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def weights(weights_of: dict[str, Path], tmp_path: Path) -> Path:
    """Of one model, in a directory that a test may change."""
    return Path(
        shutil.copytree(weights_of["llama, biases"], tmp_path / "weights", ignore=shutil.ignore_patterns(FOLDER))
    )


def layers_of(weights: Path) -> list[int]:
    return list(range(read_manifest(weights).layers))


def play(part: DecoderPart) -> Tensor:
    """Logits of a prompt, of tokens one by one, and of another session between."""
    cache, other = part.new_cache(), part.new_cache()
    return torch.cat([part(piece, cache) for piece in IDS.split([12, 1, 1, 4, 6])] + [part(IDS[:3], other)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_what_it_says_with_all_layers_kept(
    weights_of: dict[str, Path], layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each layer is read over what has been used of another one, a piece at a time."""
    monkeypatch.setattr("swarm.decoder.direct.PIECE_BYTES", 4096)
    weights = weights_of[layout]
    expected = play(init_part(weights, "f", dtype=dtype))
    numbers = layers_of(weights)
    for streamed, buffers in ((numbers, 1), (numbers[1:], 2)):
        part = init_part(weights, "f", dtype=dtype, streaming=Streaming(streamed, buffers))
        assert torch.equal(play(part), expected)


@pytest.mark.parametrize("form", ["int8", "int4:32"])
def test_smaller_forms_are_streamed_as_they_are(weights: Path, form: str) -> None:
    quantisation = quantisation_named(form)
    expected = play(init_part(weights, "f", quantisation=quantisation))
    part = init_part(weights, "f", quantisation=quantisation, streaming=Streaming(layers_of(weights), 1))
    assert torch.equal(play(part), expected)
    plain = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    assert torch.equal(play(plain), play(init_part(weights, "f")))


@pytest.fixture
def mixed(weights: Path, tmp_path: Path) -> Path:
    """The first and last layer plain, the others in int8 and int4; as in GGUF files of mixed types."""
    family, mixed, layers = family_named("llama", weights), tmp_path / "mixed", layers_of(weights)
    for name, form in (("mixed", "int8"), ("smaller", "int4:32")):
        quantise(weights, tmp_path / name, family, quantisation_named(form))
    manifest = read_manifest(mixed)
    files = dict(manifest.files)
    for number, source in ((layers[0], weights), (layers[-1], weights), (layers[-2], tmp_path / "smaller")):
        key = layer_key(number)
        files[key] = read_manifest(source).files[key]
        shutil.copy(source / file_name(key), mixed)
    write_manifest(mixed, msgspec.structs.replace(manifest, files=files, scheme="gguf"))
    return mixed


@pytest.mark.parametrize("buffers", [1, 2])
def test_layers_in_different_forms_take_turns_in_one_buffer(
    mixed: Path, buffers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each over another one's bytes, which end elsewhere; packed now, or before."""
    monkeypatch.setattr("swarm.decoder.direct.PIECE_BYTES", 4096)
    expected = play(init_part(mixed, "f"))
    for _ in range(2):
        part = init_part(mixed, "f", streaming=Streaming(layers_of(mixed), buffers))
        assert torch.equal(play(part), expected)
    sizes = {path.stat().st_size for path in (mixed / FOLDER).iterdir()}
    assert len(sizes) == 3


def test_parts_of_layers_in_different_forms_follow_each_other(mixed: Path) -> None:
    """With buffers that know some of the forms, and memory of layers that are in another one."""
    last = len(layers_of(mixed))
    check_changes(
        mixed,
        ("b 0-2", [0], 1),
        ("b 0-2", [0, 1], 1),
        ("f", layers_of(mixed), 2),
        ("f", [], 0),
        (f"1-{last} e", [last - 1], 1),
        (f"1-{last} e", list(range(1, last)), 2),
        ("f", layers_of(mixed), 1),
    )


def test_some_of_the_layers_may_be_run_alone(weights: Path) -> None:
    """As for a session that comes from another node in the middle of this one's part."""
    kept = init_part(weights, "f")
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    hidden = part.enter(IDS)
    for only in ([1], [0], [1], layers_of(weights)):
        results = [one.run_layers(hidden, [Span(one.new_cache(layers=only), len(IDS))], only) for one in (kept, part)]
        assert torch.equal(*results)


def test_a_layer_that_comes_piecemeal_is_used_as_it_comes(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By several batches, which need it until the last of them has run; the next one is read over it meanwhile."""
    monkeypatch.setattr("swarm.decoder.direct.PIECE_BYTES", 4096)
    layers = layers_of(weights)
    read: list[Path] = []
    part = init_part(weights, "f", streaming=Streaming(layers, 1, lambda path: Noted(path, read)))
    kept = init_part(weights, "f")
    for _ in range(3):  # from the second time on layers are not compared with their digests
        results = []
        for one in (part, kept):
            pieces = [PackedPiece(one.enter(ids), [Span(one.new_cache(), len(ids))]) for ids in IDS.split([9, 15])]
            one.run_pieces(pieces, layers)
            results.append(torch.cat([piece.hidden for piece in pieces]))
        assert torch.equal(*results)
    assert len(read) > 3 * len(layers) * 5  # pieces


def test_a_disk_is_as_fast_as_it_reads_however_long_layers_are_used(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next layer stops coming in the middle, where one is still used."""
    monkeypatch.setattr("swarm.decoder.direct.PIECE_BYTES", 4096)
    compute = Layer._mlp

    def compute_slowly(layer: Layer, x: Tensor) -> Tensor:
        time.sleep(0.1)
        return compute(layer, x)

    monkeypatch.setattr(Layer, "_mlp", compute_slowly)
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1, lambda path: Noted(path, [])))
    for _ in range(6):
        part(IDS, part.new_cache())
    streamed = part.shelf.streamed
    assert streamed is not None
    # A layer takes some ten pieces of some 0.3 ms; with the time in which it is held up it would take 200.
    assert streamed.reads.bytes_a_second > streamed.pass_bytes / len(layers_of(weights)) / 0.1


class Noted(DirectFile):
    """A file that notes each piece that is read of it, and takes its time."""

    def __init__(self, path: Path, read: list[Path]) -> None:
        super().__init__(path)
        self._read = read

    def read_piece(self, memory: memoryview, offset: int) -> int:
        time.sleep(0.0002)
        self._read.append(self.path)
        return super().read_piece(memory, offset)


def test_what_is_kept_and_what_is_streamed_may_change_while_the_old_part_is_used(weights: Path) -> None:
    """Each new part takes over the buffers of the one before, and the memory of layers that it keeps no more."""
    layers = layers_of(weights)
    last = len(layers)
    check_changes(
        weights,
        ("b 0-1", [], 0),
        ("f", layers[:-1], 2),
        ("f", [], 0),
        ("f", layers, 1),
        (f"1-{last} e", layers[1:], 2),
        ("b 0-2", [0], 1),
        (f"1-{last}", [], 0),
        ("f", layers, 2),
    )


def check_changes(weights: Path, *changes: tuple[str, list[int], int]) -> None:
    """Parts, which of their layers are streamed, and through how many buffers: each is loaded while the last one is used."""
    family = family_named(read_manifest(weights).family, weights)
    part: DecoderPart | None = None
    for spec, streamed, buffers in changes:
        streaming = Streaming(streamed, buffers) if streamed else None
        steps = iterate_loading(family, weights, spec, Cpu(), old=part, streaming=streaming)
        while True:
            try:
                next(steps)
                if part is not None:
                    assert torch.equal(run(part), run(init_part(weights, part.part)))
            except StopIteration as stop:
                make = stop.value
                break
        before, part = part, make()
        if before is not None and before.shelf.streamed is not None and streamed:
            with pytest.raises(WeightsError, match="no longer read"):
                run(before)
        assert torch.equal(run(part), run(init_part(weights, spec)))
        assert part.shelf.streamed is None or len(part.shelf.streamed.buffers) == buffers


def run(part: DecoderPart) -> Tensor:
    """What a part makes of a prompt and of a token after it."""
    cache = part.new_cache()
    pieces = IDS.split([23, 1]) if part.embed is not None else HIDDEN[:, : part.decoder.hidden].split([23, 1])
    return torch.cat([part(piece, cache) for piece in pieces])


def test_layers_are_packed_once(weights: Path) -> None:
    streaming = Streaming(layers_of(weights), 1)
    play(init_part(weights, "f", streaming=streaming))
    packed = sorted((weights / FOLDER).iterdir())
    assert len(packed) == len(layers_of(weights))
    times = [path.stat().st_mtime_ns for path in packed]
    play(init_part(weights, "f", streaming=streaming))
    assert [path.stat().st_mtime_ns for path in sorted((weights / FOLDER).iterdir())] == times


def test_packed_layers_of_another_layout_are_made_again(weights: Path) -> None:
    """As after a change of torch's that its version does not tell; those that are not read at first, too."""
    expected = play(init_part(weights, "f"))
    numbers = layers_of(weights)
    init_part(weights, "f", streaming=Streaming(numbers, 1))
    for path in sorted((weights / FOLDER).iterdir()):
        data = path.read_bytes()[::-1]
        path.unlink()
        path.with_suffix(f".{hashlib.sha256(data).hexdigest()}").write_bytes(data)
    for some in (numbers[:1], numbers):
        assert torch.equal(play(init_part(weights, "f", streaming=Streaming(some, 1))), expected)


def test_a_damaged_file_is_no_answer_and_made_again_at_the_next_start(weights: Path) -> None:
    expected = play(init_part(weights, "f"))
    streaming = Streaming(layers_of(weights), 1)
    init_part(weights, "f", streaming=streaming)
    (path,) = (weights / FOLDER).glob("00002.*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    part = init_part(weights, "f", streaming=streaming)
    with pytest.raises(WeightsError, match=r"00002.* was damaged and is removed"):
        play(part)
    with pytest.raises(WeightsError, match=r"00002.* was damaged and is removed"):
        play(part)
    assert torch.equal(play(init_part(weights, "f", streaming=streaming)), expected)


def test_damaged_weights_are_not_packed(weights: Path) -> None:
    path = weights / "mid.00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"mid.00001.safetensors is damaged"):
        init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))


def test_other_weights_have_other_packed_layers(weights: Path, weights_of: dict[str, Path]) -> None:
    """Even where a directory's files have been replaced."""
    streaming = Streaming(layers_of(weights), 1)
    init_part(weights, "f", streaming=streaming)
    shutil.copytree(weights_of["mistral"], weights, dirs_exist_ok=True)
    expected = play(init_part(weights_of["mistral"], "f"))
    assert torch.equal(play(init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))), expected)


def test_a_file_that_is_cut_short_or_changes_is_an_error_and_no_answer(weights: Path) -> None:
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    expected = play(part)
    (path,) = (weights / FOLDER).glob("00001.*")
    data = path.read_bytes()
    path.write_bytes(data[:-4096])
    with pytest.raises(WeightsError, match=r"00001.* (is cut short|has changed)"):
        play(part)
    path.write_bytes(data)
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    replaced = path.with_suffix(".other")
    replaced.write_bytes(bytes(len(data)))
    replaced.replace(path)  # what is open stays in use
    assert torch.equal(play(part), expected)


def test_a_directory_that_cannot_be_written_is_told(weights: Path) -> None:
    (weights / FOLDER).write_text("no folder")
    with pytest.raises(WeightsError, match=r"packed cannot be used: .*; streamed layers are kept there"):
        init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))


def test_a_full_disk_is_told_and_leaves_nothing_behind(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WeightsError, match=r"00000.* cannot be written: No space left on device; each .* takes .*B"):
        init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    assert list((weights / FOLDER).iterdir()) == []
    monkeypatch.undo()
    init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    assert len(list((weights / FOLDER).iterdir())) == len(layers_of(weights))


def test_the_reading_thread_ends_with_the_part(weights: Path) -> None:
    def count() -> int:
        return sum(thread.name == "streamer" for thread in threading.enumerate())

    gc.collect()
    before = count()
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    play(part)
    assert count() == before + 1
    del part
    gc.collect()
    stop = time.monotonic() + 5
    while count() > before and time.monotonic() < stop:
        time.sleep(0.01)
    assert count() == before


def test_a_layer_that_fails_gives_its_buffer_back(weights: Path) -> None:
    part = init_part(weights, "f", streaming=Streaming(layers_of(weights), 1))
    assert isinstance(part.shelf, StreamingShelf)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            part.run_layers(torch.zeros(3, 7), [Span(part.new_cache(), 3)])
    assert play(part).isfinite().all()


def test_files_are_read_whole_whether_the_file_system_has_direct_reads_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    data = bytes(range(256)) * 16 * 2000
    path.write_bytes(data)
    for _ in range(2):
        memory = mmap.mmap(-1, len(data))
        with closing(DirectFile(path)) as file:
            file.read_into(memoryview(memory))
        assert memory[:] == data
        monkeypatch.delattr("os.O_DIRECT", raising=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing cannot be read: No such file"):
        DirectFile(tmp_path / "nothing")


def test_packing_takes_memory_for_a_layer_however_many_there_are(tmp_path: Path) -> None:
    shape = Shape(layers=8, hidden=1024, heads=16, vocabulary=64)
    layer = make_checkpoint(shape, tmp_path / "weights").files[layer_key(0)].bytes
    code = f"""
from pathlib import Path
from swarm.cli.tuning import prepare_to_compute
prepare_to_compute()
from swarm.decoder.loading import iterate_packing
from swarm.falcon.family import FALCON
for _ in iterate_packing(FALCON, Path({str(tmp_path / "weights")!r}), range({{layers}})):
    pass
"""
    few = peak_memory(code.format(layers=2))
    shutil.rmtree(tmp_path / "weights" / FOLDER)
    assert peak_memory(code.format(layers=8)) < few + layer // 2
