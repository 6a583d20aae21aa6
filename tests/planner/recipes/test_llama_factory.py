"""``--recipe`` of a file of LLaMA-Factory: one line with the command for its keys."""

import shlex
from pathlib import Path

import pytest

from planner.base.command_line import parse_arguments
from planner.base.errors import InvalidFileError
from planner.cli.plan_command import plan
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
    program, *arguments = shlex.split(refused.value.reason.partition(" is: ")[2])
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
