"""Text models inside of models that see: their text alone is converted, and is what transformers has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    LlavaConfig,
    Mistral3Config,
    PreTrainedModel,
    SmolVLMConfig,
)

from swarm.checkpoints import open_checkpoint
from swarm.errors import WeightsError
from swarm.loading import init_part
from swarm.sepweight.convert import convert_source
from tests.checkpoints import spread
from tests.llama.members import COMMON
from tests.processes import run_command

IDS = torch.randint(0, 90, (40,), generator=torch.Generator().manual_seed(1))
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# what wraps it → the config's class, and what its text and vision configs are
WRAPPERS: dict[str, tuple[type[Any], str, str]] = {
    "gemma3": (Gemma3Config, "gemma3_text", "siglip_vision_model"),
    "mistral3": (Mistral3Config, "mistral", "pixtral"),
    "llava": (LlavaConfig, "llama", "clip_vision_model"),
    "smolvlm": (SmolVLMConfig, "llama", "smolvlm_vision"),
}
LEFT_OUT = {"smolvlm": ["connector", "vision_model"]}


def save_wrapped(name: str, directory: Path) -> PreTrainedModel:
    made, text, vision = WRAPPERS[name]
    torch.manual_seed(1)
    told = {**COMMON, "head_dim": 16, "sliding_window": 9, "model_type": text}
    config = made(
        text_config=told, vision_config={**VISION, "model_type": vision}, image_token_index=94, pad_token_id=95
    )
    model = AutoModelForImageTextToText.from_config(config).eval()
    spread(model, ".layers.", 0.2)
    model.save_pretrained(directory)
    return model


def convert(source: Path, destination: Path) -> list[str]:
    with open_checkpoint(source) as opened:
        convert_source(opened.source, destination, opened.family)
        return list(opened.left_out)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_text_model_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_wrapped(name, tmp_path / "checkpoint")
    assert convert(tmp_path / "checkpoint", tmp_path / "weights") == LEFT_OUT.get(
        name, ["multi_modal_projector", "vision_tower"]
    )
    with torch.inference_mode():
        expected = model(input_ids=IDS[None], token_type_ids=torch.zeros_like(IDS[None])).logits[0]
    assert torch.allclose(init_part(tmp_path / "weights", "f")(IDS), expected, atol=1e-4, rtol=0)


def test_keys_that_the_text_config_leaves_to_the_wrapper(tmp_path: Path) -> None:
    """As google/gemma-3-4b-it has them: end ids outside, no model_type needed, and no word about the head."""
    save_wrapped("gemma3", tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    for key in ("model_type", "tie_word_embeddings", "eos_token_id"):
        del config["text_config"][key]
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config | {"eos_token_id": [1, 106]}))
    convert(tmp_path / "checkpoint", tmp_path / "weights")
    decoder = init_part(tmp_path / "weights", "f").decoder
    assert decoder.end_ids == (1, 106)
    assert decoder.tied


def test_the_command_says_what_it_leaves_out(tmp_path: Path) -> None:
    save_wrapped("llava", tmp_path / "checkpoint")
    done = run_command("weights", tmp_path, ["convert", str(tmp_path / "checkpoint"), str(tmp_path / "weights")])
    assert done.returncode == 0
    assert "converting the text model alone, without multi_modal_projector, vision_tower" in done.stderr


def test_a_processors_own_template_comes_along(tmp_path: Path) -> None:
    save_wrapped("gemma3", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    convert(tmp_path / "checkpoint", tmp_path / "weights")
    assert (tmp_path / "weights" / "chat_template.jinja").read_text() == "{{ messages }}"
    (tmp_path / "checkpoint" / "chat_template.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"chat_template\.json holds no chat template"):
        convert(tmp_path / "checkpoint", tmp_path / "again")


def test_an_unknown_text_model_is_refused_by_name(tmp_path: Path) -> None:
    save_wrapped("llava", tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["model_type"] = "mamba"
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match='model_type "mamba" is unsupported'):
        convert(tmp_path / "checkpoint", tmp_path / "weights")
