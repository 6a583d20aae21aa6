"""Caches: bounded, and keyed by exactly what a computation reads."""

import pkgutil
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from importlib import import_module
from inspect import signature
from typing import Any

import pytest
from msgspec import structs

import planner
from planner.base.bounded_cache import MOST_KEPT
from planner.hardware.cards import load_gpu, named_cluster
from planner.memory.between_steps import evaluation_parts
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.schema import AdapterSection
from planner.plan.vocabulary import METHODS, Offload, Strategy
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate
from planner.search.memory_bound import most_saved_bytes
from planner.search.time_bound import most_saved_s
from planner.workload.layout import Layout
from planner.workload.parameters import parameters
from planner.workload.settings import settings_of
from planner.workload.settings_cache import CachedBySettings, with_only
from planner.workload.workload import Workload
from tests.oracle.small_models import SHAPES

UNBOUNDED = {
    "_accuracy",
    "_preset",
    "_settings_type",
    "aliases",
    "attribute_docstrings",
    "load_gpu",
    "translations",
}
"""Functions of the name of a preset, a method or a language, and of a declaration in the source."""

SMALL = structs.replace(load_model("qwen2.5-0.5b").spec, num_layers=2, vocab_size=1024)


def caches() -> Iterator[tuple[str, Any]]:
    """Every cache of the planner by the name of its function."""
    for module in pkgutil.walk_packages(planner.__path__, "planner."):
        if module.name.endswith("__main__"):
            continue
        members = vars(import_module(module.name))
        for value in members.values():
            is_cache = isinstance(value, _lru_cache_wrapper | CachedBySettings)
            if is_cache and value.__module__ == module.name:
                yield value.__name__, value


def small_workload(method: str, *, model: ModelSpec = SMALL, **changes: object) -> Workload:
    settings = settings_of(load_recipe(method))
    workload = Workload(model=model, settings=settings, compute="bf16")
    return workload.with_settings(sequence_length=64, **changes)


def candidate(
    workload: Workload,
    strategy: Strategy = "single",
    *,
    micro_batch_size: int = 1,
    offload: Offload = "none",
) -> Candidate:
    ranks = 1 if strategy == "single" else 2
    layout = Layout(
        strategy=strategy,
        world_size=ranks,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=2,
        activation_checkpointing=True,
        offload=offload,
    )
    cluster = named_cluster(load_gpu("rtx-4090"), ranks)
    return Candidate(workload=workload, layout=layout, cluster=cluster)


def test_only_what_ships_is_kept_without_a_bound() -> None:
    bounded = {name: cache.cache_info().maxsize for name, cache in caches() if takes_values(cache)}
    assert {name for name, most in bounded.items() if most is None} == UNBOUNDED
    assert set(bounded.values()) == {MOST_KEPT, None}


def takes_values(cache: Any) -> bool:
    """Whether it has more than one result."""
    return bool(signature(cache).parameters)


def test_a_process_that_plans_for_days_does_not_grow() -> None:
    """Of 200 requests the first are forgotten, and priced the same when they come again."""
    first = peaks_of_request(1)
    for number in range(2, 201):
        peaks_of_request(number)
    sizes = [cache.cache_info().currsize for name, cache in caches() if name not in UNBOUNDED]
    assert max(sizes) == MOST_KEPT
    assert peaks_of_request(1) == first


def peaks_of_request(number: int) -> list[int]:
    """Two candidates of one request; no two requests share an adapter or a length."""
    adapter = settings_of(load_recipe("lora")).adapter
    assert isinstance(adapter, AdapterSection)
    work = small_workload("lora", adapter=structs.replace(adapter, rank=number))
    work = work.with_settings(sequence_length=64 + number)
    return [candidate(work, micro_batch_size=size).memory.peak_allocated_bytes for size in (1, 2)]


class Recorder:
    """Settings that note which of them are read."""

    def __init__(self, settings: object) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self._settings, name)


def price_everything() -> None:
    """Ask of each kind of layout all that a search and a report ask."""
    layouts: tuple[tuple[Strategy, Offload], ...] = (
        *(("single", "none"), ("ddp", "none"), ("zero1", "none"), ("zero2", "optimizer")),
        *(("zero3", "none"), ("zero3", "all"), ("fsdp", "none")),
    )
    for method in METHODS:
        workload = small_workload(method)
        other_loss = workload.with_settings(loss="standard")
        for strategy, offload in layouts:
            priced = candidate(workload, strategy, offload=offload)
            _prices = priced.rank, priced.throughput, priced.host, priced.floor_bytes
            _bounds = most_saved_bytes(other_loss, priced), most_saved_s(priced)
            evaluation_parts(workload, priced.layout, "cuda", priced.footprint)
        _of_more_samples = candidate(workload, micro_batch_size=2).throughput
    _reserved = candidate(small_workload("qlora")).expected.reserved_bytes
    outside = small_workload("qlora", model=SHAPES["gemma4-small"])
    _bound_outside = most_saved_bytes(outside.with_settings(loss="standard"), candidate(outside))


def test_computations_read_what_they_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is declared and not read would keep equal results apart."""
    calls: list[tuple[CachedBySettings[..., Any], Workload, tuple[Any, ...], dict[str, Any]]] = []
    plain = CachedBySettings.__call__

    def noted(self: Any, workload: Workload, *args: Any, **kwargs: Any) -> Any:
        calls.append((self, workload, args, kwargs))
        return plain(self, workload, *args, **kwargs)

    for _, cache in caches():
        cache.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(CachedBySettings, "__call__", noted)
        price_everything()
    read: dict[str, set[str]] = {}
    for function, workload, args, kwargs in calls:
        recorder = Recorder(workload.settings)
        function.function(structs.replace(workload, settings=recorder), *args, **kwargs)
        read.setdefault(function.__name__, set()).update(recorder.read)
    declared = {name: set(x.reads) for name, x in caches() if isinstance(x, CachedBySettings)}
    assert read == declared


def test_what_is_not_declared_cannot_be_read() -> None:
    workload = with_only(small_workload("lora"), ("method", "adapter"))
    assert workload.method == "lora"
    with pytest.raises(AttributeError, match="loss"):
        _ = workload.loss
    with pytest.raises(AttributeError, match="quantization"):
        parameters(workload)
