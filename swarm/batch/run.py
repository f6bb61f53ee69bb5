"""A batch from its input file to its output file: reads, splits the memory, computes, keeps what is done, writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer

from swarm.batch.engine import LayerMajor
from swarm.batch.lines import BadLine, Request, read_lines
from swarm.batch.partial import Partial
from swarm.batch.results import describe_answer, describe_error, describe_scores
from swarm.batch.texts import Text, TextBytes, group, seconds_left
from swarm.client.prompts import PromptForm, choose_form
from swarm.client.renderer import Renderer
from swarm.client.scoring import encode_answer
from swarm.client.text import StopScanner
from swarm.decoder.builder import Streaming
from swarm.decoder.device import Cpu
from swarm.decoder.loading import load_tokenizer
from swarm.decoder.scheme import Scheme
from swarm.errors import RequestError, SwarmError
from swarm.files import write_whole
from swarm.loading import init_part
from swarm.messages.sampling import Sampling
from swarm.node.batches import Drawn
from swarm.node.compute.memory import SPARED_SHARE
from swarm.node.compute.models import LocalWeights, read_weights
from swarm.node.residence import Residence, settle
from swarm.parts import whole
from swarm.plan.costs import BUFFERS
from swarm.sepweight.manifest import ITEM_BYTES, sha256_of
from swarm.sepweight.scheme import Quantisation
from swarm.sizes import format_size, parse_size

SAY_SECONDS = 5.0
MOST_SEED = (1 << 62) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """What is asked of every line that says nothing else. memory: --memory; None: what is free."""

    weights: Path
    memory: str | None = None
    dtype: str | None = None
    quantisation: Quantisation[Scheme] | None = None
    max_tokens: int = 256
    scores: bool = False
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a batch. seconds: of computing. streamed: layers that came from disk each step."""

    lines: int
    bad: int
    tokens: int
    seconds: float
    streamed: int
    groups: int


def run_batch(settings: BatchSettings, source: Path, target: Path, say: Callable[[str], None]) -> Summary:
    """Answer or score every line. Raises RequestError, WeightsError; what is done is kept beside the output."""
    if target.exists():
        raise RequestError(f"{target} exists; remove it, or name another output")
    (weights,) = read_weights([settings.weights], settings.dtype, Cpu(), settings.quantisation).values()
    lines = read_lines(source)
    writer = _Writer(settings, weights)
    texts, lines = writer.write_prompts(lines)
    kept = Partial(
        target.with_name(f"{target.name}.partial"),
        {
            "input": sha256_of(source),
            "model": str(weights.model),
            "settings": [settings.max_tokens, settings.scores, _settings_of(settings.sampling)],
        },
    )
    every = [text for some in texts.values() for text in some]
    _go_on(every, kept)
    share = _share_memory(settings, weights, every)
    say(share.describe(weights, len(every)))
    summary = _compute(settings, weights, share, every, kept, writer, say)
    results = [_describe(line, texts, writer, weights) for line in lines]
    write_whole(target, "".join(f"{json.dumps(result, ensure_ascii=False)}\n" for result in results).encode())
    kept.remove()
    bad = sum(isinstance(line, BadLine) for line in lines)
    return Summary(len(lines), bad, summary[0], summary[1], len(share.residence.streamed), len(share.groups))


def _settings_of(sampling: Sampling) -> Mapping[str, object]:
    """Its settings by name."""
    return {name: getattr(sampling, name) for name in sampling.__struct_fields__}


