"""What peft's comparison of methods published of adapters: how much trains, and what one method
holds beside another after a step of the same batches.

read: huggingface/peft, method_comparison/MetaMathQA/run.py at b8bf407: the mean of
memory_allocated() after each optimizer step, where weights, adapters, gradients, moments and the
step's output are there. Lengths vary, so that no reading can be predicted by itself; runs of one
stack have the same batches, as their tokens per second times their seconds say, so that the output
drops out of their difference. Weights are bf16, adapters fp32, and nothing is under autocast.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from planner.base.units import GIB, MIB
from planner.memory.model_states import frozen_bytes, model_states
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import AdapterSection
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import Numerics
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Workload

FILE = Path(__file__).parent.parent / "published" / "adapters.csv"
MODEL = "llama-3.2-3b"
REFERENCE = "lora--llama-3.2-3B-rank32"
"""Run that the others of its stack are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRun:
    run: str
    torch: str
    published_trainable: int
    published_bytes: float
    trainable: int
    states_bytes: int
    """Bytes of weights, adapters, gradients and moments as predicted."""


def adapter_runs() -> list[AdapterRun]:
    """Return the published runs whose methods can be planned."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return [_run(line) for line in csv.DictReader(file)]


def _run(line: Mapping[str, str]) -> AdapterRun:
    workload = _workload(line)
    return AdapterRun(
        run=line["run"],
        torch=line["torch"],
        published_trainable=int(line["trainable"]),
        published_bytes=float(line["allocated_gib"]) * GIB,
        trainable=workload.trainable_params,
        states_bytes=_states_bytes(workload),
    )


def _workload(line: Mapping[str, str]) -> Workload:
    is_full = line["method"] == "full"
    own = settings_of(load_recipe("full" if is_full else "lora"))
    settings = structs.replace(
        own,
        adapter=None if is_full else _adapter(line),
        optimizer=structs.replace(own.optimizer, name="adamw_torch"),
    )
    return Workload(model=load_model(MODEL).spec, settings=settings, compute="bf16", pure=is_full)


def _adapter(line: Mapping[str, str]) -> AdapterSection:
    rank, kind = int(line["rank"]), line["method"]
    return AdapterSection(
        rank=rank,
        alpha=rank,
        dropout=0.0,
        target_modules=tuple(line["target_modules"].split(",")),
        rslora=kind == "rslora",
        dora=kind == "dora",
        vera=kind == "vera",
    )


def _states_bytes(workload: Workload) -> int:
    width = 2 if workload.method == "full" else 4
    numerics = Numerics(
        compute=2,
        frozen=2,
        outside=2,
        trainable=width,
        gradient=width,
        master=0,
        residual=2,
        autocast=False,
    )
    return model_states(
        frozen_bytes=frozen_bytes(workload, numerics),
        tensors=counted_tensors(workload),
        optimizer=optimizers()[workload.settings.optimizer.name],
        numerics=numerics,
        zero_stage=0,
        data_parallel_size=1,
        device="cuda",
    ).total_bytes


def differences(runs: Sequence[AdapterRun]) -> list[tuple[AdapterRun, float, int]]:
    """Return each run with the bytes that it holds beside the reference of its stack, published and
    predicted."""
    stacks: dict[str, list[AdapterRun]] = defaultdict(list)
    for run in runs:
        stacks[run.torch].append(run)
    found = []
    for stack in stacks.values():
        reference = next((run for run in stack if run.run == REFERENCE), None)
        if reference is None:
            continue
        found += [
            (
                run,
                run.published_bytes - reference.published_bytes,
                run.states_bytes - reference.states_bytes,
            )
            for run in stack
            if run is not reference
        ]
    return found


def adapter_lines() -> list[str]:
    """Return the table of the documentation."""
    runs = adapter_runs()
    equal = sum(run.trainable == run.published_trainable for run in runs)
    lines = [
        f"Adapters in peft's comparison of methods (Llama 3.2 3B): {equal} of {len(runs)} "
        "published counts of trained parameters are equal to ours. What a method holds beside LoRA "
        "of rank 32 after a step of the same batches:",
        "",
        "| run | torch | trained | published, GiB | predicted, GiB | off, MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    return [
        *lines,
        *(
            f"| {run.run} | {run.torch} | {run.trainable:,} | {published / GIB:+.4f} "
            f"| {predicted / GIB:+.4f} | {(predicted - published) / MIB:+.1f} |"
            for run, published, predicted in differences(runs)
        ),
    ]
