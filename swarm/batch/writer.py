"""Lines of the input as token ids, and token ids as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from swarm.batch.lines import BadLine, Request
from swarm.batch.settings import BatchSettings, settings_of
from swarm.batch.texts import Text
from swarm.client.prompts import PromptForm, choose_form
from swarm.client.renderer import Renderer
from swarm.client.scoring import encode_answer
from swarm.client.text import StopScanner
from swarm.decoder.loading import load_tokenizer
from swarm.errors import RequestError, SwarmError
from swarm.messages.sampling import Sampling
from swarm.node.compute.models import LocalWeights

MOST_SEED = (1 << 62) - 1


class Writer:
    """Writes lines as token ids, and token ids as text."""

    def __init__(self, settings: BatchSettings, weights: LocalWeights) -> None:
        """Raises WeightsError where the tokenizer is missing."""
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
        sampling = Sampling(**{**settings_of(settings.sampling), "seed": seed})  # pyright: ignore[reportArgumentType]
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
