"""Optimizers that average weights: their warm-up, and what becomes the result."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schedulefree
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from launcher.run.run_directory import RunDirectory
from launcher.training.optimizer import begin_training, warm_up_by_schedule_alone
from launcher.training.saving import save_result
from tests.launcher import plans


def model() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, intermediate_size=16, **sizes))


def test_the_share_of_warm_up_is_no_number_of_steps_of_its_own() -> None:
    """schedulefree multiplies the rate of step k by k over it."""
    arguments = TrainingArguments(
        output_dir="unused", use_cpu=True, optim="schedule_free_sgd", warmup_steps=0.25
    )
    _, own = Trainer.get_optimizer_cls_and_kwargs(arguments, model())
    with warm_up_by_schedule_alone(arguments):
        _, planned = Trainer.get_optimizer_cls_and_kwargs(arguments, model())
    assert (own["warmup_steps"], planned["warmup_steps"]) == (0.25, 0)
    assert arguments.warmup_steps == 0.25


@pytest.mark.parametrize("kind", ["AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"])
def test_the_result_is_the_average(kind: str, tmp_path: Path) -> None:
    """Weights that train are a tenth of the way from it to ``z``: all three have 0.9 for beta."""
    trained = model()
    optimizer = getattr(schedulefree, kind)(trained.parameters(), lr=0.01)
    begin_training(optimizer)
    assert not optimizer.state
    ids = torch.arange(8)[None]
    for _ in range(8):
        trained(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: each.detach().clone() for name, each in trained.named_parameters()}
    trainer = SimpleNamespace(
        optimizer=optimizer,
        model=trained,
        processing_class=SimpleNamespace(save_pretrained=lambda _folder: None),
        accelerator=SimpleNamespace(
            unwrap_model=lambda each: each, is_main_process=True, wait_for_everyone=lambda: None
        ),
    )
    save_result(
        plans.plan(**plans.full(precision=plans.IN_FP32)), trainer, RunDirectory(tmp_path), {}
    )
    saved = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    for name, average in saved.named_parameters():
        z = optimizer.state[trained.get_parameter(name)]["z"]
        assert torch.allclose(weights[name], average.lerp(z, 0.1), atol=1e-6)
        assert not torch.equal(weights[name], average)
