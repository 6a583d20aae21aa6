"""The search prices few candidates; its choice is that of pricing every one."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from msgspec import structs

from planner.choose import choose
from planner.memory import footprint
from planner.model import ModelSpec
from planner.overheads import device_memory
from planner.plan import METHODS, Method, ZeroStage
from planner.presets import ModelPreset, load_model
from planner.request import Prefer, Request, allowed_series, search_methods, workload
from planner.rules import Combination, broken_rule
from planner.step_time import NOMINAL, rates, step_time
from planner.strategy import Layout
from planner.units import GIB
from tests.planner.builders import cards

REQUESTS = 200
BUDGETS_EACH = 10
PREFERENCES: tuple[Prefer, ...] = ("tiers", "quality", "speed", "memory")


@dataclass(frozen=True)
class Priced:
    """One candidate, priced by the formulas themselves."""

    method: Method
    layout: Layout
    high_bytes: int
    peak_bytes: int
    time_s: float

    @property
    def rank(self) -> tuple[float, ...]:
        """Times less than 2 % apart, on one scale for all, are equal; then the simpler layout."""
        layout = self.layout
        return (
            math.floor(math.log(self.time_s, 1.02)),
            layout.zero_stage,
            ("none", "optimizer", "all").index(layout.offload),
            layout.activation_checkpointing,
            self.peak_bytes,
            layout.micro_batch_size,
            self.time_s,
        )


def small(name: str, num_layers: int) -> ModelPreset:
    """A model's own kinds of layers, few and narrow."""
    preset = load_model(name)
    changes = {"num_layers": num_layers, "vocab_size": 4096}
    return structs.replace(preset, spec=shrunk(preset.spec, **changes))


def shrunk(spec: ModelSpec, **changes: int) -> ModelSpec:
    return structs.replace(spec, **changes)


def every_candidate(request: Request) -> Iterator[Priced]:
    """Of all methods that are open; no bound, no order, nothing left out that a rule allows."""
    cluster = request.cluster
    pinned = request.zero_stage is not None or request.offload is not None
    for method in request.methods:
        work = workload(request, method)
        for layout in (x for series in allowed_series(request, work) for x in series.layouts()):
            combination = Combination.of(work, layout.strategy, layout.offload, cluster)
            if broken_rule(combination, pinned=pinned) is not None:
                continue
            taken = footprint(work, layout, cluster.device)
            memory = device_memory(taken, cluster, method)
            speed = rates(cluster) or NOMINAL
            yield Priced(
                method=method,
                layout=layout,
                high_bytes=memory.high_bytes,
                peak_bytes=memory.peak_allocated_bytes,
                time_s=round(step_time(work, layout, cluster, speed).total_s, 9),
            )


def random_request(source: random.Random) -> Request:
    ranks = source.choice([1, 1, 2, 4])
    model = source.choice(["llama-3.2-1b", "gemma-2-2b", "qwen2.5-0.5b", "chatglm3-6b-base"])
    stages: list[ZeroStage | None] = [None, None, 0, 1, 2, 3]
    return Request(
        model=small(model, source.choice([3, 4, 6])),
        cluster=cards(ranks, 80, speed=source.choice([None, "a100-sxm-80gb", "rtx-4090"])),
        prefer=source.choice(PREFERENCES),
        method=source.choice([None, None, *METHODS]),
        sequence_length=source.choice([64, 100, 256]),
        global_batch_size=ranks * source.choice([1, 4, 6, 12]),
        zero_stage=source.choice(stages) if ranks > 1 else None,
        activation_checkpointing=source.choice([None, None, None, True, False]),
        optimizer=source.choice([None, None, "adamw_8bit", "adafactor", "sgd"]),
        offload=source.choice([None, None, None, "optimizer", "all"]),
    )


def budgets(source: random.Random, every: list[Priced]) -> Iterator[int]:
    """Where something changes: just enough for one of the candidates, or a byte less."""
    for _ in range(BUDGETS_EACH):
        yield source.choice(every).high_bytes - source.choice([0, 0, 1])


def chosen_by_enumeration(request: Request, every: list[Priced]) -> Priced | None:
    fitting = [each for each in every if each.high_bytes <= request.budget_bytes]
    best = {
        method: min((x for x in fitting if x.method == method), key=lambda x: x.rank)
        for method in METHODS
        if any(x.method == method for x in fitting)
    }
    if not best:
        return None
    if request.prefer == "speed":
        return min(best.values(), key=lambda x: x.rank)
    if request.prefer == "memory" and len(request.methods) > 1:
        return min(fitting, key=lambda x: (x.peak_bytes, x.rank))
    return list(best.values())[-1]  # the richest: these machines reach every tier


@pytest.mark.parametrize("seed", range(REQUESTS // BUDGETS_EACH))
def test_the_choice_is_that_of_pricing_everything(seed: int) -> None:
    source = random.Random(seed)
    request = random_request(source)
    every = list(every_candidate(request))
    for budget in budgets(source, every) if every else ():
        limited = replace(request, memory_limit_bytes=budget)
        expected = chosen_by_enumeration(limited, every)
        results = search_methods(limited)
        assert any(result.fits for result in results.values()) == (expected is not None)
        if expected is None:
            continue
        found, _, _ = choose(limited, results)
        assert (found.method, found.rank) == (expected.method, expected.rank)
        assert found.memory.high_bytes <= budget <= 80 * GIB
