"""XTuner's configurations: read as syntax, setting by setting, and refused with their line."""

import re
from pathlib import Path

import pytest

from planner.base.errors import InvalidFileError
from planner.recipes.recipe import Recipe
from planner.recipes.xtuner import read_xtuner

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
        ("model = dict(", "modell = dict(", r"sets no model\.type: this is not an XTuner"),
        ("r=64", "r='many'", r"model\.lora\.r should be a whole number from 1 up, not 'many'"),
        (
            "lr = 2e-4",
            "lr = get_lr()",
            r"optimizer\.lr should be a number from 0 up, not get_lr\(\)",
        ),
        (
            "type=AdamW",
            "type=AdamWW",
            r"optimizer 'AdamWW' is not planned. Known: Adafactor, AdamW,",
        ),
        ('"nf4"', '"fp4"', r"bnb_4bit_quant_type 'fp4' is not planned: use 'nf4'"),
        ("max_length=max_length,", "", r"the data set sets no max_length"),
        ("    lora=dict(", "    mora=dict(", r"quantizes a model that it trains whole"),
        ("import torch\n", "with read_base():\n    from .base import *\n", r":1: builds on other"),
        ("type=LinearLR", "type=OneCycleLR", r"schedule OneCycleLR is not planned"),
        ("train_cfg = ", "trainer = ", r"max_epochs should be a number from 0 up and is not set"),
        ("lr = 2e-4", "lr = -2e-4", r":40: optim_wrapper\.optimizer\.lr .* 0 up, not -0\.0002"),
        ("lr = 2e-4", "lr = 0", r":40: learning_rate: it should be a number > 0.0, not the number"),
        ("lr = 2e-4", "lr = 9e999", r"optimizer\.lr should be a number from 0 up, not inf"),
        ("r=64", "r=-1", r":17: model\.lora\.r should be a whole number from 1 up, not -1"),
        ("r=64", "r=True", r"model\.lora\.r should be a whole number from 1 up, not True"),
        (
            "dropout=0.1",
            "dropout=1.5",
            r":17: dropout: it should be a number < 1.0, not",
        ),
        ("r=64", "target_modules=5", r"target_modules should be a list of names"),
        ("    lora=dict(", "    lora=get_lora(", r"model\.lora should be a dictionary, not get_lo"),
        ("load_in_4bit=True", "load_in_4bit='yes'", r"load_in_4bit should be True or False, not"),
        ("max_epochs = 3", "max_epochs = 0", r"max_epochs is 0: nothing would be trained"),
        ("end=warmup_ratio", "end='all'", r":47: the end of LinearLR should be a number"),
        ("end=warmup_ratio", "end=3", r":47: warmup_ratio: it should be a number < 1.0"),
        ("type=LinearLR", "type=[]", r":47: schedule \[\] is not planned"),
        (
            "param_scheduler = [",
            "param_scheduler = make(); _ = [",
            r"schedule make\(\) is not",
        ),
        ("batch_size=1", "batch_size=1.5", r":39: train_dataloader\.batch_size should be a whole"),
        ("accumulative_counts=16", "accumulative_counts=0", r"counts should be a whole .* not 0"),
        ("max_length = 2048", "max_length = '2048'", r":39: the data set's max_length should be a"),
        ("max_length = 2048", "max_length = 1", r":39: sequence_length: .* >= 2, not the number 1"),
        ("max_epochs = 3", "max_epochs = 9e9", r":39: epochs: it should be a number <= 1000000"),
        ("batch_size=1", "batch_size=99999999", r":39: global_batch_size: .* <= 16777216"),
        ("pack_to_max_length=True", "pack_to_max_length=1", r"pack_to_max_length should be True"),
        ('path="silk', 'path=find() or "silk', r"name of a data set should be texts"),
        ('"float16"', '"int4"', r"dtype should be one of float16, bfloat16, float32"),
        ("import torch\n", f"x = {'-' * 5000}1\n", r"config\.py: an expression is nested too dee"),
        ("lr = 2e-4", "lr = [0] * 10**12", r"lr should be .* from 0 up, not \[0\] \* 10 \*\* 12"),
        ("lr = 2e-4", "lr = {[]: 1}", r"lr should be .* from 0 up, not \{\[\]: 1\}"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CONFIG
    with pytest.raises(InvalidFileError, match=message):
        read(tmp_path, CONFIG.replace(old, new, 1))


def test_dictionaries_in_dictionaries_and_one_schedule(tmp_path: Path) -> None:
    text = CONFIG.replace(
        "    lora=dict(", "    lora=dict(**{'use_dora': True, 'init_lora_weights': 'olora'}, "
    )
    text += "param_scheduler = dict(type='CosineAnnealingLR')\n"
    recipe = read(tmp_path, text)
    assert recipe.adapter is not None
    assert (recipe.adapter.rank, recipe.adapter.dora) == (64, True)
    assert recipe.adapter.init == "olora"
    assert recipe.schedule.kind == "cosine"
    assert recipe.schedule.warmup_ratio == 0


def test_nothing_of_it_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    read(tmp_path, f"open({str(trap)!r}, 'w')\n{CONFIG}lr = open({str(trap)!r}, 'w')\n")
    assert not trap.exists()
