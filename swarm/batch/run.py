"""A batch from its input file to its output file: reads, splits the memory, computes, keeps what is done, writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from swarm.batch.engine import PIECE_TOKENS, Answering, PassingThrough, cut_given
from swarm.batch.lines import BadLine, Request, read_lines
from swarm.batch.partial import Partial
from swarm.batch.progress import Progress
from swarm.batch.results import describe_answer, describe_error, describe_scores
from swarm.batch.rows import NOTHING, Rows, RowsInMemory, RowsOnDisk
from swarm.batch.settings import BatchSettings, settings_of
from swarm.batch.sharing import Share, share_memory
from swarm.batch.states import SUFFIX, StatesFile, describe_states, write_states
from swarm.batch.texts import Text, count_predicting, seconds_left
from swarm.batch.writer import Writer
from swarm.decoder.builder import Streaming
from swarm.decoder.device import Cpu
from swarm.decoder.part import DecoderPart
from swarm.errors import RequestError
from swarm.files import write_whole
from swarm.loading import init_part
from swarm.node.batches import Drawn
from swarm.node.compute.memory import SPARED_SHARE
from swarm.node.compute.models import LocalWeights, read_weights
from swarm.parts import Part, parse_part
from swarm.sepweight.manifest import sha256_of
from swarm.sizes import parse_size


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a batch. seconds: of computing. streamed: layers that came from disk each step."""

    lines: int
    bad: int
    tokens: int
    seconds: float
    streamed: int
    groups: int
    is_spilled: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    """What there is to do. states: hidden states that another machine left off at, if it goes on from such."""

    lines: Sequence[Request | BadLine]
    texts: Mapping[int, Sequence[Text]]
    states: StatesFile | None

    @property
    def every(self) -> list[Text]:
        return [text for some in self.texts.values() for text in some]


def run_batch(settings: BatchSettings, source: Path, target: Path, say: Callable[[str], None]) -> Summary:
    """Answer or score every line, or run a part on what is to be scored.

    Raises RequestError, WeightsError; what is done is kept beside the output.
    """
    if target.exists():
        raise RequestError(f"{target} exists; remove it, or name another output")
    (weights,) = read_weights([settings.weights], settings.dtype, Cpu(), settings.quantisation).values()
    part = parse_part(settings.part, weights.decoder.layers)
    weights.check(part)
    writer = Writer(settings, weights)
    batch = _read(part, source, target, weights, writer)
    kept = Partial(
        target.with_name(f"{target.name}.partial"),
        {
            "input": sha256_of(source),
            "model": str(weights.model),
            "part": str(part),
            "settings": [settings.max_tokens, settings.scores, settings_of(settings.sampling)],
        },
    )
    _go_on(batch.every, kept)
    free = int(Cpu().measure().free * (1 - SPARED_SHARE))
    budget = free if settings.memory is None else min(free, parse_size(settings.memory))
    share = share_memory(weights, part, settings.dtype, budget, batch.every, PIECE_TOKENS)
    say(share.describe(part.layer_count))
    work = _Work(settings, weights, part, batch, kept, writer, target, say)
    work.run(share)
    if part.end:
        results = [_describe(line, batch.texts, writer, weights) for line in batch.lines]
        write_whole(target, "".join(f"{json.dumps(result, ensure_ascii=False)}\n" for result in results).encode())
    kept.remove()
    bad = sum(isinstance(line, BadLine) for line in batch.lines)
    streamed = len(share.residence.streamed)
    groups = len(share.groups) + bool(share.given)
    return Summary(len(batch.lines), bad, work.tokens, work.seconds, streamed, groups, share.is_spilled)


def _read(part: Part, source: Path, target: Path, weights: LocalWeights, writer: Writer) -> _Batch:
    """What the input asks of a part. Raises RequestError."""
    states = None if part.begin else StatesFile(source)
    if states is not None:
        _check_states(states, part, source, weights)
        return _Batch(states.states.lines, states.states.find_texts(), states)
    texts, lines = writer.write_prompts(read_lines(source))
    batch = _Batch(lines, texts, None)
    if not part.end:
        if target.suffix != SUFFIX:
            raise RequestError(f'{target}: what "{part}" makes is hidden states; name the output *{SUFFIX}')
        if not all(text.is_given for text in batch.every):
            raise RequestError(
                "an answer goes through all layers for each of its tokens; --part is for what is scored: with --score, or "
                "lines with continuations"
            )
    return batch


def _check_states(states: StatesFile, part: Part, source: Path, weights: LocalWeights) -> None:
    said = states.states
    if said.model != str(weights.model):
        raise RequestError(f"{source} is of model {said.model}, and {weights.name} is {weights.model}")
    first = part.layers[0] if part.layers else part.depth
    if first != said.layer or states.width != weights.decoder.hidden:
        raise RequestError(f'{source} goes on with layer {said.layer}; pass --part "{said.layer}-…"')


