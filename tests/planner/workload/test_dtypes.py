"""The dtypes of each kind of tensor, and the section of a plan that states them."""

import pytest
from msgspec import ValidationError, convert, structs

from planner.plan.schema import PrecisionSection
from planner.plan.vocabulary import METHODS, Method, Strategy, ZeroStage
from planner.workload.dtypes import Numerics, numerics
from planner.workload.layout import Layout
from planner.workload.plan_sections import precision_section
from tests.oracle.small_models import LLAMA, workload_of

STRATEGIES: list[tuple[Strategy, ZeroStage]] = [
    ("single", 0),
    ("ddp", 0),
    ("zero1", 1),
    ("zero2", 2),
    ("zero3", 3),
]


def layout(strategy: Strategy) -> Layout:
    return Layout(
        strategy=strategy,
        world_size=1 if strategy == "single" else 2,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=False,
    )


@pytest.mark.parametrize("method", METHODS)
def test_pure_bf16_on_one_device_passes_as_deepspeed_does(method: Method) -> None:
    """ZeRO-2 has 16-bit parameters without autocast, too, which the oracles hold; what it adds is
    the copy inside its optimizer."""
    pure = numerics(method=method, compute="bf16", zero_stage=0, pure=True)
    under_zero = numerics(method=method, compute="bf16", zero_stage=2)
    assert pure == structs.replace(under_zero, master=0)


@pytest.mark.parametrize(("strategy", "zero_stage"), STRATEGIES)
def test_pure_bf16_has_two_bytes_of_everything(strategy: Strategy, zero_stage: ZeroStage) -> None:
    kinds = numerics(method="full", compute="bf16", zero_stage=zero_stage, pure=True)
    assert _widths(kinds) == (2, 2, 2, 2, 2)
    assert kinds.master == (2 if zero_stage else 0)


def _widths(kinds: Numerics) -> tuple[int, ...]:
    return kinds.frozen, kinds.trainable, kinds.gradient, kinds.home, kinds.residual


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize(("strategy", "zero_stage"), STRATEGIES)
def test_a_plan_says_whether_it_is_pure(
    strategy: Strategy, zero_stage: ZeroStage, pure: bool
) -> None:
    work = structs.replace(workload_of(LLAMA, "full", "bf16", 0.0, "all-linear"), pure=pure)
    section = precision_section(work, layout(strategy))
    assert section.pure is pure
    assert section.autocast is (not pure and zero_stage == 0)


def test_fp16_is_never_pure() -> None:
    kinds = {"compute": "fp16", "frozen": "fp16", "trainable": "fp16"}
    assert convert({**kinds, "master": "fp32"}, PrecisionSection).master == "fp32"
    with pytest.raises(ValidationError, match="does not unscale gradients in fp16"):
        convert({**kinds, "master": None}, PrecisionSection)
