"""A ChatGLM3 folder is planned, converted, trained and given back in its own layout."""

import signal
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
import torch
from msgspec import to_builtins
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from launcher.chatglm.command import convert
from launcher.merging.merge_run import merge_run
from launcher.run.read_plan import read_plan
from planner.base.strict_yaml import dump_yaml
from tests.launcher.chatglm.original import (
    random_tensors,
    reference_logits,
    train_sentencepiece,
    write_original,
)
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import resume
from tests.launcher.launching import Finished, asked, environment, write_records

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("sentencepiece", "trl")),
    reason="sentencepiece or trl is not installed",
)

VOCAB = 640
QUESTION = ("hi", "你好")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as THUDM publishes it, and data."""
    folder = tmp_path_factory.mktemp("runs")
    weights = random_tensors(VOCAB, torch.bfloat16)
    tokenizer = train_sentencepiece()
    write_original(folder / "chatglm3", weights, kind="bin", num_shards=3, tokenizer=tokenizer)
    write_records(folder / "data.jsonl", [asked(*QUESTION), asked("who are you?", "a model")])
    return folder


def run(folder: Path, module: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(folder: Path, method: str) -> Finished:
    """Planned, stopped after three of six steps, resumed."""
    options = ("--gpus", "cpu", "--sequence-length", "64", "--global-batch-size", "2", "--force")
    run(folder, "planner", "--model", "chatglm3", "--method", method, *options)
    plan = read_plan(
        folder / "plan.yaml",
        settings=["training.max_steps=6", "optimizer.learning_rate=0.01"],
        data="data.jsonl",
        output=Path("run"),
    )
    (folder / "plan.yaml").write_text(dump_yaml(to_builtins(plan)))
    stopped = Launcher(stop_behind_step=3).run(folder)
    assert stopped.code == 128 + signal.SIGTERM
    done = resume(Launcher(), folder)
    assert done.code == 0, done.errors
    assert [row["step"] for row in done.metrics] == [1, 2, 3, 4, 5, 6]
    return Finished(done.code, "", stopped.errors, done.run.rename(folder / f"run-{method}"))


def test_qlora_and_lora(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    first = trained(folder, "qlora")
    assert "for transformers' GLM (once) to " in (first.run / "logs" / "screen.log").read_text()
    second = trained(folder, "lora")
    assert "converting" not in (second.run / "logs" / "screen.log").read_text()

    convert(folder / "run-lora", folder / "adapter", "chatglm", StringIO())
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.transformer.encoder.layers.1.self_attention.query_key_value"
    assert adapter[f"{name}.lora_B.weight"].shape == (128, 3 * 64)

    merge_run(folder / "run-lora", None)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "run-lora" / "merged", dtype=torch.float32
    )
    options = ("--convert", "run-lora/merged", "served", "--to", "chatglm")
    assert run(folder, "launcher", *options) == "served\n"
    weights = load_file(folder / "served" / "model.safetensors")
    assert weights.keys() == random_tensors(VOCAB).keys()
    assert (folder / "served" / "tokenizer.model").read_bytes() == (
        folder / "chatglm3" / "tokenizer.model"
    ).read_bytes()
    ids = list(range(3, 40))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    back = {each: tensor.float() for each, tensor in weights.items()}
    assert (reference_logits(back, ids) - logits).abs().max() <= 1e-5
    base = {each: tensor.float() for each, tensor in random_tensors(VOCAB, torch.bfloat16).items()}
    assert (reference_logits(base, ids) - logits).abs().max() > 0.01
