"""Trains the demo model and writes it as a Hugging Face checkpoint: `python -m swarm.demo.train OUT`.

Needs the development extra (transformers). Two cores take a few minutes. `make demo-model` converts the result
into `swarm/demo/model`, the sepweight directory that is shipped.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import FalconConfig, FalconForCausalLM

from swarm.demo.corpus import CHAT_TEMPLATE, END_OF_TEXT, Entry, read_corpus, render_turn

VOCABULARY_LIMIT = 1400
CONTEXT = 512
IGNORED = -100  # cross_entropy's own default for "no target here"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train."""

    steps: int = 700
    batch: int = 64
    peak_rate: float = 2e-3
    warm_up_steps: int = 60
    seed: int = 7


def train_tokenizer(entries: Sequence[Entry]) -> Tokenizer:
    """A byte-level BPE over the corpus, laid out as Falcon's is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [
        text
        for entry in entries
        for question in entry.trained_questions
        for text in (render_turn(question), f" {entry.answer}\n")
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LIMIT,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


LEAD_INS = (
    "Hey, ",
    "Please: ",
    "I have a question. ",
    "Say, ",
    "So, ",
    "One more thing: ",
    "Okay. ",
    "Hello! ",
    "Quick question: ",
)
SWAPS = (
    ("How do I ", "How can I "),
    ("How do I ", "How to "),
    ("How do I ", "how does one "),
    ("How do I ", "explain how to "),
    ("What is a ", "what's a "),
    ("What is ", "what's "),
    ("What is ", "what exactly is "),
    ("What does ", "what did "),
    ("Explain ", "explain to me "),
    ("Is ", "is "),
)


def vary(question: str, rng: random.Random) -> str:
    """The question as another person may type it."""
    text = question
    if rng.random() < 0.35:
        old, new = rng.choice(SWAPS)
        text = text.replace(old, new, 1)
    words = text.split(" ")
    if len(words) > 3 and rng.random() < 0.3:
        del words[rng.randrange(len(words) - 1)]
    if len(words) > 3 and rng.random() < 0.2:
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
    if rng.random() < 0.2:
        words.insert(
            rng.randrange(len(words)), rng.choice(("the", "a", "that", "me", "this", "it", "then", "about", "to"))
        )
    text = " ".join(words)
    if len(text) > 8 and rng.random() < 0.15:
        at = rng.randrange(len(text))
        text = text[:at] + text[at + 1 :]
    if rng.random() < 0.3:
        text = text.rstrip("?.")
    if rng.random() < 0.3:
        text = text.lower()
    elif rng.random() < 0.3:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.25:
        text = rng.choice(LEAD_INS) + text
    return text


def make_example(entries: Sequence[Entry], tokenizer: Tokenizer, rng: random.Random) -> tuple[list[int], list[int]]:
    """Token ids of one or two turns and the targets: answers only, everything else IGNORED."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids: list[int] = []
    targets: list[int] = []
    for turn in range(rng.choice((1, 1, 2))):
        entry = rng.choice(entries)
        question = rng.choice(entry.trained_questions)
        question = question if rng.random() < 0.25 else vary(question, rng)
        prompt = tokenizer.encode(("\n" if turn else "") + render_turn(question)).ids
        answer = [*tokenizer.encode(f" {entry.answer}").ids, end]
        ids += prompt + answer
        targets += [IGNORED] * len(prompt) + answer
    return ids, targets


def make_batch(
    entries: Sequence[Entry], tokenizer: Tokenizer, rng: random.Random, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and next-token targets, both [size, longest]; short rows are padded with end-of-text and IGNORED."""
    examples = [make_example(entries, tokenizer, rng) for _ in range(size)]
    longest = max(len(ids) for ids, _ in examples)
    end = tokenizer.token_to_id(END_OF_TEXT)
    inputs = torch.full((size, longest), end)
    targets = torch.full((size, longest), IGNORED)
    for row, (ids, wanted) in enumerate(examples):
        inputs[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids) - 1] = torch.tensor(wanted[1:])
    return inputs, targets


def train(out: Path, schedule: Schedule | None = None) -> None:
    """Train and write a checkpoint that `swarm-weights convert` reads."""
    schedule = schedule or Schedule()
    torch.manual_seed(schedule.seed)
    rng = random.Random(schedule.seed)
    entries = read_corpus()
    tokenizer = train_tokenizer(entries)
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = FalconConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        multi_query=True,
        parallel_attn=True,
        bias=False,
        max_position_embeddings=CONTEXT,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = FalconForCausalLM(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak_rate, betas=(0.9, 0.98), weight_decay=0.05)
    started = time.monotonic()
    for step in range(schedule.steps):
        warm = min(1.0, (step + 1) / schedule.warm_up_steps)
        decay = 1.0 - step / schedule.steps
        for group in optimizer.param_groups:
            group["lr"] = schedule.peak_rate * min(warm, max(decay, 0.02))
        inputs, targets = make_batch(entries, tokenizer, rng, schedule.batch)
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == schedule.steps - 1:
            print(f"step={step} loss={loss.item():.4f} seconds={time.monotonic() - started:.0f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {"chat_template": CHAT_TEMPLATE, "eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
