"""One token of a Mamba mixer's loop that stands for many, against all of them written out."""

from typing import Any

import pytest
from msgspec import structs

from planner.forward.model_pass import ModelPass, passed_layers
from planner.forward.recurrent import mamba
from planner.memory.micro_batch import largest_moment
from planner.models.model_presets import load_model
from planner.recipes.load_recipe import load_recipe
from planner.tape.counting_tape import CountingTape
from planner.workload.dtypes import numerics
from planner.workload.settings import settings_of
from planner.workload.workload import Batch, Workload

TOKENS = 24


def _run(*, checkpointing: int, trains: bool = True) -> tuple[ModelPass, dict[str, int]]:
    spec = load_model("jamba-v0.1").spec
    assert spec.mamba_1 is not None
    shape = structs.replace(
        spec,
        num_layers=2,
        layer_letters="M",
        experts=None,
        hidden_size=256,
        vocab_size=512,
        mamba_1=structs.replace(spec.mamba_1, inner_size=512),
    )
    work = Workload(model=shape, settings=settings_of(load_recipe("lora")), compute="bf16")
    run = ModelPass(
        work,
        Batch(micro_batch_size=2, sequence_length=TOKENS),
        numerics(method="lora", compute="bf16", zero_stage=0),
        layers=passed_layers(shape, checkpointing),
        sink="keep",
        trains=trains,
        tape=CountingTape,
    )
    assert isinstance(run.tape, CountingTape)
    counted = [
        (each.times, each.times * each.flops, each.times * each.num_bytes)
        for each in run.tape.kernels
    ]
    launches, flops, moved = map(sum, zip(*counted, strict=True))
    return run, {"launches": launches, "flops": flops, "bytes": moved}


def _peak(run: ModelPass) -> int:
    log = run.tape.log
    return sum(event[0] for event in log[: largest_moment(log)])


@pytest.mark.parametrize("setting", [{"checkpointing": 0}, {"checkpointing": 1}])
def test_a_token_that_stands_for_others_takes_what_they_take(
    setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, counted = _run(**setting)
    monkeypatch.setattr(mamba, "WRITTEN_OUT", TOKENS)
    all_of_them, counted_all = _run(**setting)
    assert _peak(few) == _peak(all_of_them)
    assert len(few.tape.log) < len(all_of_them.tape.log)
    assert counted == counted_all


def test_without_a_graph_no_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    few, _ = _run(checkpointing=0, trains=False)
    monkeypatch.setattr(mamba, "WRITTEN_OUT", TOKENS)
    all_of_them, _ = _run(checkpointing=0, trains=False)
    assert _peak(few) == _peak(all_of_them)
