"""``--recipe`` of a file of LLaMA-Factory: one line with the command for its keys."""

import shlex
from pathlib import Path

import pytest

from planner.base.command_line import parse_arguments
from planner.base.errors import InvalidFileError
from planner.cli.plan_command import plan
from planner.recipes.llama_factory import translate
from planner.recipes.load_recipe import load_recipe

FILE = """
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
stage: sft
finetuning_type: lora
quantization_bit: 4
lora_rank: 8
lora_target: all
dataset: identity
cutoff_len: 2048
packing: true
per_device_train_batch_size: 1
learning_rate: 1.0e-4
num_train_epochs: 3.0
"""


def test_it_is_told_as_a_command_that_plan_reads(tmp_path: Path) -> None:
    file = tmp_path / "qwen_lora_sft.yaml"
    file.write_text(FILE, encoding="utf-8")
    with pytest.raises(InvalidFileError, match="a file of LLaMA-Factory") as refused:
        load_recipe(str(file))
    command = refused.value.reason.partition(" is: ")[2].partition(";")[0]
    program, *arguments = shlex.split(command)
    assert program == "plan"
    values = parse_arguments(plan, arguments)
    given = {name: values[name] for name in ("model", "method", "lora_rank", "packing", "epochs")}
    assert given == {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "method": "qlora",
        "lora_rank": 8,
        "packing": True,
        "epochs": 3.0,
    }
    assert values["learning_rate"] == 1e-4
    assert values["sequence_length"] == 2048


WHOLE = {
    "model_name_or_path": "a/b",
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target": "q_proj, v_proj",
    "dataset": "identity",
    "template": "qwen",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "optim": "adamw_torch",
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_ratio": 0.1,
    "bf16": True,
    "deepspeed": "examples/deepspeed/ds_z3_offload_config.json",
    "output_dir": "saves/q",
    "resume_from_checkpoint": None,
    "ddp_timeout": 180000000,
}


def test_each_key_is_carried_over_or_named() -> None:
    told = translate(WHOLE, ["--gpus", "4xrtx-4090"], 4)
    values = parse_arguments(plan, shlex.split(told.plan)[1:])
    settings = ["schedule.kind=constant", "schedule.warmup_ratio=0.1", "adapter.alpha=16"]
    given = {
        "micro_batch_size": 2,
        "global_batch_size": 64,
        "lora_dropout": 0.05,
        "lora_targets": "q_proj,v_proj",
        "optimizer": "adamw_torch",
        "precision": "bf16",
        "zero_stage": 3,
        "offload": "all",
        "gpus": "4xrtx-4090",
        "settings": settings,
    }
    assert {name: values[name] for name in given} == given
    assert told.launch == "--output saves/q"
    assert told.sentence.endswith(
        "; name the data with --data; not carried over: template, ddp_timeout"
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"neat_packing": True}, "--packing"),
        ({"packing": True, "neat_packing": False}, "--packing"),
        ({"packing": False}, "--no-packing"),
        ({"quantization_bit": 8}, "--recipe qlora-int8"),
        ({"finetuning_type": "full", "max_steps": -1}, "--method full"),
        ({"deepspeed": "ds_z2_offload_config.json"}, "--zero-stage 2 --offload optimizer"),
        ({"flash_attn": "disabled"}, "--attention eager"),
        ({"pissa_init": True}, "--lora-init pissa_niter_16"),
        ({"pissa_init": True, "pissa_iter": -1, "pissa_convert": True}, "--lora-init pissa"),
    ],
)
def test_values_that_are_said_otherwise(keys: dict[str, object], said: str) -> None:
    told = translate({"model_name_or_path": "a/b", **keys}, devices=2)
    assert told.plan.endswith(f" {said}")
    assert told.left_out == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deepspeed", "ds_z3_partial_offload_config.json"),
        ("flash_attn", "fa2"),
        ("optim", "adamw_mini"),
        ("lr_scheduler_type", "inverse_sqrt"),
        ("val_size", 500),
        ("report_to", ["neptune"]),
    ],
)
def test_values_without_a_counterpart_are_named(key: str, value: object) -> None:
    assert translate({"model_name_or_path": "a/b", key: value}, devices=2).left_out == (key,)


def test_what_is_typed_beside_the_file_decides() -> None:
    typed = ["--micro-batch-size", "1", "--strategy", "fsdp", "--set", "adapter.alpha=8"]
    told = shlex.split(translate(WHOLE, typed, 4).plan)
    assert (told.count("--micro-batch-size"), told.count("--zero-stage")) == (1, 0)
    assert [each for each in told if "alpha" in each] == ["adapter.alpha=8"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(f"stage: {each}", "learns from preferences") for each in ("dpo", "kto", "ppo", "rm")]
    + [("stage: pt", "plain text"), ("finetuning_type: freeze", "only lora and full")],
)
def test_another_kind_of_training_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(f"model_name_or_path: a/b\n{line}\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=f"{line}.*{reason}"):
        load_recipe(str(file))
