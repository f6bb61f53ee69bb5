"""Reads checkpoints tensor by tensor: Hugging Face shards (safetensors or .bin) and legacy sepweight directories.

The only module that calls `torch.load`, always with `weights_only=True`. Keeps one shard open at a time, so that memory
follows the largest tensor in hand and not the checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.family import Family
from swarm.sepweight.manifest import DOCUMENTS, TEMPLATE_NAME
from swarm.sepweight.source import Source, Stored, in_one_piece
from swarm.sepweight.tensorfile import TensorFile

_LEGACY_PREFIX = re.compile(r"(?:transformer\.)?h\.\d+\.")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a checkpoint; WeightsError if it is missing or malformed."""
    return read_object(directory / "config.json")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object that a checkpoint must have; WeightsError if it is missing or malformed."""
    try:
        told: object = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{path} is missing; SRC must be a checkpoint directory with a {path.name}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", told)


def open_source(directory: Path, config: Mapping[str, Any], family: Family) -> Source:
    """The reader that fits what lies in `directory`."""
    if (directory / "begin.pth").exists() or (directory / "mid.00000.pth").exists():
        return LegacySource(directory, config)
    if (directory / "mid").is_dir():
        return NestedLegacySource(directory, config)
    return ShardedSource(directory, config, family, find_shards(directory))


def load_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save`d dict, mapped, with nothing but tensors allowed in it."""
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing") from None
    except Exception as error:  # torch.load raises many types on damaged or hostile files; all mean the same here
        reason = str(error).strip().splitlines()[:1]
        raise WeightsError(f"{path} cannot be read as a dict of tensors: {' '.join(reason)}") from None
    if isinstance(loaded, Tensor):
        return {path.stem: loaded}
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds no dict of tensors")
    tensors: dict[str, Tensor] = {}
    for name, tensor in cast("dict[object, object]", loaded).items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            raise WeightsError(f"{path}: entry {name!r} is no dense tensor")
        tensors[name] = tensor
    return tensors


class ShardedSource:
    """A Hugging Face checkpoint, with or without an index."""

    def __init__(self, directory: Path, config: Mapping[str, Any], family: Family, shard_of: Mapping[str, str]) -> None:
        """shard_of: as find_shards gave it."""
        self.where = directory
        self.config = config
        self._family = family
        self._shard_of = shard_of
        self._open: tuple[tuple[str, str], TensorFile | dict[str, Tensor]] | None = None

    def read(self, key: str, tensor: str) -> Stored:
        names = self._family.checkpoint_names(key, tensor)
        for name in names:
            shard = self._shard_of.get(name)
            if shard is not None:
                return in_one_piece(self._read_from(shard, key, name))
        raise WeightsError(f"{self.where}: no shard holds {names[0]} (needed for {key}/{tensor})")

    def find(self, key: str, tensor: str, ending: str) -> Tensor | None:
        """A tensor whose name ends otherwise than a weight's; None where there is none."""
        for name in self._family.checkpoint_names(key, tensor):
            other = f"{name.removesuffix('weight')}{ending}"
            shard = self._shard_of.get(other)
            if shard is not None:
                return self._read_from(shard, key, other)
        return None

    def _read_from(self, shard: str, key: str, name: str) -> Tensor:
        # A mapped shard keeps every page that was read; mapped anew for each part, it keeps one part's.
        is_mapped = not shard.endswith(".safetensors")
        wanted = (shard, key if is_mapped else "")
        if self._open is None or self._open[0] != wanted:
            self.close()
            path = self.where / shard
            self._open = (wanted, load_pickled(path) if is_mapped else TensorFile(path))
        file = self._open[1]
        if isinstance(file, TensorFile):
            return file.read(name)
        if name not in file:
            raise WeightsError(f"{self.where / shard} has no tensor {name}")
        return file[name].clone()

    def documents(self) -> Mapping[str, bytes]:
        return read_documents(self.where)

    def fingerprint(self) -> dict[str, int]:
        shards = sorted(set(self._shard_of.values()))
        return {shard: (self.where / shard).stat().st_size for shard in shards}

    def close(self) -> None:
        if self._open is not None and isinstance(self._open[1], TensorFile):
            self._open[1].close()
        self._open = None


def find_shards(directory: Path) -> dict[str, str]:
    """Tensor name → file name, from the index or from the files themselves. Raises WeightsError."""
    for index_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        path = directory / index_name
        if path.exists():
            return _read_index(path)
    single = sorted(directory.glob("*.safetensors"))
    if single:
        found: dict[str, str] = {}
        for path in single:
            with TensorFile(path) as file:
                found.update(dict.fromkeys(file.entries, path.name))
        return found
    pickled = sorted(directory.glob("pytorch_model*.bin"))
    if not pickled:
        raise WeightsError(f"{directory} holds no *.safetensors and no pytorch_model*.bin")
    return {name: path.name for path in pickled for name in load_pickled(path)}


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        shards = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} is no shard index: {error!r}") from None
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise WeightsError(f'{path} names the shard "{shard}", which is not a plain file name')
        if not (path.parent / shard).is_file():
            raise WeightsError(f"{path.parent / shard} is missing; {path.name} names it")
    return shards


class LegacySource:
    """A flat legacy sepweight directory: begin.pth, mid.00000.pth …, end.pth, and the checkpoint's config.json."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.where = directory
        self.config = config
        self._open: tuple[str, dict[str, Tensor]] | None = None

    def read(self, key: str, tensor: str) -> Stored:
        path = self.where / f"{key}.pth"
        if self._open is None or self._open[0] != key:
            self._open = (key, {_LEGACY_PREFIX.sub("", name): value for name, value in load_pickled(path).items()})
        if tensor not in self._open[1]:
            raise WeightsError(f"{path} has no tensor {tensor}")
        return in_one_piece(self._open[1][tensor].clone())

    def documents(self) -> Mapping[str, bytes]:
        return read_documents(self.where)

    def fingerprint(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted(self.where.glob("*.pth"))}

    def close(self) -> None:
        self._open = None


class NestedLegacySource:
    """The older nesting: start/, mid/N/, end/ with one .pth a tensor."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.where = directory
        self.config = config

    def read(self, key: str, tensor: str) -> Stored:
        if key == "begin":
            folder = self.where / "start"
        elif key == "end":
            folder = self.where / "end"
        else:
            folder = self.where / "mid" / str(int(key.removeprefix("mid.")))
        for path in sorted(folder.glob("*.pth")):
            if _LEGACY_PREFIX.sub("", path.stem) == tensor:
                return in_one_piece(next(iter(load_pickled(path).values())).clone())
        raise WeightsError(f"{folder} has no file {tensor}.pth")

    def documents(self) -> Mapping[str, bytes]:
        return read_documents(self.where)

    def fingerprint(self) -> dict[str, int]:
        paths = sorted(self.where.glob("**/*.pth"))
        return {str(path.relative_to(self.where)): path.stat().st_size for path in paths}

    def close(self) -> None:
        """Nothing stays open."""


def read_documents(directory: Path) -> dict[str, bytes]:
    """The documents that lie in a directory. A template that is a processor's own counts where the tokenizer has none."""
    documents = {name: (directory / name).read_bytes() for name in DOCUMENTS if (directory / name).is_file()}
    told = b'"chat_template"' in documents.get("tokenizer_config.json", b"")
    path = directory / "chat_template.json"
    if TEMPLATE_NAME in documents or told or not path.is_file():
        return documents
    try:
        template = json.loads(path.read_text("utf-8"))["chat_template"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} holds no chat template: {error!r}") from None
    return {**documents, TEMPLATE_NAME: str(template).encode()}
