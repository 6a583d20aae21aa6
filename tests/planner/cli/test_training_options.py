"""``--epochs``, ``--learning-rate`` and ``--set``; and the time where token lengths are unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec
from planner.cli.plan_command import plan
from planner.plan.schema import Plan
from planner.search.repredict import predicted

OPTIONS: dict[str, Any] = {"model": "qwen2.5-0.5b", "gpus": "rtx-4090", "output": Path("p.yaml")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["plan"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_options_reach_the_plan() -> None:
    plan(**OPTIONS, epochs=1.5, learning_rate=1e-4, settings=["training.save_steps=7"])
    made = read_spec(Plan, Path("p.yaml"))
    assert (made.training.epochs, made.training.save_steps) == (1.5, 7)
    assert made.optimizer.learning_rate == 1e-4
    assert made.optimizer.name == "adamw_torch_fused"


def test_a_number_of_steps_takes_the_place_of_epochs() -> None:
    plan(**OPTIONS, settings=["training.max_steps=12"])
    training = read_spec(Plan, Path("p.yaml")).training
    assert (training.max_steps, training.epochs) == (12, None)


def test_settings_of_adapters_and_clipping_change_no_prediction() -> None:
    settings = ["adapter.alpha=7", "adapter.rslora=true", "optimizer.max_grad_norm=0.5"]
    plan(**OPTIONS, method="lora", settings=settings)
    made = read_spec(Plan, Path("p.yaml"))
    assert made.adapter is not None
    changed = made.adapter.alpha, made.adapter.rslora, made.optimizer.max_grad_norm
    assert changed == (7, True, 0.5)
    assert predicted(made).prediction == made.prediction


@pytest.mark.parametrize(
    "asked", [{"settings": ["adapter.init=pissa_niter_16"]}, {"lora_init": "pissa_niter_16"}]
)
def test_adapters_that_begin_as_a_part_of_the_base(asked: dict[str, Any]) -> None:
    """On the host, of which it takes memory and time, while the device holds what LoRA does."""
    plan(**{**OPTIONS, "output": Path("plain.yaml")}, method="lora", lora_dropout=0.0)
    plain = read_spec(Plan, Path("plain.yaml"))
    plan(**OPTIONS, **asked)  # in the place of QLoRA, which it rules out
    made = read_spec(Plan, Path("p.yaml"))
    assert made.adapter is not None
    assert (made.method, made.adapter.init) == ("lora", "pissa_niter_16")
    assert made.prediction.phases == plain.prediction.phases
    assert made.prediction.host_ram_bytes > plain.prediction.host_ram_bytes
    assert predicted(made).prediction == made.prediction
    with pytest.raises(InvalidRequestError, match="peft refuses PiSSA on packed ones"):
        plan(**OPTIONS, **asked, method="qlora", force=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch.sequence_length=64", "memory or speed may depend on it: use its option"),
        ("adapter.begin=pissa", "unknown key 'adapter.begin'. Known: alpha"),
        ("adapter.init=pisa", "adapter.init pisa is not planned: choose default, pissa, "),
        (
            "adapter.init=eva",
            r"peft 0\.21\.2, tuners/lora/eva\.py, .*: take pissa or pissa_niter_16",
        ),
        ("adapter.init=loftq", r"layer\.py, loftq_init.*: take method qlora with adapter\.init"),
        ("batch.packing=true", r"predicts anew: launch p\.yaml --set batch\.packing=true"),
        ("training.epochs=2", "use its option"),
        ("training.hang=1", r"unknown key 'training\.hang'"),
        ("training.save_steps", "write KEY=VALUE"),
    ],
)
def test_what_cannot_be_set(setting: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        plan(**OPTIONS, settings=[setting])
    assert not Path("p.yaml").exists()


def test_the_time_of_counted_records_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The tokenizer cannot be had, so that every sample is taken to be as long as planned."""
    Path("my.jsonl").write_text('{"prompt": "Who?", "completion": "Ada"}\n' * 500)
    plan(**OPTIONS, data="my.jsonl", epochs=2, global_batch_size=16)
    text = capsys.readouterr().out
    assert "64 steps in 2 epochs, at most " in text
    assert "500 records of 2,048 tokens at most" in text
    plan(**OPTIONS, data="my.jsonl", epochs=2, global_batch_size=16, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["data"]["num_records"] == 500
    expected = 64 * document["prediction"]["step_time_s"]
    assert document["data"]["most_run_time_s"] == pytest.approx(expected)
