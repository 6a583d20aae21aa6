"""The load against transformers: a checkpoint of one matrix an expert, as a device would get it.

What is read is copied, as to a device. Threads that read ahead read all of it first, which is the
most that they can do.
"""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import convert, structs, to_builtins
from safetensors.torch import load_file
from torch.utils._python_dispatch import _disable_current_modes

from launcher.rehearsal.tracer import Tracer
from launcher.training.model_building import load_base
from planner.memory.expert_loading import loading_bytes, stacked_on_host
from planner.memory.footprint import footprint
from planner.models.model_spec import ModelSpec
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method
from planner.workload.dtypes import numerics
from planner.workload.layout import Layout
from planner.workload.quantization import quantized_bytes
from planner.workload.workload import Workload
from tests.launcher.plans import plan_content
from tests.oracle.small_models import SHAPES, build, workload_of

loading = pytest.importorskip("transformers.core_model_loading")
apply_conversions = pytest.importorskip(
    "transformers.integrations.deepspeed"
)._apply_weight_conversions_to_state_dict
get_model_conversion_mapping = pytest.importorskip(
    "transformers.conversion_mapping"
).get_model_conversion_mapping

SINGLE = Layout(
    strategy="single",
    world_size=1,
    micro_batch_size=1,
    gradient_accumulation_steps=1,
    activation_checkpointing=False,
)
OWN_DENSE_SIZE = ("qwen2_moe", "qwen3_moe", "deepseek_v2")
NAMES = ("mixtral", "qwen2-moe", "olmoe", "deepseek-v2")


class ReadAhead:
    """A pool whose threads are always done."""

    def __init__(self, max_workers: int) -> None:
        assert max_workers <= 4

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(job())
        return done

    def shutdown(self, **_how: bool) -> None:
        """Nothing runs."""


def larger(name: str) -> ModelSpec:
    """Experts that are most of the model, as they are in those that people train."""
    spec = SHAPES[name]
    assert spec.experts is not None
    sizes = {"intermediate_size": 512}
    if spec.experts.shared_intermediate_size:
        sizes["shared_intermediate_size"] = 512
    experts = structs.replace(spec.experts, **sizes)
    changes = {} if spec.model_type in OWN_DENSE_SIZE else {"intermediate_size": 512}
    return structs.replace(spec, experts=experts, **changes)


def plan_of(work: Workload) -> Plan:
    changes: dict[str, Any] = {
        "method": work.method,
        "model__model_type": work.model.model_type,
        "attention": "eager",
    }
    if work.method == "full":
        changes |= {"adapter": None, "precision__frozen": "fp32"}
    if work.method == "qlora":
        changes |= {"quantization": to_builtins(work.settings.quantization)}
    return convert(plan_content(**changes), Plan)


def traced_load(work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes at the largest moment of the launcher's own load."""
    build(work.model).to(torch.bfloat16).save_pretrained(tmp_path)
    tracer = Tracer()

    def copied(tensor: Any, device: Any = None, dtype: Any = None) -> torch.Tensor:
        with _disable_current_modes():
            mapped = tensor[...]
        tracer.made_on_host(mapped)
        alone: torch.Tensor = mapped.to(device=device, dtype=dtype, copy=True)
        return alone

    monkeypatch.setattr(loading, "_materialize_copy", copied)
    monkeypatch.setattr(loading, "ThreadPoolExecutor", ReadAhead)
    with tracer, tracer.phase("load"):
        load_base(plan_of(work), tmp_path, torch.device("cpu"))
    return sum(tracer.phases["load"].values())


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", NAMES)
def test_peak_of_the_load(
    name: str, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workload_of(larger(name), method, "bf16", 0.0, "all-linear")
    traced = traced_load(work, tmp_path, monkeypatch)
    parts = footprint(work, SINGLE, "cpu").phases["load"]
    kinds = numerics(method=method, compute="bf16", zero_stage=0)
    assert parts["workspace"] == loading_bytes(work, kinds) > 0
    predicted = parts["weights"] + parts["workspace"]
    if any(work.packed_experts(kind) for kind in work.model.kinds):
        predicted += parts["adapters"]  # they are made later, and taken off the workspace
    blocks = 4 * 512 * sum(count for _, count in work.counted_packed)  # of their small constants
    assert -0.01 * traced - blocks <= predicted - traced <= after_experts(work) + 0.002 * traced


def after_experts(work: Workload) -> int:
    """What comes last where nothing is read ahead, at most: attention and shared experts of the
    last layer."""
    quantization = work.settings.quantization
    if quantization is None:
        return 0
    last = work.model.packed_linears(work.model.layers[-1])
    return sum(quantized_bytes(matrix, quantization) for matrix in last)


def test_first_rank_stacks_on_the_host(tmp_path: Path) -> None:
    work = workload_of(larger("mixtral"), "lora", "bf16", 0.0, "all-linear")
    model = build(work.model).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    tracer = Tracer()
    for tensor in (*files.values(), *model.parameters(), *model.buffers()):
        tracer.made_on_host(tensor)
    with tracer, tracer.phase("load"):
        made = apply_conversions(model, files, get_model_conversion_mapping(model))
        for parameters in made:
            del parameters
    kinds = numerics(method="lora", compute="bf16", zero_stage=3)
    assert sum(tracer.phases["load"].values()) == stacked_on_host(work, kinds)
