"""Plans of SmolLM2-135M: one process, or the same global batch over two nodes."""

import json
import os
import sys
from pathlib import Path

from msgspec import structs

from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import one_device, plan_row
from launcher.base_model.find_checkpoint import local_checkpoint
from planner.plan.schema import Plan
from planner.plan.vocabulary import Strategy
from planner.search.repredict import layout_of, workload_of
from planner.workload.layout import Layout
from planner.workload.plan_sections import batch_section, parallel_section, precision_section

MODEL = "smollm2-135m"
LENGTH = 128
MICRO_BATCH = 2
RANKS = 2
SAMPLES = 64
ANSWER = "A lighthouse keeper counts the ships that pass by night and writes them into book {n}. "


def plan_of_one(*, steps: int) -> Plan:
    """Return a plan of full fine-tuning in one process that accumulates as often as there will be
    ranks."""
    row = Row(
        model=MODEL,
        num_layers=None,
        method="full",
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=RANKS,
        sequence_length=LENGTH,
        activation_checkpointing=False,
        loss="standard",
        attention="sdpa",
        optimizer="adamw_torch_fused",
        strategy="single",
        offload="none",
    )
    plan = plan_row(row, one_device("cpu", os.environ, listing=False)).plan
    folder = local_checkpoint(plan.model, sys.stderr).folder
    training = {"epochs": None, "max_steps": steps, "save_steps": 2, "keep_checkpoints": 1}
    return structs.replace(
        plan,
        model=structs.replace(plan.model, source=str(folder)),
        data=structs.replace(plan.data, source="data.jsonl"),
        training=structs.replace(plan.training, **training),
        output=structs.replace(plan.output, directory="run"),
        fallbacks=(),
    )


def under(
    plan: Plan, strategy: Strategy, *, nodes: int = RANKS, network: str | None = None
) -> Plan:
    """Return the plan with the same global batch and one rank on each of ``num_nodes`` nodes."""
    workload, layout = workload_of(plan), layout_of(plan)
    spread = Layout(
        strategy=strategy,
        world_size=nodes,
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=RANKS // nodes,
        activation_checkpointing=layout.activation_checkpointing,
        checkpoint_every=layout.checkpoint_every,
        offload="none",
    )
    return structs.replace(
        plan,
        batch=batch_section(workload, spread),
        parallel=parallel_section(workload, spread, num_nodes=nodes),
        precision=precision_section(workload, spread),
        hardware=structs.replace(plan.hardware, network=network),
    )


def write_data(path: Path) -> None:
    """Write conversations longer than the sequence length, so that every sample fills it."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(SAMPLES):
            messages = [
                {"role": "user", "content": f"What does keeper {number} do?"},
                {"role": "assistant", "content": ANSWER.format(n=number) * 16},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
