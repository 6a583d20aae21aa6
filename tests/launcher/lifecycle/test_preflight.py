"""A machine that is not the planned one, and a plan that --set has changed."""

import re
from functools import cache
from typing import Any

import pytest
from msgspec import convert, structs

from launcher.lifecycle.preflight import (
    fitted_to,
    needed_disk_bytes,
    repredicted,
    require_compiler,
    require_packages,
)
from planner.base.errors import InvalidRequestError
from planner.base.units import GIB
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.cluster import Cluster, Device
from planner.hardware.detect import parse_gpus
from planner.hardware.machine_readings import Holder
from planner.models.model_presets import load_model
from planner.plan.schema import ParallelSection, Plan
from planner.plan.training_section import TrainingSection
from planner.plan.vocabulary import Method
from planner.search.repredict import predicted
from tests.launcher import plans


@cache
def planned(
    gpus: str = "rtx-4090", method: Method = "qlora", model: str = "chatglm3-6b-base"
) -> Plan:
    return plan_of(
        decide(Request(model=load_model(model), cluster=parse_gpus(gpus), method=method))
    )


def machine(gpus: str, *, taken_bytes: int = 0, **changes: Any) -> Cluster:
    cluster = parse_gpus(gpus)
    held = (Holder(pid=4711, used_bytes=taken_bytes),) if taken_bytes else ()
    card = structs.replace(cluster.accelerator, in_use_bytes=taken_bytes, holders=held, **changes)
    return structs.replace(cluster, accelerator=card)


def refusal(plan: Plan, cluster: Cluster) -> str:
    with pytest.raises(InvalidRequestError) as error:
        fitted_to(plan, cluster)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("gpus", "method", "model"),
    [
        ("rtx-4090", "qlora", "chatglm3-6b-base"),
        ("8xh100-sxm-80gb", "full", "chatglm3-6b-base"),
        ("2x24G", "lora", "chatglm3-6b-base"),
        ("cpu", "full", "smollm2-135m"),
    ],
)
def test_a_plan_predicts_itself(gpus: str, method: Method, model: str) -> None:
    """All that the prediction depends on is in the file."""
    plan = planned(gpus, method, model)
    assert predicted(plan) == plan


def test_the_machine_that_was_planned_for() -> None:
    assert fitted_to(planned(), machine("rtx-4090")) == (planned(), [])


def test_more_cards_than_planned_are_left_alone() -> None:
    assert fitted_to(planned(), machine("rtx-4090:4")) == (planned(), [])


def test_no_card_at_all() -> None:
    message = refusal(planned(), parse_gpus("cpu"))
    assert message.startswith("the plan is for 1 x NVIDIA GeForce RTX 4090 and this machine")


def test_fewer_cards_than_planned() -> None:
    message = refusal(planned("8xh100-sxm-80gb", "full"), machine("h100-sxm-80gb:4"))
    assert "the plan is for 8 x NVIDIA H100 80GB HBM3 and this process sees 4 x" in message


def test_a_card_without_bf16() -> None:
    assert "Tesla T4 has no bf16 tensor cores" in refusal(planned(), machine("t4"))


def test_another_card_that_has_room_is_predicted_anew() -> None:
    plan, notes = fitted_to(planned(), machine("l40s"))
    assert notes == ["note: planned for NVIDIA GeForce RTX 4090, run on NVIDIA L40S"]
    assert plan.hardware.gpu == "l40s"
    assert plan.prediction.step_time_s != planned().prediction.step_time_s
    assert plan.batch == planned().batch


def test_less_free_memory_takes_the_plans_own_leaner_layout() -> None:
    plan, notes = fitted_to(planned(), machine("rtx-4090", taken_bytes=6 * GIB))
    assert (
        plan.prediction.high_bytes
        <= machine("rtx-4090", taken_bytes=6 * GIB).accelerator.free_bytes
    )
    assert plan.batch.global_batch_size == planned().batch.global_batch_size
    assert plan.batch != planned().batch or plan.activation_checkpointing
    (note,) = notes
    assert "GiB are free now (held by process 4711): micro-batches of" in note


def test_no_layout_fits_into_what_is_free() -> None:
    message = refusal(planned(), machine("rtx-4090", taken_bytes=20 * GIB))
    assert "GiB are free now (held by process 4711), and no leaner layout of the plan" in message


def test_too_little_host_memory() -> None:
    small = machine("cpu", capacity_bytes=GIB)
    message = refusal(plans.plan(prediction__host_ram_bytes=3 * GIB), small)
    assert message.startswith("the plan needs about 3.00 GiB of memory and 1.00 GiB are free now: ")


def test_too_little_host_memory_to_offload() -> None:
    plan = structs.replace(
        planned(),
        parallel=convert(plans.parallel("zero2", 1, offload="optimizer"), ParallelSection),
    )
    need = plan.prediction.host_ram_bytes
    fitted_to(plan, structs.replace(machine("rtx-4090"), host_ram_bytes=need))
    message = refusal(plan, structs.replace(machine("rtx-4090"), host_ram_bytes=need - 1))
    assert message.startswith("offload optimizer needs about ")


def changed(plan: Plan, **batch: int) -> Plan:
    return structs.replace(plan, batch=structs.replace(plan.batch, **batch))


def test_a_setting_that_fits_moves_the_prediction_and_the_fallbacks() -> None:
    before = planned().prediction.peak_allocated_bytes
    shorter = changed(planned(), sequence_length=512)
    fitted, _ = repredicted(shorter, ["batch.sequence_length=512"])
    assert fitted.prediction.peak_allocated_bytes < before
    peak = fitted.prediction.peak_allocated_bytes
    assert all(each.peak_allocated_bytes < peak for each in fitted.fallbacks)


