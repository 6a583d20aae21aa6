"""``launch`` refuses the combinations that ``plan`` leaves out, by the capability of the card."""

import pytest
from msgspec import structs

from launcher.lifecycle.plan_rules import require_possible
from launcher.lifecycle.preflight import fitted_to, require_packages
from planner.base.errors import InvalidRequestError
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model
from planner.plan.schema import Plan
from tests.launcher import plans

CARDS = {
    "v100-32g": "Tesla V100-SXM2-32GB",
    "t4": None,
    "rtx-4090": None,
    "24G": None,
}
"""The name under which int8 is refused: tensor cores multiply it from compute capability 7.5 on."""


def planned_in_int8(gpus: str) -> Plan:
    model = load_model("qwen2.5-0.5b")
    plan = plan_of(decide(Request(model=model, cluster=parse_gpus(gpus), method="qlora")))
    assert plan.quantization is not None
    quantization = structs.replace(plan.quantization, quant_type="int8", double_quant=False)
    return structs.replace(plan, quantization=quantization)


def refusal_of(gpus: str) -> str | None:
    try:
        require_possible(planned_in_int8(gpus))
    except InvalidRequestError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("gpus", "name"), CARDS.items())
def test_the_planned_card_decides(gpus: str, name: str | None) -> None:
    message = refusal_of(gpus)
    if name is None:
        assert message is None
    else:
        assert message is not None
        assert message.startswith("qlora (int8) with ")
        assert (
            f" on {name} is refused: int8 matrix products need a compute capability of 7.5"
            in message
        )


def test_the_card_that_is_here_decides_too() -> None:
    plan = planned_in_int8("t4")
    here = parse_gpus("v100-32g")
    with pytest.raises(InvalidRequestError, match="on Tesla V100-SXM2-32GB is refused: int8"):
        fitted_to(plan, here)
    assert fitted_to(plan, parse_gpus("rtx-4090"))[1] == [
        "note: planned for Tesla T4, run on NVIDIA GeForce RTX 4090"
    ]


def test_an_optimizer_whose_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run, as on a login node, is possible without it."""
    plan = plans.plan(optimizer__name="adafactor")
    monkeypatch.setattr(
        "launcher.lifecycle.preflight.find_spec", lambda name: name != "transformers" or None
    )
    require_possible(plan)
    with pytest.raises(
        InvalidRequestError,
        match=r"transformers\): pip install 'tuneplan\[train\]'",
    ):
        require_packages(plan)


def test_an_edited_plan_is_held_against_rules_about_pure_bf16() -> None:
    asked = Request(
        model=load_model("qwen2.5-0.5b"),
        cluster=parse_gpus("2xrtx-4090"),
        method="full",
        offload="optimizer",
    )
    plan = plan_of(decide(asked))
    require_possible(plan)
    pure = structs.replace(plan.precision, trainable="bf16", master="bf16")
    with pytest.raises(InvalidRequestError, match="keeps offloaded states in bf16 only with its"):
        require_possible(structs.replace(plan, precision=pure))
