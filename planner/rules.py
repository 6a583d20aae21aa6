"""Combinations to leave out, read from data."""

from functools import cache
from typing import Literal, get_args

from pydantic import Field

from planner.plan import Method, Offload, Strategy
from planner.presets import ROOT
from planner.spec import Spec, read_spec


class When(Spec):
    method: list[Method]
    strategy: list[Strategy]
    offload: list[Offload] = Field(default_factory=lambda: list(get_args(Offload)))


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
    method: Method, strategy: Strategy, offload: Offload, *, pinned: bool
) -> Rule | None:
    """The first rule against this combination; advice yields to a strategy the user pinned."""
    for rule in rule_book():
        when = rule.when
        applies = method in when.method and strategy in when.strategy and offload in when.offload
        if applies and not (pinned and rule.verdict == "discouraged"):
            return rule
    return None
