"""Combinations to leave out, read from data."""

from functools import cache
from typing import Literal

from planner.plan import Method, Strategy
from planner.presets import ROOT
from planner.spec import Spec, read_spec


class When(Spec):
    method: list[Method]
    strategy: list[Strategy]
    model_type: list[str] | None = None
    """Every architecture, where it is left out."""

    def covers(self, method: Method, strategy: Strategy, model_type: str) -> bool:
        named = self.model_type is None or model_type in self.model_type
        return method in self.method and strategy in self.strategy and named


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


def broken_rule(
    method: Method, strategy: Strategy, model_type: str, *, pinned: bool
) -> Rule | None:
    """The first rule against this combination; advice yields to a strategy the user pinned."""
    for rule in rule_book():
        applies = rule.when.covers(method, strategy, model_type)
        if applies and not (pinned and rule.verdict == "discouraged"):
            return rule
    return None