def test_a_setting_that_does_not_fit_is_refused_with_the_shortfall() -> None:
    with pytest.raises(InvalidRequestError) as error:
        repredicted(changed(planned(), sequence_length=65536), ["batch.sequence_length=65536"])
    message = str(error.value)
    assert message.startswith("--set batch.sequence_length=65536: this needs up to ")
    assert message.endswith(
        "GiB short, and no leaner layout of the plan that keeps these settings fits"
    )


def test_a_setting_that_does_not_fit_is_refused_with_the_layout_that_does() -> None:
    longer = changed(planned(), sequence_length=3072)
    with pytest.raises(InvalidRequestError) as error:
        repredicted(longer, ["batch.sequence_length=3072"])
    *_, options = str(error.value).partition("GiB short. It fits with ")
    assert options.startswith("--set batch.micro_batch_size=")
    settings = dict(each.split("=") for each in options.split(" --set "))
    smaller = changed(longer, micro_batch_size=int(settings["--set batch.micro_batch_size"]))
    recomputing = structs.replace(
        smaller, activation_checkpointing=settings["activation_checkpointing"] == "true"
    )
    assert predicted(recomputing).prediction.high_bytes <= longer.hardware.budget_bytes


@pytest.mark.parametrize(
    ("settings", "micro_batch_size", "global_batch_size"),
    [
        ("activation_checkpointing=false", 8, 16),
        ("batch.micro_batch_size=64 batch.gradient_accumulation_steps=1", 64, 64),
        ("batch.micro_batch_size=64 batch.global_batch_size=64", 64, 64),
    ],
)
def test_what_was_set_is_not_answered_by_its_contrary(
    settings: str, micro_batch_size: int, global_batch_size: int
) -> None:
    """Other layouts of the plan fit, but none with what was asked for."""
    asked = changed(
        planned(),
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=global_batch_size // micro_batch_size,
        global_batch_size=global_batch_size,
    )
    asked = structs.replace(asked, activation_checkpointing=False)
    with pytest.raises(InvalidRequestError) as error:
        repredicted(asked, settings.split())
    assert str(error.value).endswith("no leaner layout of the plan that keeps these settings fits")


def test_a_smaller_adapter_trains_less() -> None:
    plan = planned()
    assert plan.adapter is not None
    narrower = structs.replace(plan.adapter, rank=plan.adapter.rank // 2)
    fitted, _ = repredicted(structs.replace(plan, adapter=narrower), ["adapter.rank=32"])
    assert 2 * fitted.model.trainable_params == plan.model.trainable_params


def test_without_the_models_shape_nothing_is_claimed() -> None:
    plan, notes = repredicted(plans.plan(), ["training.max_steps=2"])
    assert plan == plans.plan()
    assert notes == [
        "note: the effect of --set on memory is unknown (the plan has no model.config)"
    ]


def test_checkpoints_need_disk_too() -> None:
    """fp32 weights and Adam's two moments, kept twice and written once more."""
    plan = planned("cpu", "full", "smollm2-135m")
    saved = plan.prediction.checkpoint_bytes
    assert saved == pytest.approx(12 * plan.model.num_params, rel=1e-3)
    short = structs.replace(plan, training=TrainingSection(max_steps=20))
    result = needed_disk_bytes(short)
    assert result == pytest.approx(2 * plan.model.num_params, rel=0.01)
    assert needed_disk_bytes(plan) == plan.prediction.disk_bytes == result + 3 * saved
    four = structs.replace(plan, training=TrainingSection(epochs=1, keep_checkpoints=4))
    assert needed_disk_bytes(four) == result + 5 * saved


@pytest.mark.parametrize(
    ("package", "changes", "remedy"),
    [
        ("wandb", {"training": {"max_steps": 4, "report_to": ["wandb"]}}, "pip install wandb"),
        ("schedulefree", {"optimizer__name": "schedule_free_sgd"}, "pip install 'tuneplan[train]'"),
        ("torchao", {"optimizer__name": "adamw_torch_4bit"}, "pip install 'tuneplan[torchao]'"),
    ],
)
def test_a_package_that_is_missing(
    package: str, changes: dict[str, Any], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "launcher.lifecycle.preflight.find_spec", lambda name: None if name == package else 1
    )
    with pytest.raises(InvalidRequestError) as refused:
        require_packages(plans.plan(**changes))
    assert str(refused.value).endswith(f"not installed here ({package}): {remedy}")


@pytest.mark.parametrize(("device", "lacks"), [("cpu", "g++"), ("cuda", "gcc")])
def test_an_update_that_cannot_be_compiled(
    device: Device, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    which = "launcher.lifecycle.preflight.shutil.which"
    monkeypatch.setattr(which, lambda _name: None)
    with pytest.raises(InvalidRequestError, match=rf"lacks {re.escape(lacks)}\. Debian"):
        require_compiler(device)
    monkeypatch.setattr(which, lambda name: name)
    headers = "launcher.lifecycle.preflight.sysconfig.get_path"
    monkeypatch.setattr(headers, lambda _name: "/nowhere")
    with pytest.raises(InvalidRequestError, match=r"lacks /nowhere/Python\.h"):
        require_compiler(device)


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "launcher.compat.requirements.requires", lambda _name: ["trl>=99; extra == 'train'"]
    )
    with pytest.raises(InvalidRequestError, match=r"trl .* is too old \(>=99 is needed\): pip"):
        require_packages(plans.plan())


def test_a_package_that_is_newer_than_tested_is_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``launch --doctor`` warns of it."""
    monkeypatch.setattr(
        "launcher.compat.requirements.requires", lambda _name: ["trl<1; extra == 'train'"]
    )
    require_packages(plans.plan())
