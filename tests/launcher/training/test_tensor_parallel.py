"""Layers that are cut over two gloo ranks train as one process does, and their result is whole."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.launching import Finished, write_plan, write_samples
from tests.launcher.plans import IN_FP32, full, parallel

pytest.importorskip("trl")
pytest.importorskip("deepspeed")

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from launcher.chat.trained_model import load
from launcher.run.read_plan import read_plan
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import SIX_STEPS, resume
from tests.launcher.tiny_model import CONFIG, byte_tokenizer

IN_ANOTHER_ORDER = 1e-6
"""Relative, in fp32: sums over ranks are added up in another order."""
CUT = {"parallel": parallel("tensor")}
TRAINED_IN_PHI3 = 2 * 4 * sum((64 + 128, 64 + 64, 64 + 256, 128 + 64))
"""Of two layers, with adapters of rank 4 on four matrices of each."""


def train(folder: Path, checkpoint: Path, **changes: Any) -> Finished:
    folder.mkdir()
    write_samples(folder)
    write_plan(folder, model__source=str(checkpoint), precision=IN_FP32, **changes)
    done = Launcher().run(folder)
    assert done.code == 0, done.errors
    return done


def same(one: Finished, cut: Finished, file: str) -> None:
    """Losses and trained weights, to fp32's rounding, two accumulated micro-batches a step."""
    assert cut.losses == pytest.approx(one.losses, rel=IN_ANOTHER_ORDER)
    expected, found = (load_file(done.run / file) for done in (one, cut))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)
    setup = cut.read("report.json")["setup"]
    assert (setup["engine"], setup["world_size"]) == ("tensor", 2)
    speeds = [row["tokens_per_second"] * row["step_time_s"] for row in cut.metrics]
    tokens = [row["tokens_per_second"] * row["step_time_s"] for row in one.metrics]
    assert speeds == pytest.approx(tokens)  # samples that ranks share are counted once


def write_tiny(folder: Path, model_type: str, **changes: Any) -> int:
    """Write a tiny model of an architecture; gives its parameters."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes = {**CONFIG, "vocab_size": len(tokenizer), **changes}
    ends = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    config = AutoConfig.for_model(model_type, **ends, **sizes)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for saved in (model, tokenizer):
        saved.save_pretrained(folder)
    return int(model.num_parameters())


def test_full_fine_tuning(tiny_checkpoint: Path, tmp_path: Path) -> None:
    changes = full() | {"model__trainable_params": 107_072}
    del changes["precision"]
    one = train(tmp_path / "one", tiny_checkpoint, **changes)
    same(one, train(tmp_path / "cut", tiny_checkpoint, **changes, **CUT), "model/model.safetensors")


def test_adapters_are_those_that_one_process_writes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Recomputed layers and LoRA+ too; the adapters begin as those of one process do."""
    changes = {
        "activation_checkpointing": True,
        "loss": "standard",
        "optimizer__lora_plus_ratio": 16.0,
    }
    one = train(tmp_path / "one", tiny_checkpoint, **changes)
    cut = train(tmp_path / "cut", tiny_checkpoint, **changes, **CUT)
    same(one, cut, "adapter/adapter_model.safetensors")
    settings = [(done.run / "adapter/adapter_config.json").read_bytes() for done in (one, cut)]
    assert settings[0] == settings[1]
    base = load(read_plan(tmp_path / "cut" / "plan.yaml"), tiny_checkpoint)  # to chat, or to merge
    assert all(type(weight) is torch.nn.Parameter for weight in base.parameters())


@pytest.mark.long
def test_norms_of_heads_that_each_rank_sees_some_of(tmp_path: Path) -> None:
    """transformers' own hook sums anew what earlier micro-batches have summed."""
    number = write_tiny(tmp_path / "tiny", "qwen3", tie_word_embeddings=True)
    changes = full(
        model__model_type="qwen3",
        model__num_params=number,
        optimizer__learning_rate=0.01,
    ) | {"model__trainable_params": number}
    del changes["precision"]
    one = train(tmp_path / "one", tmp_path / "tiny", **changes)
    cut = train(tmp_path / "cut", tmp_path / "tiny", **changes, **CUT)
    same(one, cut, "model/model.safetensors")


@pytest.mark.long
def test_adapters_of_joined_matrices_are_whole_and_go_on(tmp_path: Path) -> None:
    """Every tensor that trains is on each rank then; the checkpoint has no group of parts."""
    number = write_tiny(tmp_path / "tiny", "phi3")
    changes = {
        "model__model_type": "phi3",
        "model__num_params": number,
        "model__trainable_params": TRAINED_IN_PHI3,
        "training": SIX_STEPS,
    }
    one = train(tmp_path / "one", tmp_path / "tiny", **changes)
    cut = train(tmp_path / "cut", tmp_path / "tiny", **changes, **CUT)
    same(one, cut, "adapter/adapter_model.safetensors")
    losses, adapter = cut.losses, cut.run / "adapter"
    trained = (adapter / "adapter_model.safetensors").read_bytes()
    (cut.run / "report.json").unlink()
    for path in (adapter, cut.run / "checkpoints" / "checkpoint-4"):
        shutil.rmtree(path)
    done = resume(Launcher(), tmp_path / "cut")
    assert (done.code, done.attempts[-1]["from_step"]) == (0, 2)
    assert done.losses == losses
    assert (adapter / "adapter_model.safetensors").read_bytes() == trained
