"""What the documents say of the source is so: packages, paths, definitions, commands, links.

``python -m tests.test_papers --write`` puts the tables of packages into ARCHITECTURE.md anew.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest

from tests.test_layering import LAUNCHER, PLANNER, PLANNER_USED_BY_THE_LAUNCHER, ROOT, tree

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
WRITE = "python -m tests.test_papers --write"
DOCUMENTS = sorted(
    path
    for folder in ("", "docs/**/", "presets/**/", "benchmarks/**/")
    for path in ROOT.glob(f"{folder}*.md")
)
ORDERS = {"planner": PLANNER, "launcher": LAUNCHER}
OWN = "planner|launcher|presets|benchmarks|tests"
MANY = 2
PLACEHOLDER = "NAME"
FILES_OF_A_READER = {"plan.yaml", "card.yaml"}
"""Named in the documents, and no files of this repository."""

_TABLE = re.compile(r"(<!-- packages of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"([\w.*-]+(?:/[\w.*-]+)*/?)(?::(\w+))?")
_DOTTED = re.compile(rf"(?:{OWN})(?:\.\w+)+")
_LINK = re.compile(r"(?:\]\(|(?:src|srcset)=\")([^)\s\"]+)")
_COMMAND = re.compile(rf"python -m ((?:{OWN})[\w.]*)")


def first_sentence(package: Path) -> str:
    """Return the first sentence of a package's docstring, as Markdown."""
    docstring = ast.get_docstring(tree(package / "__init__.py")) or ""
    sentence = re.split(r"(?<=[.?])\s", " ".join(docstring.split()), maxsplit=1)[0]
    return sentence.replace("``", "`").replace("|", r"\|")


def may_import(order: Mapping[str, set[str]], name: str) -> str:
    """Return the packages that one may import, or which it may not if these are few of many."""
    below = list(takewhile(lambda other: other != name, order))
    allowed = [other for other in below if other in order[name]]
    others = [other for other in below if other not in order[name]]
    if len(allowed) > MANY and 2 * len(others) < len(allowed):
        return f"all above but {', '.join(others)}" if others else "all above"
    return ", ".join(allowed) or "-"


def package_table(top: str) -> str:
    """Return the table of ``planner`` or ``launcher`` that ARCHITECTURE.md must hold."""
    lines = ["| package | what lives there | may import |", "|---|---|---|"]
    for name in ORDERS[top]:
        what = first_sentence(ROOT / top / name)
        lines.append(f"| `{name}` | {what} | {may_import(ORDERS[top], name)} |")
    if top == "launcher":
        used = (name.removeprefix("planner.") for name in PLANNER_USED_BY_THE_LAUNCHER)
        names = ", ".join(f"`{name}`" for name in sorted(used))
        lines += ["", f"Of `planner`, the launcher imports only {names}."]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """Return the text with every table of packages as the source has it."""
    return _TABLE.sub(lambda match: match[1] + package_table(match[2]) + match[3], text)


def test_few_of_many_are_named() -> None:
    order = {"a": set[str](), "b": {"a"}, "c": {"a"}, "d": {"a", "b", "c"}, "e": {"a", "b", "d"}}
    said = [may_import(order, name) for name in order]
    assert said == ["-", "a", "a", "all above", "all above but c"]


@pytest.mark.parametrize("top", ORDERS)
def test_the_tables_of_packages_are_those_of_the_source(top: str) -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    [written] = [match[0] for match in _TABLE.finditer(text) if match[2] == top]
    expected = package_table(top)
    assert expected in written, f"write them with: {WRITE}\n{expected}"


def spans(document: Path) -> Iterator[str]:
    """Yield the words in backticks, outside of blocks of code."""
    text = _FENCED.sub("", document.read_text(encoding="utf-8"))
    yield from (word for span in _SPAN.findall(text) for word in span.split())


def paths(document: Path) -> Iterator[tuple[str, str]]:
    """Yield what is written as a path of this repository, and the definition named behind it."""
    folders = {path.name for base in (ROOT, document.parent) for path in base.iterdir()}
    for word in spans(document):
        match = _PATH.fullmatch(word)
        if match is None or PLACEHOLDER in word or match[1] in FILES_OF_A_READER:
            continue
        first, slash, _ = match[1].partition("/")
        is_a_file = first.endswith(".py") or (document.parent != ROOT and first.endswith(".yaml"))
        if (slash and first in folders) or (not slash and is_a_file):
            yield match[1], match[2] or ""


def defined_in(path: Path) -> set[str]:
    """Return the names that a module defines at its top level."""
    names: set[str] = set()
    for node in tree(path).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def is_defined(dotted: str) -> bool:
    """Return whether a dotted name is a package, a module or a definition of one; nothing is
    imported."""
    path = ROOT / dotted.replace(".", "/")
    module = path.parent.with_suffix(".py")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    return module.is_file() and path.name in defined_in(module)


def test_a_dotted_name_is_a_module_or_a_definition() -> None:
    assert is_defined("planner.hardware.cluster.GpuSpec")
    assert is_defined("planner.hardware")
    assert not is_defined("planner.hardware.cluster.GpuSpeck")
    assert not is_defined("planner.hardware.clusters")


def anchors(document: Path) -> set[str]:
    """Return the names by which a link reaches the headings of a document."""
    text = _FENCED.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def is_there(document: Path, path: str) -> bool:
    return any(any(base.glob(path.rstrip("/"))) for base in (ROOT, document.parent))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestDocument:
    def test_every_path_exists(self, document: Path) -> None:
        assert not [path for path, _ in paths(document) if not is_there(document, path)]

    def test_every_definition_exists(self, document: Path) -> None:
        named = {(path, name) for path, name in paths(document) if name}
        assert not {(path, name) for path, name in named if name not in defined_in(ROOT / path)}

    def test_every_dotted_name_exists(self, document: Path) -> None:
        dotted = filter(_DOTTED.fullmatch, spans(document))
        assert not [name for name in dotted if not is_defined(name)]

    def test_every_module_to_run_exists(self, document: Path) -> None:
        for name in _COMMAND.findall(document.read_text(encoding="utf-8")):
            assert find_spec(name) is not None, name

    def test_every_link_leads_somewhere(self, document: Path) -> None:
        for target in _LINK.findall(_FENCED.sub("", document.read_text(encoding="utf-8"))):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_the_documents_name_what_is_checked() -> None:
    found = [pair for document in DOCUMENTS for pair in paths(document)]
    assert len(found) > 100
    assert sum(bool(name) for _, name in found) > 20


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: {WRITE}")
    ARCHITECTURE.write_text(with_tables(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