# Prompts --------------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes lines as token ids, and token ids as text."""

    def __init__(self, settings: BatchSettings, weights: LocalWeights) -> None:
        self._settings = settings
        self._weights = weights
        self.tokenizer: Tokenizer = load_tokenizer(settings.weights)
        self.form: PromptForm | None = choose_form(
            self.tokenizer,
            _read(settings.weights / "tokenizer_config.json"),
            _read(settings.weights / "chat_template.jinja"),
        )
        self._renderer = Renderer()

    def write_prompts(
        self, lines: Sequence[Request | BadLine]
    ) -> tuple[dict[int, list[Text]], list[Request | BadLine]]:
        """The texts of each line by its number; lines that turn out to be bad take the place of what they were."""
        texts: dict[int, list[Text]] = {}
        found: list[Request | BadLine] = []
        for line in lines:
            if isinstance(line, Request):
                try:
                    texts[line.number] = list(self._write(line))
                except SwarmError as error:
                    found.append(BadLine(line.number, str(error), line.custom_id))
                    continue
            found.append(line)
        return texts, found

    def _write(self, request: Request) -> Iterator[Text]:
        settings = self._settings
        seed = (settings.sampling.seed + request.number) & MOST_SEED
        sampling = Sampling(**{**_settings_of(settings.sampling), "seed": seed})  # pyright: ignore[reportArgumentType]
        if request.continuations:
            for place, written in enumerate(request.continuations):
                given = encode_answer(self.tokenizer, request.prompt, written, is_raw=True)
                ids = [*given.prompt_ids, *given.ids]
                yield self._check(
                    Text(request.number, place, ids, len(given.prompt_ids), len(given.ids), sampling, is_given=True)
                )
            return
        ids = self._encode(request)
        if settings.scores:
            if len(ids) < 2:
                raise RequestError("a score needs a text of two tokens at least")
            yield self._check(Text(request.number, 0, ids, 1, len(ids) - 1, sampling, is_given=True))
            return
        room = self._weights.decoder.context - len(ids)
        most = min(request.max_tokens or settings.max_tokens, room)
        if most < 1:
            raise RequestError(f"{len(ids)} tokens leave no room in a context of {self._weights.decoder.context}")
        yield Text(request.number, 0, ids, len(ids), most, sampling)

    def _encode(self, request: Request) -> list[int]:
        if not request.messages:
            ids = self.tokenizer.encode(request.prompt).ids
        elif self.form is None:
            raise RequestError("the model has no chat template; write a prompt instead of messages")
        else:
            text = self._renderer.render(self.form.template, self.form.variables(request.messages))
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise RequestError("a prompt without a token")
        return ids

    def _check(self, text: Text) -> Text:
        context = self._weights.decoder.context
        if text.positions > context:
            raise RequestError(f"{text.positions} tokens are more than the model's context of {context}")
        return text

    def read(self, text: Text) -> tuple[str, bool]:
        """An answer's text so far, and whether one of the model's stop strings ends it."""
        ids = text.answer[:-1] if text.finish == "stop" and self.ends(text.ids[-1]) else text.answer
        written = self.tokenizer.decode(ids, skip_special_tokens=True)
        scanner = StopScanner(() if self.form is None else self.form.stops)
        shown = scanner.push(written)
        return (shown.text, True) if shown.is_stopped else (shown.text + scanner.finish(), False)

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token in self._weights.end_ids


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _describe(
    line: Request | BadLine, texts: Mapping[int, list[Text]], writer: _Writer, weights: LocalWeights
) -> dict[str, object]:
    if isinstance(line, BadLine):
        return describe_error(line)
    some = texts[line.number]
    if some[0].is_given:
        return describe_scores(line, some)
    return describe_answer(line, some[0], writer.read(some[0])[0], weights.name)


def _go_on(texts: Sequence[Text], kept: Partial) -> None:
    """Take over what was done before an interruption."""
    for text in texts:
        text.ids += kept.answers.get(text.key, [])
        text.scores = kept.scores.get(text.key, [])
        text.finish = kept.finished.get(text.key, "")


# Memory ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Share:
    """How the memory is split: which layers are kept, which texts run together."""

    residence: Residence
    groups: Sequence[list[Text]]

    def describe(self, weights: LocalWeights, texts: int) -> str:
        layers, streamed = weights.decoder.layers, len(self.residence.streamed)
        said = f"{texts} texts"
        if len(self.groups) > len({together[0].is_given for together in self.groups}):
            said += f" in {len(self.groups)} groups, for there is not memory for all at once"
        return f"{said}; {streamed} of {layers} layers come from disk each step" if streamed else said


