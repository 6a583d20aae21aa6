"""Faults that only CUDA has, in real runs: one line says the cause and the remedy."""

from pathlib import Path
from typing import Any

import pytest

from tests.launcher.plans import TWO_RANKS, full, parallel
from tests.simulated.launched import launch_on, write_cuda_plan, write_tiny

WHOLE_BATCH = {
    "micro_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "global_batch_size": 16,
    "sequence_length": 128,
}
"""A step of one micro-batch, which fallbacks halve."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and samples, for one run after another."""
    made = tmp_path_factory.mktemp("faults")
    write_tiny(made)
    return made


def fallback(micro: int) -> dict[str, Any]:
    return {
        "micro_batch_size": micro,
        "gradient_accumulation_steps": 16 // micro,
        "activation_checkpointing": False,
        "strategy": "single",
        "peak_allocated_bytes": micro * 2**20,
    }


def test_memory_runs_out_in_every_stage(tmp_path: Path) -> None:
    """PyTorch's own allocator fails, and the next layout goes on from the last checkpoint.

    Gradients and states are larger than what the allocator still has from an earlier stage.
    """
    num_params = write_tiny(tmp_path, hidden_size=1024, intermediate_size=4096)
    write_cuda_plan(
        tmp_path,
        "rtx-4090",
        **full(
            model__num_params=num_params,
            model__trainable_params=num_params,
            batch=WHOLE_BATCH,
            training={"max_steps": 1},
            fallbacks=[fallback(size) for size in (8, 4, 2, 1)],
        ),
    )
    faults = "full@load:0+8 full@forward:1+4 full@backward:1+2 full@optimizer_step:1+1"
    done = launch_on("rtx-4090", tmp_path, "plan.yaml", fault=faults)
    assert done.code == 0, done.errors
    ended = [line for line in done.errors.splitlines() if line.startswith("out of memory")]
    assert [line.partition(":")[0] for line in ended] == [
        "out of memory on rank 0, load",
        "out of memory on rank 0, forward of step 1",
        "out of memory on rank 0, backward of step 1",
        "out of memory on rank 0, optimizer step of step 1",
    ]
    assert all(line.endswith("same global batch") for line in ended)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            "ecc@backward:2",
            "error: the GPU of rank 0 failed (backward of step 2; CUDA error: uncorrectable ECC "
            "error encountered): its memory is faulty: nvidia-smi -q -d ECC,ROW_REMAPPER counts "
            "it; reset the GPU (nvidia-smi --gpu-reset) or leave it out with CUDA_VISIBLE_DEVICES; "
            "step 1 is saved: --resume continues",
        ),
        (
            "xid@forward:2",
            "error: the GPU of rank 0 failed (forward of step 2; CUDA error: unknown error): dmesg "
            "names it (NVRM: Xid; 79 is a GPU that has fallen off the bus: check its power and its "
            "seat); reset the GPU or reboot; step 1 is saved: --resume continues",
        ),
    ],
    ids=["ecc", "xid"],
)
def test_a_lost_card_is_named_with_what_to_do(folder: Path, fault: str, line: str) -> None:
    write_cuda_plan(
        folder,
        "rtx-4090",
        training={"max_steps": 3, "save_steps": 1},
        output__directory=fault.partition("@")[0],
    )
    done = launch_on("rtx-4090", folder, "plan.yaml", fault=fault)
    assert done.code == 1
    assert [said for said in done.errors.splitlines() if said.startswith("error:")] == [line]


def test_memory_that_nccl_lacks_is_memory(folder: Path) -> None:
    """A fallback follows, as where PyTorch's allocator fails."""
    write_cuda_plan(
        folder,
        "rtx-4090",
        parallel=parallel("ddp"),
        batch={**WHOLE_BATCH, "micro_batch_size": 8},
        training={"max_steps": 1},
        fallbacks=[{**fallback(4), "gradient_accumulation_steps": 2, "strategy": "ddp"}],
        output__directory="nccl",
    )
    done = launch_on("rtx-4090:2", folder, "plan.yaml", fault="ncclmemory@backward:1/1+4")
    assert done.code == 0, done.errors
    assert "out of memory on rank 1, backward of step 1: resuming from the beginning" in done.errors


def test_a_collective_that_does_not_return_is_a_hang(folder: Path) -> None:
    write_cuda_plan(
        folder,
        "rtx-4090",
        parallel=parallel("ddp"),
        training={"max_steps": 2, "hang_limit_s": 60},
        output__directory="hang",
        **TWO_RANKS,
    )
    done = launch_on("rtx-4090:2", folder, "plan.yaml", fault="ncclhang@backward:1/1")
    assert done.code == 1
    assert "error: no progress for 60 s:" in done.errors
