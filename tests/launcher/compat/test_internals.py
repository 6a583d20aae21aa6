"""The table of other libraries' internals, held against the libraries that are installed."""

import ast
import inspect
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from launcher.compat.check_internals import changes
from launcher.compat.internals import LIBRARIES, Internal, Library
from tests.launcher.launching import REPOSITORY


@pytest.mark.parametrize("library", LIBRARIES, ids=[library.name for library in LIBRARIES])
def test_every_name_is_there_with_its_signature(library: Library) -> None:
    pytest.importorskip(library.name)
    assert list(changes(library)) == []


@pytest.mark.parametrize(
    ("internal", "words"),
    [
        (Internal("json.decoder._gone", "bogus"), "json.decoder._gone is gone (bogus)"),
        (Internal("json._gone.dumps", "bogus"), "json._gone.dumps is gone (bogus)"),
        (
            Internal("json.decoder.py_scanstring", "bogus", ("text",)),
            "json.decoder.py_scanstring has no parameter text (bogus)",
        ),
        (
            Internal("json.decoder.c_scanstring", "bogus", ("s",)),
            "json.decoder.c_scanstring has no signature (bogus)",
        ),
        (
            Internal("json.decoder.JSONDecoder.decode", "bogus", ()),
            "json.decoder.JSONDecoder.decode requires s (bogus)",
        ),
        (
            Internal("json.decoder.JSONDecoder", "bogus", mentions=("self.never_set = ",)),
            "json.decoder.JSONDecoder does not mention self.never_set =  (bogus)",
        ),
        (Internal("json.decoder.FLAGS", "a constant", mentions=("VERBOSE",)), None),
        (Internal("json.decoder.JSONDecoder.raw_decode", "a method", ("s", "idx")), None),
    ],
)
def test_a_name_that_has_changed_is_said(internal: Internal, words: str | None) -> None:
    found = list(changes(Library("json", "3", (internal,))))
    assert found == ([] if words is None else [words])


def test_operators_are_read_by_their_schema() -> None:
    pytest.importorskip("torch")
    name = "torch.ops.aten.add.Tensor"
    table = (Internal(name, "bogus", ("self", "gone")), Internal(name, "bogus", ("self", "alpha")))
    assert list(changes(Library("torch", "2", table))) == [
        f"{name} has no parameter gone (bogus)",
        f"{name} requires other (bogus)",
    ]


def test_the_hooks_of_the_trainer_have_its_parameters_and_hide_none_of_its_names() -> None:
    """Callers may pass any of them by name."""
    transformers = pytest.importorskip("transformers")
    trl = pytest.importorskip("trl")
    from launcher.compat.transformers import TrainerHooks

    for name, hook in vars(TrainerHooks).items():
        if name in ("_get_output_dir", "_save_checkpoint"):
            theirs = inspect.signature(getattr(transformers.Trainer, name))
            assert list(inspect.signature(hook).parameters) == list(theirs.parameters)
        elif not name.startswith("_"):
            assert not hasattr(trl.SFTTrainer, name)


def declared() -> dict[str, Requirement]:
    """Requirements of the extra ``train``, by name."""
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lines = parser["options.extras_require"]["train"].split()
    return {need.name: need for need in map(Requirement, lines)}


@pytest.mark.parametrize("library", LIBRARIES, ids=[library.name for library in LIBRARIES])
def test_versions_are_bounded_behind_the_one_that_was_read(library: Library) -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(rf"^{library.name}==(.+)$", text, re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == library.read
    bounds = declared()[library.name].specifier
    read = Version(library.read)
    assert bounds.contains(read)
    assert not bounds.contains(f"{read.major + 1}.0")
    if library.name != "datasets":  # nothing private of it
        assert not bounds.contains(f"{read.major}.{read.minor + 1}.0")


OWN_PRIVATE_NAMES = {"_asdict", "_replace"}
"""Public methods of named tuples."""
OS_NAMES = {"_exit"}


def private_names(path: Path) -> set[str]:
    """Private attributes that a module reads of things it has not made, and private imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own, read = OWN_PRIVATE_NAMES | OS_NAMES, set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                own.add(name)
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if re.fullmatch(r"_[^_].*", name):
                read.add(name)
            case ast.ImportFrom(module=str(module)):
                parts = [*module.split("."), *(alias.name for alias in node.names)]
                read |= {part for part in parts if re.fullmatch(r"_[^_].*", part)}
    return read - own


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((REPOSITORY / "launcher").rglob("*.py"))
        if path.parent.name != "compat"
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_private_names_of_libraries_are_used_in_compat_alone(path: Path) -> None:
    assert private_names(path) == set()


def test_a_private_name_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("from torch._C import x\ndef _own(): ...\ny = model._hidden, z._own\n")
    assert private_names(module) == {"_C", "_hidden"}