def _describe(
    line: Request | BadLine, texts: Mapping[int, Sequence[Text]], writer: Writer, weights: LocalWeights
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


# Computing ------------------------------------------------------------------------------------------------------------


class _Work:
    """Computes a batch, and counts tokens and seconds."""

    def __init__(
        self,
        settings: BatchSettings,
        weights: LocalWeights,
        part: Part,
        batch: _Batch,
        kept: Partial,
        writer: Writer,
        target: Path,
        say: Callable[[str], None],
    ) -> None:
        self.tokens, self.seconds = 0, 0.0
        self._settings = settings
        self._weights = weights
        self._part = part
        self._batch = batch
        self._kept = kept
        self._writer = writer
        self._target = target
        self._progress = Progress(say, time.monotonic)

    def run(self, share: Share) -> None:
        """Raises RequestError, WeightsError."""
        if not share.groups and not share.given:
            return
        residence = share.residence
        loaded = init_part(
            self._settings.weights,
            self._part,
            dtype=None if self._settings.dtype is None else getattr(torch, self._settings.dtype),
            quantisation=self._settings.quantisation,
            streaming=Streaming(residence.streamed, residence.buffers) if residence.streamed else None,
        )
        started = time.monotonic()
        self._answer(Answering(loaded), share.groups)
        if share.given:
            self._pass_through(loaded, share)
        self.seconds = time.monotonic() - started

    def _answer(self, engine: Answering, groups: Sequence[Sequence[Text]]) -> None:
        texts = sum(map(len, groups))
        for number, together in enumerate(groups):
            while active := [text for text in together if not text.finish]:
                drawn = engine.step(active)
                self.tokens += len(drawn)
                self._note_answers(active, drawn)
                for text in active:
                    if text.finish:
                        engine.forget(text)
                done = texts - sum(not text.finish for some in groups for text in some)
                steps = seconds_left(1.0, groups[number:])
                self._progress.note(steps, f"{done} of {texts} answered")

    def _note_answers(self, active: Sequence[Text], drawn: Sequence[Drawn]) -> None:
        """Take a step's tokens over, and keep them."""
        for text, one in zip(active, drawn, strict=True):
            text.ids.append(one.ids[0])
            text.finish = self._finish(text)
        tokens = {text.key: text.ids[-1] for text in active}
        self._kept.note(tokens, {}, {text.key: text.finish for text in active if text.finish})

    def _finish(self, text: Text) -> str:
        if self._writer.ends(text.ids[-1]) or self._writer.read(text)[1]:
            return "stop"
        return "length" if len(text.answer) >= text.most else ""

    # What is scored ---------------------------------------------------------------------------------------------------

    def _pass_through(self, loaded: DecoderPart, share: Share) -> None:
        """All given texts, through each layer before the next one."""
        work = cut_given(share.given)
        with self._make_rows(loaded, share, work) as rows:
            layers = self._part.layers[max(0, rows.done) :]
            left = len(work) * len(layers)

            def count() -> None:
                nonlocal left
                left -= 1
                self._progress.note(left, f"{rows.done} of {self._part.layer_count} layers")

            passing = PassingThrough(loaded, rows, work, count)
            if rows.done == NOTHING:
                passing.enter(None if self._batch.states is None else self._batch.states.read)
            self._progress.begin()
            for number in layers:
                passing.run_layer(number)
            if self._part.end:
                self._score(passing, work)
            else:
                texts = [text for some in work for text in some]
                after = self._part.layers[-1] + 1
                states = describe_states(str(self._weights.model), after, self._batch.lines, texts)
                write_states(self._target, states, rows, len(work))
                self.tokens += count_predicting(texts)

    @contextmanager
    def _make_rows(self, loaded: DecoderPart, share: Share, work: Sequence[Sequence[Text]]) -> Generator[Rows]:
        """Hidden states for as long as they are needed; those on disk outlive an interruption."""
        if not share.is_spilled and self._kept.layers == NOTHING:
            yield RowsInMemory(len(work))
            return
        folder = self._settings.spill or self._target.parent
        lengths = [count_predicting(some) for some in work]
        path = folder / f"{self._target.name}.spill"
        kept = self._kept
        rows = RowsOnDisk(path, lengths, loaded.decoder.hidden, loaded.dtype, kept.layers, kept.note_layer)
        yield rows
        rows.remove()

    def _score(self, passing: PassingThrough, work: Sequence[Sequence[Text]]) -> None:
        for number, texts in enumerate(work):
            if all(text.finish for text in texts):
                continue
            scores: dict[str, list[float]] = {}
            for text, one in zip(texts, passing.score(number), strict=True):
                text.scores = scores[text.key] = list(one.given)
                text.finish = "scored"
                self.tokens += len(text.scores)
            self._kept.note({}, scores, dict.fromkeys(scores, "scored"))
