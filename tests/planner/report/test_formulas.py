"""What ``--explain`` shows adds up to what the report shows."""

from pathlib import Path
from typing import Any

import pytest

from planner.decision.choose import decide
from planner.plan.vocabulary import METHODS, Method, Part, ZeroStage
from planner.report.formulas import alive_at_the_peak, formulas
from planner.report.zero_formulas import deepspeed_moments
from planner.search.between_steps import between_steps
from tests.planner.builders import cards, request
from tests.planner.cli.test_plan_command import plan

HELD: tuple[Part, ...] = (
    "weights",
    "adapters",
    "gradients",
    "optimizer_states",
    "communication",
    "workspace",
)


@pytest.mark.parametrize(
    ("count", "gib", "pinned"),
    [
        (1, 24, {}),
        (1, 12, {}),
        (1, 48, {"method": "lora"}),
        (2, 80, {"method": "full"}),
        (8, 24, {"method": "full"}),
        (1, 24, {"micro_batch_size": 4, "activation_checkpointing": True}),
        (1, 24, {"optimizer": "paged_adamw_8bit"}),
        (1, 80, {"method": "full", "model": "qwen2.5-3b", "optimizer": "adafactor"}),
    ],
)
def test_rows_add_up_to_the_report(count: int, gib: int, pinned: dict[str, Any]) -> None:
    chosen = decide(request(cards(count, gib), **pinned)).chosen
    parts = chosen.footprint.phases["optimizer_step"]
    shown = {row.part.replace(" ", "_"): row.num_bytes for row in formulas(chosen)}
    assert shown == {part: parts[part] for part in HELD if parts.get(part)}

    if chosen.layout.zero_stage:
        return  # its peak may be where gathered parameters are most, not activations
    peak = chosen.footprint.phases[chosen.footprint.peak_phase]
    made = peak["activations"] + peak["loss"]
    alive = sum(
        row.num_bytes for row in alive_at_the_peak(chosen) if row.owner in ("activations", "loss")
    )
    assert alive == made


@pytest.mark.parametrize(
    ("zero_stage", "pinned"),
    [
        (1, {}),
        (2, {}),
        (2, {"offload": "optimizer"}),
        (3, {}),
        (3, {"offload": "optimizer"}),
        (3, {"offload": "all"}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_terms_of_deepspeed_add_up_to_their_cells(
    method: str, zero_stage: int, pinned: dict[str, Any]
) -> None:
    chosen = decide(
        request(cards(4, 900), method=method, zero_stage=zero_stage, micro_batch_size=1, **pinned)
    ).chosen
    found = {(moment.phase, moment.part): moment for moment in deepspeed_moments(chosen)}
    for phase, parts in chosen.footprint.phases.items():
        if parts.get("communication"):
            assert (phase, "communication") in found
    for (phase, part), moment in found.items():
        assert moment.num_bytes == chosen.footprint.phases[phase][part]
        assert all(num_bytes > 0 for _, num_bytes in moment.terms)


def test_the_tables_name_formulas_and_tensors(tmp_path: Path) -> None:
    result = plan("--model", "chatglm3-6b-base", "--gpus", "24G", "--explain", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("bytes of NF4", "arXiv:2305.14314", "silu", "Memory per GPU, GiB"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", [0, 3])
def test_what_comes_between_steps_takes_less_than_a_step(method: Method, stage: ZeroStage) -> None:
    if method == "qlora" and stage == 3:
        return
    chosen = decide(request(cards(4, 141), method=method, zero_stage=stage)).chosen
    found = between_steps(chosen)
    forward = chosen.footprint.total_bytes("forward")
    assert sum(found.evaluation.values()) < forward
    assert sum(found.generation.values()) < forward
    assert found.generation["activations"] > 0 == found.generation["loss"]
