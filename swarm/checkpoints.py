"""Any checkpoint there is, opened with the family that it is of."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from swarm.decoder.description import DecoderFamily
from swarm.errors import WeightsError
from swarm.families import family_of, family_of_gguf
from swarm.sepweight.checkpoint import open_source, read_config
from swarm.sepweight.source import Source


@contextmanager
def open_checkpoint(path: Path, tokenizer: Path | None = None) -> Generator[tuple[Source, DecoderFamily]]:
    """A checkpoint's directory, a legacy sepweight directory, or a GGUF file.

    tokenizer: a directory with the documents of a model whose GGUF file's own are of no use.
    Raises WeightsError for what this version does not run.
    """
    if path.suffix == ".gguf":
        from swarm.sepweight.gguf.file import GgufFile
        from swarm.sepweight.gguf.source import GgufSource

        file = GgufFile(path)
        family = family_of_gguf(file.architecture)
        source: Source = GgufSource(file, family, tokenizer)
    elif tokenizer is not None:
        raise WeightsError("--tokenizer is for GGUF files; a checkpoint has its own")
    else:
        config = read_config(path)
        family = family_of(config)
        source = open_source(path, config, family)
    try:
        yield source, family
    finally:
        source.close()
