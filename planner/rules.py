"""Combinations to leave out, read from data."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from planner.gpu import Device
from planner.plan import Method, Offload, OptimizerName, Strategy
from planner.presets import ROOT
from planner.spec import Spec, read_spec


class When(Spec):
    """What a rule is about; a list that is left out allows everything."""

    method: list[Method] | None = None
    strategy: list[Strategy] | None = None
    offload: list[Offload] | None = None
    optimizer: list[OptimizerName] | None = None
    device: list[Device] | None = None
    model_type: list[str] | None = None
    packing: list[bool] | None = None

    def applies(self, combination: "Combination") -> bool:
        pairs = (
            (self.method, combination.method),
            (self.strategy, combination.strategy),
            (self.offload, combination.offload),
            (self.optimizer, combination.optimizer),
            (self.device, combination.device),
            (self.model_type, combination.model_type),
            (self.packing, combination.packing),
        )
        return all(listed is None or found in listed for listed, found in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """What a candidate would put together."""

    method: Method
    strategy: Strategy
    offload: Offload
    optimizer: OptimizerName
    device: Device
    model_type: str
    packing: bool = False


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


def broken_rule(combination: Combination, *, pinned: bool) -> Rule | None:
    """The first rule against this combination; advice yields to a strategy the user pinned."""
    for rule in rule_book():
        advice = pinned and rule.verdict == "discouraged"
        if rule.when.applies(combination) and not advice:
            return rule
    return None