def _share_memory(settings: BatchSettings, weights: LocalWeights, texts: Sequence[Text]) -> _Share:
    """All texts together if they can be, with as many layers kept as there is room for then."""
    memory, decoder = weights.memory, weights.decoder
    everything = whole(decoder.layers)
    weights.check(everything)
    free = int(Cpu().measure().free * (1 - SPARED_SHARE))
    budget = free if settings.memory is None else min(free, parse_size(settings.memory))
    item = ITEM_BYTES[settings.dtype or weights.manifest.dtype]
    position = decoder.cache_bytes(item)
    sizes = TextBytes(position * decoder.layers, position, 2 * decoder.hidden * item)
    undone = [text for text in texts if not text.finish]
    layer = memory.weight_costs.layer
    fixed = memory.fixed(everything)
    streamed = max(0, len(weights.alike) - 1 - BUFFERS) * layer
    room = budget - (fixed - streamed)  # for texts, with as few layers kept as can be
    largest = max((sizes.of(text) for text in undone), default=0)
    if room < largest:
        raise RequestError(
            f"{format_size(budget)} is too little: {weights.name} needs {format_size(fixed - streamed)} with as many layers "
            f"as can be on disk, and the longest text {format_size(largest)}; pass --memory "
            f"{(fixed - streamed + largest) // 10**6 + 1}MB or more, or fewer --max-tokens"
        )
    wanted = min(room, sum(map(sizes.of, undone)))
    residence = settle(weights.name, everything, weights.alike, fixed, layer, budget - wanted, None)
    return _Share(residence, list(group(undone, sizes, wanted)))


# Computing ------------------------------------------------------------------------------------------------------------


def _compute(
    settings: BatchSettings,
    weights: LocalWeights,
    share: _Share,
    texts: Sequence[Text],
    kept: Partial,
    writer: _Writer,
    say: Callable[[str], None],
) -> tuple[int, float]:
    """Tokens that were computed, and in how many seconds."""
    if not share.groups:
        return 0, 0.0
    residence = share.residence
    streaming = Streaming(residence.streamed, residence.buffers) if residence.streamed else None
    part = init_part(
        settings.weights,
        "f",
        dtype=None if settings.dtype is None else getattr(torch, settings.dtype),
        quantisation=settings.quantisation,
        streaming=streaming,
    )
    engine = LayerMajor(part)
    tokens, started, said_at, steps = 0, time.monotonic(), time.monotonic(), 0
    for number, together in enumerate(share.groups):
        while active := [text for text in together if not text.finish]:
            drawn = engine.step(active)
            steps += 1
            tokens += sum(len(one.given) or 1 for one in drawn)
            _note(active, drawn, kept, writer)
            for text in active:
                if text.finish:
                    engine.forget(text)
            now = time.monotonic()
            if now - said_at > SAY_SECONDS:
                said_at = now
                left = seconds_left((now - started) / steps, share.groups[number:])
                done = sum(bool(text.finish) for text in texts)
                rate = tokens / (now - started)
                say(f"{done} of {len(texts)} done, {rate:.1f} tokens/s, at most {_minutes(left)} left")
    return tokens, time.monotonic() - started


def _note(active: Sequence[Text], drawn: Sequence[Drawn], kept: Partial, writer: _Writer) -> None:
    """Take a step's tokens and scores over, and keep them."""
    tokens: dict[str, int] = {}
    scores: dict[str, list[float]] = {}
    finished: dict[str, str] = {}
    for text, one in zip(active, drawn, strict=True):
        if text.is_given:
            text.scores = scores[text.key] = list(one.given)
            text.finish = finished[text.key] = "scored"
            continue
        tokens[text.key] = one.ids[0]
        text.ids.append(one.ids[0])
        text.finish = _finish(text, writer)
        if text.finish:
            finished[text.key] = text.finish
    kept.note(tokens, scores, finished)


def _finish(text: Text, writer: _Writer) -> str:
    if writer.ends(text.ids[-1]) or writer.read(text)[1]:
        return "stop"
    return "length" if len(text.answer) >= text.most else ""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
