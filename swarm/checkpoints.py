"""Any checkpoint there is, opened with the family that it is of."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from swarm.decoder.description import DecoderFamily
from swarm.errors import WeightsError
from swarm.families import SHARDED, family_of, family_of_gguf
from swarm.sepweight.checkpoint import ShardedSource, find_shards, open_source, read_config, read_object
from swarm.sepweight.methods import open_method
from swarm.sepweight.quantised import Method, QuantisedCheckpoint
from swarm.sepweight.source import Source

# Of models with eyes or ears, where their text model's config does not say what it is.
TEXT_TYPES: Mapping[str, str] = {"gemma3": "gemma3_text", "llava": "llama", "mistral3": "mistral", "smolvlm": "llama"}
# What such a model's config says of the text model, too.
SHARED_KEYS = ("bos_token_id", "eos_token_id", "quantization_config")
LEGACY_GPTQ_NAME = "quantize_config.json"  # where older programs told how they had quantised a model
TEXT_GROUPS = frozenset({"language_model", "text_model", "embed_tokens", "layers", "norm", "lm_head"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A text model to convert. left_out: what the checkpoint holds besides, by the names of its groups of tensors."""

    source: Source
    family: DecoderFamily
    left_out: Collection[str] = ()


@contextmanager
def open_checkpoint(
    path: Path, tokenizer: Path | None = None, *, zero_plus_one: bool | None = None
) -> Generator[Checkpoint]:
    """A checkpoint's directory, in Hugging Face's form or Meta's, a legacy sepweight directory, or a GGUF file.

    tokenizer: a directory with the documents of a model whose GGUF file's own are of no use. zero_plus_one: whether a GPTQ
    checkpoint's points of zero are one more than they are stored as; None as it says itself.
    Raises WeightsError for what this version does not run.
    """
    if path.suffix == ".gguf":
        opened = _open_gguf(path, tokenizer)
    elif tokenizer is not None:
        raise WeightsError("--tokenizer is for GGUF files; a checkpoint has its own")
    else:
        opened = _open_directory(path, zero_plus_one)
    try:
        yield opened
    finally:
        opened.source.close()


def _open_gguf(path: Path, tokenizer: Path | None) -> Checkpoint:
    from swarm.sepweight.gguf.file import GgufFile
    from swarm.sepweight.gguf.source import GgufSource

    file = GgufFile(path)
    family = family_of_gguf(file.architecture)
    return Checkpoint(GgufSource(file, family, tokenizer), family)


def _open_directory(path: Path, zero_plus_one: bool | None) -> Checkpoint:
    if (
        (path / "params.json").is_file()
        and any(path.glob("consolidated.*.pth"))
        and not (path / "config.json").exists()
    ):
        from swarm.sepweight.consolidated import ConsolidatedSource

        return Checkpoint(ConsolidatedSource(path, SHARDED), SHARDED)
    config = read_config(path)
    if not isinstance(config.get("text_config"), Mapping):
        config, method = _part_method(path, config, zero_plus_one)
        family = family_of(config)
        if method is None:
            return Checkpoint(open_source(path, config, family), family)
        return Checkpoint(QuantisedCheckpoint(ShardedSource(path, config, family, find_shards(path)), method), family)
    shard_of = find_shards(path)
    config = read_text_config(config, has_head=any(name.endswith("lm_head.weight") for name in shard_of))
    config, method = _part_method(path, config, zero_plus_one)
    family = family_of(config)
    groups = {name.removeprefix("model.").partition(".")[0] for name in shard_of}
    source = ShardedSource(path, config, family, shard_of)
    opened = source if method is None else QuantisedCheckpoint(source, method)
    return Checkpoint(opened, family, sorted(groups - TEXT_GROUPS))


def _part_method(
    path: Path, config: Mapping[str, Any], zero_plus_one: bool | None
) -> tuple[Mapping[str, Any], Method | None]:
    """The config without what it says of how matrices are quantised, and that."""
    told = config.get("quantization_config")
    if told is None and (path / LEGACY_GPTQ_NAME).is_file():
        told = {"quant_method": "gptq", **read_object(path / LEGACY_GPTQ_NAME)}
    if told is None:
        if zero_plus_one is not None:
            raise WeightsError(f"{path} is no GPTQ checkpoint; leave --gptq-zero-plus-one out")
        return config, None
    if not isinstance(told, Mapping):
        raise WeightsError(f"{path}: config: quantization_config is no object")
    return {name: value for name, value in config.items() if name != "quantization_config"}, open_method(
        cast("Mapping[str, Any]", told), zero_plus_one
    )


def read_text_config(config: Mapping[str, Any], *, has_head: bool) -> dict[str, Any]:
    """The config of a text model that others wrap.

    has_head: whether a head is stored. It decides whether that is tied: the two configs often contradict each other.
    """
    text = cast("Mapping[str, Any]", config["text_config"])
    shared = {name: config[name] for name in SHARED_KEYS if text.get(name) is None and name in config}
    kind = text.get("model_type") or TEXT_TYPES.get(str(config.get("model_type")))
    return {**text, **shared, "model_type": kind, "tie_word_embeddings": not has_head}
