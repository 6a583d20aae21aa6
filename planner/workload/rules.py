"""Combinations that are refused or discouraged, read from presets/rules.yaml."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

from msgspec import Struct, structs

from planner.base.bounded_cache import bounded_cache
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.hardware.cluster import Cluster, Device
from planner.models.model_spec import ModelSpec
from planner.plan.optimizer_presets import OptimizerLibrary, optimizers
from planner.plan.vocabulary import (
    SHARES_SAMPLES,
    AttentionName,
    Method,
    Offload,
    Precision,
    Strategy,
)
from planner.workload.workload import Workload

QuantType = Literal["nf4", "int8"]


class When(Spec):
    """What a rule is about; a list that is left out allows everything."""

    method: list[Method] | None = None
    strategy: list[Strategy] | None = None
    offload: list[Offload] | None = None
    optimizer: list[str] | None = None
    optimizer_library: list[OptimizerLibrary] | None = None
    optimizer_other_than: tuple[str, ...] = ()
    device: list[Device] | None = None
    model_type: list[str] | None = None
    quant_type: list[QuantType] | None = None
    attention: list[AttentionName] | None = None
    compute: list[Precision] | None = None
    capability_below: float | None = None
    """Bound on the card's compute capability; the rule applies only where that is known."""
    capability_from: float | None = None
    """Bound on the card's compute capability; the rule applies where that is unknown, too."""
    packing: list[bool] | None = None
    pure: list[bool] | None = None
    adapts_experts: list[bool] | None = None
    shares_sequences: list[bool] | None = None
    tiled_mlp: list[bool] | None = None
    changes_base: list[bool] | None = None
    trains_vectors: list[bool] | None = None
    model_type_other_than: tuple[str, ...] = ()
    several_nodes: list[bool] | None = None
    dora: list[bool] | None = None
    even_parts: list[bool] | None = None

    def applies(self, combination: "Combination") -> bool:
        """Return whether the rule is about this combination."""
        if self.strategy is not None and combination.strategy not in self.strategy:
            return False  # as for most rules, of which a plan asks a thousand times
        pairs = (
            (self.method, combination.method),
            (self.offload, combination.offload),
            (self.optimizer, combination.optimizer),
            (self.optimizer_library, optimizers()[combination.optimizer].library),
            (self.device, combination.device),
            (self.model_type, combination.model_type),
            (self.quant_type, combination.quant_type),
            (self.attention, combination.attention),
            (self.compute, combination.compute),
            (self.packing, combination.packing),
            (self.pure, combination.pure),
            (self.adapts_experts, combination.adapts_experts),
            (self.shares_sequences, combination.shares_sequences),
            (self.tiled_mlp, combination.tiled_mlp),
            (self.changes_base, combination.changes_base),
            (self.trains_vectors, combination.trains_vectors),
            (self.several_nodes, combination.several_nodes),
            (self.dora, combination.dora),
            (self.even_parts, combination.even_parts),
        )
        for allowed, found in pairs:
            if allowed is not None and found not in allowed:
                return False
        excepted = (
            combination.optimizer in self.optimizer_other_than
            or combination.model_type in self.model_type_other_than
        )
        return not excepted and self._of_such_a_card(combination.compute_capability)

    def _of_such_a_card(self, capability: str | None) -> bool:
        if capability is None:
            return self.capability_below is None
        found = float(capability)
        below = self.capability_below is None or found < self.capability_below
        return below and (self.capability_from is None or found >= self.capability_from)


class Combination(Struct, frozen=True):
    """The properties of a candidate that rules are about."""

    method: Method
    strategy: Strategy
    offload: Offload
    optimizer: str
    device: Device
    model_type: str
    quant_type: QuantType | None
    attention: AttentionName
    compute: Precision
    packing: bool
    pure: bool
    adapts_experts: bool
    """Whether routed experts carry adapters."""
    changes_base: bool
    """Whether adapters begin as a part of the base's weights."""
    trains_vectors: bool
    """Whether the adapters' matrices are frozen."""
    several_nodes: bool
    dora: bool
    even_parts: bool
    """Whether each device has an equal part of a layer, where layers are cut."""
    shares_sequences: bool
    """Whether several ranks share one sequence."""
    tiled_mlp: bool
    """Whether MLPs run tile by tile."""
    compute_capability: str | None

    @classmethod
    def of(
        cls,
        workload: Workload,
        strategy: Strategy,
        offload: Offload,
        cluster: Cluster,
        *,
        attention: AttentionName | None = None,
        shares_sequences: bool = False,
    ) -> "Combination":
        """Return the workload's combination, with its own attention or with another."""
        quantization, adapter = workload.settings.quantization, workload.settings.adapter
        return cls(
            method=workload.method,
            strategy=strategy,
            offload=offload,
            optimizer=workload.settings.optimizer.name,
            device=cluster.device,
            model_type=workload.model.model_type,
            quant_type=None if quantization is None else quantization.quant_type,
            attention=attention or workload.attention,
            compute=workload.compute,
            packing=workload.packing,
            pure=workload.pure,
            adapts_experts=adapter is not None and bool(adapter.target_parameters),
            changes_base=adapter is not None and adapter.changes_base,
            trains_vectors=workload.trains_vectors,
            several_nodes=cluster.num_nodes > 1,
            dora=adapter is not None and adapter.dora,
            even_parts=has_even_parts(strategy, workload.model, cluster.world_size),
            compute_capability=cluster.accelerator.compute_capability,
            shares_sequences=shares_sequences,
            tiled_mlp=workload.settings.tiled_mlp,
        )


def has_even_parts(strategy: Strategy, shape: ModelSpec | Mapping[str, object], ranks: int) -> bool:
    """Return whether each rank has as much of a layer as the others, where layers are cut; True
    where the shape, or a plan's ``config.json``, does not say."""
    if strategy not in SHARES_SAMPLES:
        return True
    from planner.workload.tensor_slice import is_even  # only layers that are cut need it

    return is_even(shape if isinstance(shape, Mapping) else structs.asdict(shape), ranks)


class Rule(Spec):
    """One entry of presets/rules.yaml, whose head says what the fields mean."""

    name: str
    verdict: Literal["refused", "discouraged"]
    when: When
    reason: str
    source: str

    def is_advice_on(self, pinned: "frozenset[Pinned]") -> bool:
        """Return whether the rule only discourages, and is about something that was pinned."""
        return self.verdict == "discouraged" and any(
            getattr(self.when, each) is not None for each in pinned
        )


class RuleBook(Spec):
    """The content of presets/rules.yaml."""

    rules: list[Rule]


Pinned = Literal["strategy", "attention"]
"""What a user may have named; advice against it yields."""


@cache
def rule_book() -> tuple[Rule, ...]:
    """Return all rules in the file's order."""
    return tuple(read_spec(RuleBook, ROOT / "rules.yaml").rules)


def broken_rules(combination: Combination, *, pinned: frozenset[Pinned]) -> Iterator[Rule]:
    """Yield the rules against this combination that do not yield to what was pinned."""
    for rule in rule_book():
        if rule.when.applies(combination) and not rule.is_advice_on(pinned):
            yield rule


@bounded_cache
def broken_rule(combination: Combination, *, pinned: frozenset[Pinned]) -> Rule | None:
    """Return the first rule against this combination; None where it is allowed."""
    return next(broken_rules(combination, pinned=pinned), None)
