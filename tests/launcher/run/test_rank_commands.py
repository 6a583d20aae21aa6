"""The commands and the environment of a plan."""

from pathlib import Path

import pytest

from launcher.run.rank_commands import (
    Rendezvous,
    environment_changes,
    merged_environment,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.run.run_directory import RunDirectory
from tests.launcher.plans import parallel, plan

GPU = {"hardware__device": "cuda", "hardware__gpu": "24G", "hardware__device_name": "RTX 4090"}


def test_one_process_a_device_through_torch_elastic() -> None:
    command = torchrun_command(
        plan(parallel=parallel("ddp", 4), batch__global_batch_size=16),
        RunDirectory(Path("runs/a b")),
        python="python",
    )
    assert command == [
        *("python", "-P", "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "4", "-m", "launcher.training.rank", "runs/a b"),
    ]


def test_one_of_several_nodes(tmp_path: Path) -> None:
    command = torchrun_command(
        plan(),
        RunDirectory(tmp_path, "10.0.0.2"),
        python="python",
        rendezvous=Rendezvous(
            endpoint="node1:29501",
            id="tuneplan-1",
            num_nodes=2,
            address="10.0.0.2",
            hosts_store=False,
        ),
        max_restarts=3,
    )
    assert command == [
        *("python", "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "node1:29501"),
        *("--rdzv-id", "tuneplan-1", "--local-addr", "10.0.0.2"),
        *("--rdzv-conf", "is_host=0,join_timeout=3600", "--max-restarts", "3"),
        *("-m", "launcher.training.rank", str(tmp_path), "--address", "10.0.0.2"),
    ]


def test_torch_elastic_takes_the_ranks_options_for_none_of_its_own(tmp_path: Path) -> None:
    """Its parser looks for abbreviations among them too."""
    from torch.distributed.run import get_args_parser

    command = torchrun_command(
        plan(), RunDirectory(tmp_path, "10.0.0.2"), python="python", checkpoint=tmp_path / "c-2"
    )
    parsed = get_args_parser().parse_args(command[4:])
    assert parsed.training_script == "launcher.training.rank"
    assert parsed.training_script_args == command[command.index("launcher.training.rank") + 1 :]


def test_preparation_is_a_process_of_its_own() -> None:
    command = preparation_command(RunDirectory(Path("runs/x")), python="python", shown_samples=2)
    module = ["python", "-P", "-m", "launcher.lifecycle.preparation_process"]
    assert command == [*module, "runs/x", "--show-sample", "2"]


def test_cpu_ranks_share_the_cores() -> None:
    two_ranks = plan(parallel=parallel("ddp"), batch__global_batch_size=8)
    changes = environment_changes(two_ranks, cores=5)
    assert changes["OMP_NUM_THREADS"] == "2"
    assert changes["DS_ACCELERATOR"] == "cpu"
    assert "PYTORCH_ALLOC_CONF" not in changes


def test_a_rank_has_a_thread_even_where_cores_are_few() -> None:
    two_ranks = plan(parallel=parallel("ddp"), batch__global_batch_size=8)
    assert environment_changes(two_ranks, cores=1)["OMP_NUM_THREADS"] == "1"


def test_gpu_ranks_get_expandable_segments() -> None:
    changes = environment_changes(plan(**GPU), cores=8)
    assert changes["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert {"DS_ACCELERATOR", "OMP_NUM_THREADS"}.isdisjoint(changes)


def test_ranks_that_may_be_started_again_meet_in_a_store_of_their_own() -> None:
    changes = environment_changes(plan(), cores=2, max_restarts=1)
    assert changes["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert changes.keys() - environment_changes(plan(), cores=2) == {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    }


def test_telemetry_is_off_everywhere() -> None:
    for changes in (
        environment_changes(plan(), cores=2),
        environment_changes(plan(**GPU), cores=2),
    ):
        assert changes["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_what_a_person_set_stays() -> None:
    changes = environment_changes(plan(), cores=8)
    assert merged_environment({"OMP_NUM_THREADS": "3"}, changes)["OMP_NUM_THREADS"] == "3"


def test_an_allocator_chosen_under_its_older_name_stays_alone() -> None:
    caller = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    merged = merged_environment(caller, environment_changes(plan(**GPU), cores=8))
    assert "PYTORCH_ALLOC_CONF" not in merged


def test_the_plan_decides_the_device_and_other_launchers_nothing() -> None:
    caller = {"ACCELERATE_USE_CPU": "1", "DS_ACCELERATOR": "cuda", "PMI_SIZE": "2"}
    merged = merged_environment(caller, environment_changes(plan(), cores=2))
    assert merged.keys() & caller.keys() == {"DS_ACCELERATOR"}
    assert merged["DS_ACCELERATOR"] == "cpu"


def test_ranks_never_ask_the_hub() -> None:
    assert rank_environment(plan(), {})["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ({}, "0"),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, "3"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a"}, "MIG-a"),
    ],
)
def test_one_process_sees_one_card(visible: dict[str, str], seen: str) -> None:
    assert rank_environment(plan(**GPU), visible)["CUDA_VISIBLE_DEVICES"] == seen


def test_several_ranks_see_all_cards() -> None:
    two = plan(**GPU, parallel=parallel("ddp"), batch__global_batch_size=8)
    assert "CUDA_VISIBLE_DEVICES" not in rank_environment(two, {})


def test_ranks_that_cut_layers_on_the_cpu_see_no_card() -> None:
    cut = plan(parallel=parallel("tensor"), batch__global_batch_size=4)
    assert rank_environment(cut, {"CUDA_VISIBLE_DEVICES": "0"})["CUDA_VISIBLE_DEVICES"] == ""
