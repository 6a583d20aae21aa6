"""Every sentence of the sources that a person may read, and the table of each language."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from planner.base import phrases
from planner.plan.optimizer_presets import other_optimizers
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


@cache
def marked() -> tuple[tuple[str, str], ...]:
    """Return the place and the template of every phrase of the sources."""
    return tuple(_everywhere())


def _everywhere() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for template in _marked(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.relative_to(ROOT).as_posix(), template
    yield from (("presets/rules.yaml", rule.reason) for rule in rule_book())
    reasons = (other.reason for other in other_optimizers().values())
    yield from (("presets/other_optimizers.yaml", each) for each in reasons if each is not None)
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


SPEAKING = {
    *("print_text", "say", "tell", "passed", "failed", "warned", "Check", "Prose", "Term", "Count"),
    *("add_column", "plain_table", "Column", "section", "facts", "element", "Level", "flattened"),
}
"""Functions whose texts people read."""
READ_KEYWORDS = {"name", "title", "text", "words", "source", "aria_label"}
"""Keywords whose values people read."""
REFUSING = {"ValueError", "ArgumentTypeError", "FieldError", "UnlearnableError"}
"""Errors that become those of users, beside the subclasses of ``UserError``."""
SAME_EVERYWHERE = {
    *("GPUs", "CUDA", "bf16", "NVLink", "MiB", "cuBLAS", "tokens/s", "Python"),
    *("bold green", "unset NCCL_P2P_DISABLE", "pip install -e '.[train]'"),
}
"""Names, styles and commands, which no language says otherwise."""
OF_ITSELF = re.compile(r"allocator/|forward/|tape/|compat/|training/|simulated")
"""Modules whose errors are bugs, or are read by those who develop them alone."""


def plain_texts() -> Iterator[str]:
    """Yield the place of every text for people that is written out without being a phrase."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    names = SPEAKING | REFUSING | _errors_of_users(trees.values())
    for place, tree in trees.items():
        for call in ast.walk(tree):
            if (
                isinstance(call, ast.Call)
                and _called(call) in names
                and not OF_ITSELF.search(place)
            ):
                named = (each.value for each in call.keywords if each.arg in READ_KEYWORDS)
                arguments = (*call.args, *named)
                found = [each for each in arguments if _is_plain(each, _called(call))]
                yield from (f"{place}:{each.lineno}: {ast.unparse(each)}" for each in found)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _errors_of_users(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of the subclasses of ``UserError``."""
    classes = [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.ClassDef)]
    found, before = {"UserError"}, set[str]()
    while found != before:
        before = found
        found = found | {
            each.name for each in classes if found & {getattr(b, "id", "") for b in each.bases}
        }
    return found


def _is_plain(node: ast.expr, function: str) -> bool:
    """Return whether an argument is a sentence, or begins as an f-string with one; names of
    elements, classes and styles are single words."""
    if isinstance(node, ast.JoinedStr):
        return any(_is_plain(each, function) for each in node.values)
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    if node.value in SAME_EVERYWHERE or "." in node.value.strip(". "):
        return False
    heads = function in {"Column", "add_column", "Check", "passed", "Term", "Count"}
    sentence = "[A-Za-z]{2,}" if heads else r"[A-Za-z]{2,}\S* +\S*[A-Za-z]{2,}"
    return re.search(sentence, node.value) is not None


def computed_templates() -> Iterator[str]:
    """Yield the place of every phrase with values whose template is not written out, so that no
    table can have it; one that comes back from another process was written out there."""
    for package in PACKAGES:
        for path in sorted({*(ROOT / package).rglob("*.py")} - {Path(phrases.__file__)}):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _is_computed(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


def _is_computed(call: ast.Call) -> bool:
    """Return whether a template is computed, or the help of an option, which is one, too."""
    name = _called(call)
    is_template = name in DECLARATIONS or (name == "Phrase" and bool(call.keywords))
    return is_template and bool(call.args) and not isinstance(call.args[0], ast.Constant)
