"""Every sentence of the sources that a person may read, and the table of each language."""

import ast
from collections.abc import Iterator
from pathlib import Path

from planner.workload.rules import rule_book

ROOT = Path(__file__).parents[3]
PACKAGES = ("planner", "launcher", "tuneplan")
PHRASES = {"Phrase", "Joined"}
"""Classes whose first argument is a template."""
DECLARATIONS = {"Option", "Argument"}
"""Classes whose first argument is the help of an option, and whose ``group`` is its heading."""
COMMANDS = {"plan", "launch", "tuneplan", "quiz"}
"""Functions whose docstring is the help of a command."""
ARGPARSE = {"options", "positional arguments"}
"""Headings that argparse writes."""


def marked() -> Iterator[tuple[str, str]]:
    """Yield the place and the template of every phrase of the sources."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for template in _marked(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.relative_to(ROOT).as_posix(), template
    yield from (("presets/rules.yaml", rule.reason) for rule in rule_book())
    yield from (("argparse", heading) for heading in ARGPARSE)


def _marked(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in PHRASES | DECLARATIONS and node.args:
                yield from _texts(node.args[0])
            if node.func.id in DECLARATIONS:
                groups = [each.value for each in node.keywords if each.arg == "group"]
                yield from (text for group in groups for text in _texts(group))
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name in COMMANDS:
            yield from _help_of(statement)


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield a literal; what is computed is made of phrases that are marked themselves."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _help_of(command: ast.FunctionDef) -> Iterator[str]:
    """Yield the description of a command, and the headings and remarks below it."""
    description, _, rest = (ast.get_docstring(command) or "").partition("\n\n")
    yield description
    yield from (line for line in rest.splitlines() if line and not line.startswith(" "))


def computed_templates() -> Iterator[str]:
    """Yield the place of every phrase with values whose template is not written out, so that no
    table can have it."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _is_computed(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


def _is_computed(call: ast.Call) -> bool:
    is_phrase = isinstance(call.func, ast.Name) and call.func.id == "Phrase"
    return is_phrase and bool(call.keywords) and not isinstance(call.args[0], ast.Constant)
