"""The closed form against a traced step of the launcher, over grids of real widths and lengths.

python -m benchmarks.traced_grid [--grid device|ranks] [--write] [--points N]

``device`` is all methods on one device; ``ranks`` is one of several ranks under DDP and ZeRO,
without what ranks share (launcher/rehearsal/rehearse.py, NOT_TRACED), which
tests/oracle/test_zero.py and test_ddp.py compare with DeepSpeed and PyTorch themselves. Either has
a result file of its own.

Models have their real widths and four of their layers, since all further ones are alike; they have
more only if a kind of layer comes later, as in Gemma 3.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from benchmarks.errors import error_statistics, relative_error
from benchmarks.measure.environment import host_environment
from launcher.rehearsal.rehearse import compare, quiet_libraries
from launcher.rehearsal.table import peak_without_cublas
from planner.base.units import GIB
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import Accelerator, Cluster
from planner.models.model_presets import load_model
from planner.plan.schema import Plan
from planner.plan.vocabulary import METHODS, ZERO_STAGE, Loss, Method, Strategy
from planner.recipes.load_recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "deepspeed")
GRIDS = {"device": 330, "ranks": 64}
"""Number of points that are drawn of each grid."""
NUM_LAYERS = 4
MODELS = (
    "bloom-560m",
    "chatglm3-6b-base",
    "deepseek-v2-lite",
    "falcon-7b",
    "gemma-2-2b",
    "gemma-2b",
    "gemma-3-1b-it",
    "glm-4-9b-0414",
    "gpt-oss-20b",
    "gpt2-medium",
    "granite-3.1-2b-instruct",
    "llama-2-7b",
    "llama-3.1-8b",
    "llama-3.2-1b",
    "mistral-7b",
    "mixtral-8x7b",
    "olmo-2-7b",
    "olmoe-1b-7b",
    "phi-2",
    "phi-3-mini-4k-instruct",
    "phi-4",
    "pythia-1.4b",
    "qwen1.5-moe-a2.7b",
    "qwen2.5-0.5b",
    "qwen2.5-7b",
    "qwen3-0.6b",
    "qwen3-30b-a3b",
    "qwen3-8b",
    "smollm2-135m",
    "smollm3-3b",
    "stablelm-3b",
    "starcoder2-3b",
    "yi-6b",
)
REFUSED = (("falcon-7b", "qlora"), ("gpt-oss-20b", "qlora"))
"""Combinations that presets/rules.yaml refuses, so that there is no plan to trace."""
RANKS_MODELS = ("gemma-2-2b", "llama-3.1-8b", "qwen2.5-0.5b", "qwen3-30b-a3b")
RANKS_METHODS: tuple[tuple[Strategy, Method], ...] = (
    ("ddp", "full"),
    ("ddp", "lora"),
    ("zero1", "full"),
    ("zero2", "full"),
    ("zero2", "qlora"),
    ("zero3", "full"),
    ("zero3", "lora"),
)
WORLD_SIZES = (2, 4)
MICRO_BATCHES = (1, 2, 4, 8)
LENGTHS = (512, 1024, 2048, 4096, 8192)
LOSSES: tuple[Loss, ...] = ("fused", "standard")
SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    model: str
    method: Method
    checkpointing: bool
    micro_batch_size: int
    sequence_length: int
    loss: Loss
    strategy: Strategy = "single"
    world_size: int = 1


def points(grid: str, count: int) -> list[Point]:
    """Return an even draw from the whole grid, the same each time."""
    every = _on_one_device() if grid == "device" else _on_ranks()
    return random.Random(SEED).sample(every, min(count, len(every)))


def _on_one_device() -> list[Point]:
    ways: list[tuple[Strategy, Method]] = [("single", method) for method in METHODS]
    return _grid(MODELS, ways, MICRO_BATCHES, LENGTHS, world_sizes=(1,))


def _on_ranks() -> list[Point]:
    return _grid(RANKS_MODELS, RANKS_METHODS, MICRO_BATCHES[:3], LENGTHS[:3], WORLD_SIZES)


def _grid(
    models: Sequence[str],
    ways: Sequence[tuple[Strategy, Method]],
    micro_batches: Sequence[int],
    lengths: Sequence[int],
    world_sizes: Sequence[int],
) -> list[Point]:
    """Yield all points, in the order of the draw."""
    return [
        Point(
            model=model,
            method=method,
            checkpointing=checkpointing,
            micro_batch_size=samples,
            sequence_length=length,
            loss=loss,
            strategy=strategy,
            world_size=ranks,
        )
        for model, (strategy, method), checkpointing, samples, length, loss, ranks in product(
            models, ways, (False, True), micro_batches, lengths, LOSSES, world_sizes
        )
        if length <= load_model(model).spec.max_position_embeddings
        and (model, method) not in REFUSED
    ]


def plan_for(point: Point) -> Plan:
    """Return a plan for cards that are large enough for anything."""
    preset = load_model(point.model)
    num_layers = max(NUM_LAYERS, preset.spec.full_attention_every or 0)
    spec = structs.replace(preset.spec, num_layers=num_layers)
    recipe = load_recipe(point.method)
    recipe = structs.replace(recipe, loss=point.loss)
    request = Request(
        model=structs.replace(preset, spec=spec),
        cluster=_large_cards(point.world_size),
        recipe=recipe,
        sequence_length=point.sequence_length,
        global_batch_size=point.micro_batch_size * point.world_size,
        micro_batch_size=point.micro_batch_size,
        activation_checkpointing=point.checkpointing,
        zero_stage=ZERO_STAGE[point.strategy],
    )
    return plan_of(decide(request))


def _large_cards(count: int) -> Cluster:
    size = 9000 * GIB
    card = Accelerator(
        label="9000G",
        device_name="a card without limits",
        nominal_gib=9000,
        capacity_bytes=size,
        in_use_bytes=0,
        context_bytes=0,
        speed=load_gpu("h100-sxm-80gb"),
    )
    return Cluster(device="cuda", accelerator=card, gpus_per_node=count, link="none")


def measure(chosen: list[Point]) -> Iterator[dict[str, Any]]:
    """Return predicted and traced peaks of each point."""
    for point in chosen:
        with quiet_libraries():
            plan = plan_for(point)
            found = compare(plan)
        predicted = peak_without_cublas(plan, found.predicted.phases)
        traced = found.observed.peak_allocated_bytes
        yield {
            **{name: getattr(point, name) for name in point.__slots__},
            "predicted_bytes": predicted,
            "traced_bytes": traced,
            "error": round(relative_error(predicted=predicted, measured=traced), 6),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    parser.add_argument("--grid", choices=GRIDS, default="device")
    parser.add_argument("--points", type=int, help="how many are drawn; 330, or 64 of ranks")
    options = parser.parse_args()
    rows = []
    for row in measure(points(options.grid, options.points or GRIDS[options.grid])):
        rows.append(row)
        print(*row.values(), flush=True)
    found = error_statistics([row["error"] for row in rows])
    print(f"median {found.median:.3%}, 95th {found.percentile_95:.3%}, worst {found.worst:+.3%}")
    document = {
        "run": {
            "benchmark": "traced_grid",
            "grid": options.grid,
            "num_layers": NUM_LAYERS,
            "seed": SEED,
        },
        "measured": {
            "points": len(rows),
            "median": found.median,
            "percentile_95": found.percentile_95,
            "worst": found.worst,
            "rows": rows,
        },
        "environment": host_environment(PACKAGES) | {"threads": torch.get_num_threads()},
    }
    if options.write:
        part = "" if options.grid == "device" else f"-{options.grid}"
        file = RESULTS / f"traced-grid{part}--{time.strftime('%Y-%m-%d')}.json"
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
