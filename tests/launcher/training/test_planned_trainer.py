"""A plan's settings as the trainer gets them."""

from pathlib import Path
from typing import Any

import pytest

from tests.launcher.plans import full, plan

pytest.importorskip("trl")

from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

from launcher.training.model_building import with_adapter
from launcher.training.optimizer import lora_plus_optimizer
from launcher.training.planned_trainer import training_arguments
from planner.plan.schema import Plan
from tests.launcher.tiny_model import CONFIG

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")


def arguments(plan: Plan) -> Any:
    return training_arguments(plan, Path("run"))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_warm_up_over_a_share_of_the_steps(kind: str, rates: list[float]) -> None:
    import torch

    given = arguments(plan(schedule={"kind": kind, "warmup_ratio": 1 / 3}))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(given.lr_scheduler_type, optimizer, given.get_warmup_steps(6), 6)
    found = []
    for _ in range(6):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(rates, abs=1e-6)


def test_without_warm_up_constant_is_constant() -> None:
    given = arguments(plan(schedule={"kind": "constant", "warmup_ratio": 0.0}))
    assert given.lr_scheduler_type == "constant"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_is_autocast_or_nothing(precision: str) -> None:
    given = arguments(plan(**full(precision__compute=precision, precision__trainable="fp32")))
    assert (given.bf16, given.fp16) == (precision == "bf16", False)


def test_what_a_run_saves_shows_and_reports() -> None:
    training = {
        "max_steps": 9,
        "save_steps": 3,
        "seed": 7,
        "neftune_noise_alpha": 5.0,
        "hang_limit_s": 100,
        "evaluation": {"every_steps": 2},
    }
    given = arguments(plan(training=training, data__validation_fraction=0.1))
    assert (given.save_strategy, given.save_steps) == ("steps", 3)
    assert (given.eval_strategy, given.eval_steps) == ("steps", 2)
    assert given.per_device_eval_batch_size == plan().batch.micro_batch_size
    assert (given.seed, given.data_seed, given.neftune_noise_alpha) == (7, 7, 5.0)
    assert given.ddp_timeout == 200
    assert given.report_to == []


def test_the_matrices_that_start_at_nothing_learn_faster() -> None:
    """LoRA+: peft's groups, the plan's optimizer."""
    shaped = plan(optimizer__lora_plus_ratio=16.0, optimizer__weight_decay=0.01)
    model = with_adapter(shaped, LlamaForCausalLM(LlamaConfig(vocab_size=64, **CONFIG)))
    optimizer = lora_plus_optimizer(model, arguments(shaped), ratio=16.0)
    assert type(optimizer).__name__ == "AdamW"
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {
        names[parameter].rpartition(".lora_")[2][0]: group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates == {"A": 0.002, "B": 16 * 0.002}
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == trained
