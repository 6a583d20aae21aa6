"""Every code of a reason has a row in the reference, and no row has a code that no source gives."""

import ast
from collections.abc import Iterator

from planner.workload.rules import rule_book
from tests.documents.reference import REASONS
from tests.test_layering import modules, tree


def codes() -> Iterator[str]:
    """Yield the codes that the sources give, those of rules and of other reasons left out."""
    for path in modules("planner"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reason":
                yield from _text(node.args[0])


def _text(node: ast.expr) -> Iterator[str]:
    """Yield a code that is written out; others are rules' names and codes that are passed on."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_every_code_is_documented() -> None:
    documented = [code for reasons in REASONS.values() for code in reasons]
    assert sorted({*codes()}) == sorted(documented)
    assert not {*documented} & {rule.name for rule in rule_book()}
