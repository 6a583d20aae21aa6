"""Combinations to leave out, read from data."""

from functools import cache
from typing import Literal, NamedTuple

from planner.gpu import Cluster, Device
from planner.plan import Method, Offload, OptimizerName, Strategy
from planner.presets import ROOT
from planner.recipe import Workload
from planner.spec import Spec, read_spec

QuantType = Literal["nf4", "int8"]


class When(Spec):
    """What a rule is about; a list that is left out allows everything."""

    method: list[Method] | None = None
    strategy: list[Strategy] | None = None
    offload: list[Offload] | None = None
    optimizer: list[OptimizerName] | None = None
    device: list[Device] | None = None
    model_type: list[str] | None = None
    quant_type: list[QuantType] | None = None
    capability_below: float | None = None
    """Compute capability of the card, where it is known."""
    packing: list[bool] | None = None

    def applies(self, combination: "Combination") -> bool:
        pairs = (
            (self.method, combination.method),
            (self.strategy, combination.strategy),
            (self.offload, combination.offload),
            (self.optimizer, combination.optimizer),
            (self.device, combination.device),
            (self.model_type, combination.model_type),
            (self.quant_type, combination.quant_type),
            (self.packing, combination.packing),
        )
        listed = all(allowed is None or found in allowed for allowed, found in pairs)
        return listed and self._too_old(combination.compute_capability)

    def _too_old(self, capability: str | None) -> bool:
        if self.capability_below is None:
            return True
        return capability is not None and float(capability) < self.capability_below


class Combination(NamedTuple):
    """What a candidate would put together."""

    method: Method
    strategy: Strategy
    offload: Offload
    optimizer: OptimizerName
    device: Device
    model_type: str
    quant_type: QuantType | None = None
    packing: bool = False
    compute_capability: str | None = None

    @classmethod
    def of(
        cls, workload: Workload, strategy: Strategy, offload: Offload, cluster: Cluster
    ) -> "Combination":
        quantization = workload.recipe.quantization
        return cls(
            method=workload.method,
            strategy=strategy,
            offload=offload,
            optimizer=workload.recipe.optimizer.name,
            device=cluster.device,
            model_type=workload.model.model_type,
            quant_type=None if quantization is None else quantization.quant_type,
            packing=workload.recipe.packing,
            compute_capability=cluster.accelerator.compute_capability,
        )


class Rule(Spec):
    name: str
    verdict: Literal["refused", "discouraged"]
    when: When
    reason: str
    source: str


class RuleBook(Spec):
    rules: list[Rule]


@cache
def rule_book() -> tuple[Rule, ...]:
    return tuple(read_spec(RuleBook, ROOT / "rules.yaml").rules)


@cache
def broken_rule(combination: Combination, *, pinned: bool) -> Rule | None:
    """The first rule against this combination; advice yields to a strategy the user pinned."""
    for rule in rule_book():
        advice = pinned and rule.verdict == "discouraged"
        if rule.when.applies(combination) and not advice:
            return rule
    return None
