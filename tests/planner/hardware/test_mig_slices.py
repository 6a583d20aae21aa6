"""MIG slices: a job of one slice, since CUDA shows a process one and NCCL joins none."""

from pathlib import Path

import pytest

from planner.base.errors import InvalidRequestError, NothingFitsError
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.smallest_machines import fewest_cards
from planner.hardware.cluster import Cluster
from planner.hardware.detect import cluster_from
from planner.hardware.multi_node import over_nodes
from planner.hardware.saved_machine import load_machine, save_machine
from planner.memory.workspaces import LARGE_CUBLAS_WORKSPACE_BYTES
from planner.search.repredict import predicted
from tests.nvml.stand_in import Child
from tests.planner.builders import request

MODEL = "qwen2.5-1.5b"
SLICES = pytest.mark.parametrize("name", ["four-slices", "mig"])


@pytest.fixture
def here(nvml: Child, name: str) -> Cluster:
    return nvml.detect(name)


@SLICES
def test_one_slice_is_planned_for(here: Cluster, tmp_path: Path) -> None:
    """Here, and where its saved machine is read."""
    assert here.machine is not None
    save_machine(here.machine, tmp_path / "machine.json", force=False)
    saved = cluster_from(load_machine(tmp_path / "machine.json", {}))
    for cluster in (here, saved):
        plan = plan_of(decide(request(cluster, model=MODEL)))
        assert plan.parallel.strategy == "single"
        assert " MIG " in plan.hardware.device_name
        assert any("CUDA shows a process one MIG slice" in note for note in cluster.notes)


@SLICES
def test_no_more_slices_are_offered(here: Cluster) -> None:
    asked = request(here, model="chatglm3-6b-base", optimizer="adamw_torch_fused")
    assert fewest_cards(asked, "full") is None
    decision = decide(request(here, model=MODEL))
    assert "such cards" not in (decision.richer or "")
    with pytest.raises(NothingFitsError, match="Several MIG slices cannot train together: choose"):
        decide(request(here, model="llama-3.1-70b"))
    with pytest.raises(InvalidRequestError, match="is a MIG slice, which cannot train with others"):
        over_nodes(here, 2, None)
    assert over_nodes(here, 1, None) == here


@SLICES
def test_a_plan_for_a_slice_predicts_itself(here: Cluster) -> None:
    """What the card that it is of tells: context, capability; no speed is made up for it."""
    plan = plan_of(decide(request(here, model=MODEL)))
    assert plan.prediction.step_time_s is None
    assert predicted(plan) == plan


@pytest.mark.parametrize("name", ["mig"])
def test_a_slice_of_a_hopper_has_its_workspaces(here: Cluster) -> None:
    saving = decide(request(here, model=MODEL, method="qlora")).chosen.footprint.phases["save"]
    assert saving["workspace"] >= LARGE_CUBLAS_WORKSPACE_BYTES
