"""Truths that do not share our assumptions: a real step on the CPU as PyTorch's own profiler sees
it, and a trace that is written against transformers alone (tests/oracle/independent_trace.py)."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from torch.profiler import ProfilerActivity, profile

from planner.memory.footprint import Footprint, footprint_of
from planner.models.config_json import config_from_spec
from planner.models.model_spec import ModelSpec
from planner.models.module_names import ONLY_ATTENTION
from planner.plan.vocabulary import Phase, Precision
from planner.workload.dtypes import BYTES, numerics
from planner.workload.layout import Layout
from planner.workload.workload import Batch, Workload
from tests.oracle.independent_trace import traced_step
from tests.oracle.small_models import DTYPES, SHAPES, build, transformers, workload_of

SAMPLES, TOKENS = 2, 192
WIDER = {
    "num_layers": 3,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "vocab_size": 6000,
    "num_attention_heads": 8,
    "head_dim": 32,
}
NAMES = ("llama", "qwen3", "gpt2", "gemma", "bloom", "phi")
TIED = {"llama-tied": structs.replace(SHAPES["llama"], tied_embeddings=True)}
MODELS = {
    name: structs.replace(
        spec, **WIDER, num_key_value_heads=2 if spec.num_key_value_heads == 2 else 8
    )
    for name, spec in {**{name: SHAPES[name] for name in NAMES}, **TIED}.items()
}
KINDS: list[tuple[Precision, bool]] = [("fp32", False), ("bf16", True)]
"""Precisions without autocast: fp32, and pure bf16."""
NEAR = 0.003
"""Largest difference, relative. Blocks of small tensors are rounded in the prediction alone."""


def predicted(
    spec: ModelSpec, precision: Precision, *, pure: bool, recomputes: bool = False, masked: bool
) -> Footprint:
    work = workload_of(spec, "full", precision, 0.0, "all-linear")
    optimizer = structs.replace(work.settings.optimizer, name="adamw_torch")
    settings = structs.replace(work.settings, loss="standard", optimizer=optimizer)
    work = Workload(model=spec, settings=settings, compute=precision, pure=pure)
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=SAMPLES,
        gradient_accumulation_steps=1,
        activation_checkpointing=recomputes,
    )
    batch = Batch(micro_batch_size=SAMPLES, sequence_length=TOKENS, masked=masked, device="cpu")
    kinds = numerics(method="full", compute=precision, zero_stage=0, pure=pure)
    return footprint_of(work, layout, batch, kinds)


def profiled_peak(spec: ModelSpec, precision: Precision, folder: Path) -> int:
    """Return the most bytes of a second step, by the profiler's record of every allocation."""
    model: Any = build(spec).to(DTYPES[precision]).train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = torch.randint(spec.vocab_size, (SAMPLES, TOKENS))

    def step(ids: torch.Tensor) -> None:
        model(input_ids=ids, labels=ids.clone(), use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(ids)
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *states))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(ids.clone())
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    most: int = max(accumulate(event["args"]["Bytes"] for event in changes))
    return int(held) + most


@pytest.mark.parametrize(("precision", "pure"), KINDS)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_a_real_step_takes_what_is_predicted(
    name: str, precision: Precision, pure: bool, tmp_path: Path
) -> None:
    spec = MODELS[name]
    found = predicted(spec, precision, pure=pure, masked=False).peak_allocated_bytes
    assert found == pytest.approx(profiled_peak(spec, precision, tmp_path), rel=NEAR)


def traced_cases() -> Iterator[object]:
    """Yield every model in both precisions, with and without recomputation; half of them now."""
    for name, (precision, pure), recomputes in product(MODELS, KINDS, (False, True)):
        marks = () if recomputes == pure else pytest.mark.long
        yield pytest.param(name, recomputes, precision, pure, marks=marks)


@pytest.mark.parametrize(("name", "recomputes", "precision", "pure"), list(traced_cases()))
def test_every_phase_takes_what_an_independent_trace_counts(
    name: str, recomputes: bool, precision: Precision, pure: bool
) -> None:
    spec = MODELS[name]
    kernel = ONLY_ATTENTION.get(spec.model_type, "sdpa")
    settings = {**config_from_spec(spec), "attn_implementation": kernel}
    traced = traced_step(
        transformers.AutoConfig.for_model(**settings),
        partial(torch.optim.AdamW, foreach=False),
        dtype=DTYPES[precision],
        samples=SAMPLES,
        tokens=TOKENS,
        recomputes=recomputes,
    )
    found = predicted(spec, precision, pure=pure, recomputes=recomputes, masked=True)
    # The engine adds a tied table's second gradient to the first in place, but not while a dispatch
    # mode is active (aten/src/ATen/TensorSubclassLikeUtils.h): then a third one is there.
    sum_bytes = spec.embedding_params * BYTES[precision] if spec.tied_embeddings else 0
    phases: tuple[Phase, ...] = ("forward", "backward", "optimizer_step")
    for phase in phases:
        num_bytes = traced[phase]
        further = sum_bytes if phase == "backward" else 0
        least = found.total_bytes(phase)
        assert least * (1 - NEAR) < num_bytes < (least + further) * (1 + NEAR), phase
