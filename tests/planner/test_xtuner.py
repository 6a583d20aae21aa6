"""XTuner's configurations: read as syntax, setting by setting, and refused with their line."""

import re
from pathlib import Path

import pytest

from planner.errors import InvalidFileError
from planner.recipe import Recipe
from planner.xtuner import read_xtuner

CONFIG = """\
import torch
from datasets import load_dataset
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import alpaca_zh_map_fn
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

path = "THUDM/chatglm3-6b-base"
max_length = 2048
max_epochs = 3
warmup_ratio = 0.03
lr = 2e-4
model = dict(
    type=SupervisedFinetune,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=path,
        quantization_config=dict(
            type=BitsAndBytesConfig,
            load_in_4bit=True,
            bnb_4bit_compute_dtype=torch.float16,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
        ),
    ),
    lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout=0.1),
)
train_dataset = dict(
    type=process_hf_dataset,
    dataset=dict(type=load_dataset, path="silk-road/alpaca-data-gpt4-chinese"),
    max_length=max_length,
    dataset_map_fn=alpaca_zh_map_fn,
    pack_to_max_length=True,
)
train_dataloader = dict(batch_size=1, dataset=train_dataset)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=lr, betas=(0.9, 0.999), weight_decay=0),
    clip_grad=dict(max_norm=1, error_if_nonfinite=False),
    accumulative_counts=16,
    dtype="float16",
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, begin=0, end=warmup_ratio * max_epochs),
    dict(type=CosineAnnealingLR, eta_min=0.0, begin=warmup_ratio * max_epochs, end=max_epochs),
]
train_cfg = dict(type=TrainLoop, max_epochs=max_epochs)
custom_hooks = [dict(type="EvaluateChatHook", every_n_iters=-500)]
if path:
    custom_hooks += [open("never-run").read()]
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "config.py"
    path.write_text(text, encoding="utf-8")
    return read_xtuner(path)


def test_every_setting_that_matters_is_read(tmp_path: Path) -> None:
    recipe = read(tmp_path, CONFIG)
    assert (recipe.model, recipe.method, recipe.packing) == (
        "THUDM/chatglm3-6b-base",
        "qlora",
        True,
    )
    assert (recipe.global_batch_size, recipe.sequence_length, recipe.epochs) == (16, 2048, 3)
    adapter, quantization = recipe.adapter, recipe.quantization
    assert adapter is not None
    assert quantization is not None
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (64, 16, 0.1)
    assert adapter.target_modules == "all-linear"
    assert (quantization.quant_type, quantization.double_quant) == ("nf4", True)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.learning_rate) == ("adamw_torch_fused", 2e-4)
    assert (optimizer.weight_decay, optimizer.max_grad_norm) == (0, 1)
    assert (schedule.kind, schedule.warmup_ratio) == ("cosine", 0.03)
    (source,) = recipe.data.sources
    assert source.source == "silk-road/alpaca-data-gpt4-chinese"
    assert source.fields.given["instruction"] == "instruction_zh"
    assert recipe.written_for is not None
    assert (recipe.written_for.micro_batch_size, recipe.written_for.compute) == (1, "fp16")


def test_without_quantization_it_is_lora_and_without_adapter_full(tmp_path: Path) -> None:
    whole = re.sub(r"quantization_config=dict\((.|\n)*?\n        \),\n", "", CONFIG)
    assert read(tmp_path, whole).method == "lora"
    assert read(tmp_path, re.sub(r"    lora=.*\n", "", whole)).method == "full"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_length = 2048", "max_length = = 2048", r"config\.py:13: not Python: invalid syntax"),
        ("    lora=dict(", "    lora=dict((", r"config\.py:\d+: not Python: .*never closed"),
        ("type=SupervisedFinetune", "type=DPO", r"config\.py:17: trains by DPO: only Supervised"),
        ("model = dict(", "modell = dict(", r"sets no model\.type: this is no XTuner"),
        ("r=64", "r='many'", r"model\.lora\.r should be a whole number, not 'many'"),
        ("lr = 2e-4", "lr = get_lr()", r"optimizer\.lr should be a number, not get_lr\(\)"),
        (
            "type=AdamW",
            "type=AdamWW",
            r"no optimizer of ours is 'AdamWW'. Known: Adafactor, AdamW,",
        ),
        ('"nf4"', '"fp4"', r"bnb_4bit_quant_type 'fp4' is not planned: use 'nf4'"),
        ("max_length=max_length,", "", r"the data set sets no max_length"),
        ("    lora=dict(", "    mora=dict(", r"quantizes a model that it trains whole"),
        ("import torch\n", "with read_base():\n    from .base import *\n", r":1: builds on other"),
        ("type=LinearLR", "type=OneCycleLR", r"OneCycleLR is no schedule of ours"),
        ("train_cfg = ", "trainer = ", r"train_cfg\.max_epochs should be a number and is not set"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CONFIG
    with pytest.raises(InvalidFileError, match=message):
        read(tmp_path, CONFIG.replace(old, new, 1))


def test_nothing_of_it_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    read(tmp_path, f"open({str(trap)!r}, 'w')\n{CONFIG}lr = open({str(trap)!r}, 'w')\n")
    assert not trap.exists()
