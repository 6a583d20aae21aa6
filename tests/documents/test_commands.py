"""Every command that the README and docs/ show is one that works."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import convert

from benchmarks.marks import READMES
from launcher.cli.launch_command import launch
from planner.base.command_line import parse_arguments
from planner.base.errors import UserError
from planner.base.phrases import Phrase, speak, spoken
from planner.hardware.saved_machine import save_machine
from planner.models.config_json import config_from_spec
from planner.models.model_presets import load_model
from planner.plan.data_section import DataSection
from planner.plan.training_section import TrainingSection
from tests.documents.commands import CHECKS, OTHERS, Shown, check, shown_commands
from tests.documents.pages import PAGES
from tests.documents.picture import COLUMNS
from tests.planner.hardware.test_machine import gpu, machine
from tests.planner.recipes.test_xtuner import CONFIG
from tests.test_layering import ROOT

DOCUMENTS = [*READMES.values(), *PAGES]
RECIPE_PAGE = ROOT / "docs" / "how-to" / "own-card-and-recipe.md"
LEFT_OUT = "…"
"""Mark of the rest of a line that a document leaves out."""
DATA = {
    "my.jsonl": '{"prompt": "Who?", "completion": "Ada"}\n',
    "faq.csv": "question,reply\nWho?,Ada\n",
}

_YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BASH = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands_of(document: Path) -> list[Shown]:
    return list(shown_commands(document.read_text(encoding="utf-8")))


SHOWING = [document for document in DOCUMENTS if commands_of(document)]


def blocks(pattern: re.Pattern[str]) -> list[str]:
    texts = (document.read_text(encoding="utf-8") for document in DOCUMENTS)
    return [block for text in texts for block in pattern.findall(text)]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder, with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("sys.argv", ["plan"])
    for name, text in DATA.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "my_xtuner_config.py").write_text(CONFIG, encoding="utf-8")
    card, recipe = _YAML.findall(RECIPE_PAGE.read_text(encoding="utf-8"))
    (tmp_path / "card.yaml").write_text(card, encoding="utf-8")
    (tmp_path / "my-recipe.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    config = config_from_spec(load_model("qwen2.5-0.5b").spec)
    (tmp_path / "models" / "qwen" / "config.json").write_text(json.dumps(config))
    eight = machine(*(gpu(index, "NVIDIA H100 80GB HBM3", 81_559) for index in range(8)))
    save_machine(eight, tmp_path / "node.json", force=False)
    yield tmp_path
    speak({})


@pytest.mark.parametrize("document", SHOWING, ids=name_of)
@pytest.mark.usefixtures("folder")
def test_the_commands_of_a_document(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shown in commands_of(document):
        capsys.readouterr()
        if shown.words[0] in OTHERS:
            continue
        try:
            check(shown)
        except UserError as error:
            printed = spoken(Phrase("error: {message}", message=error.message))
        else:
            printed = capsys.readouterr().out
        problem = f"{shown} printed:\n{printed}"
        if shown.output:
            assert is_shown(shown.output, printed), problem
        else:
            assert not printed.startswith("error: "), problem


def is_shown(shown: str, printed: str) -> bool:
    """Return whether the lines that a document shows are those that were printed."""
    before, left_out, _ = shown.partition(LEFT_OUT)
    lines = "\n".join(line.rstrip() for line in printed.splitlines()).strip()
    return lines.startswith(before) if left_out else lines == shown


def test_what_is_shown_of_a_text() -> None:
    assert is_shown("a\nb", "a  \nb\n")
    assert is_shown("error: a …", "error: a because of b")
    assert not is_shown("a", "a\nb")
    assert not is_shown("error: b …", "error: a b")


def test_every_program_that_documents_name_is_checked() -> None:
    programs = {shown.words[0] for document in DOCUMENTS for shown in commands_of(document)}
    assert programs == CHECKS.keys() | OTHERS


def test_every_section_of_a_plan_that_is_shown_is_valid() -> None:
    sections = [yaml.safe_load(block) for block in blocks(_YAML)]
    data = [section["data"] for section in sections if "data" in section and "name" not in section]
    training = [section["training"] for section in sections if "training" in section]
    assert len(data) >= 3
    assert len(training) >= 1
    for section in data:
        convert(section, DataSection)
    for section in training:
        convert({"epochs": 1.0, **section}, TrainingSection)


def test_the_scripts_that_are_shown_run_our_command_lines() -> None:
    assert blocks(_BASH)
    for block in blocks(_BASH):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        [arguments] = re.findall(r"\blaunch (.*)$", block, re.MULTILINE)
        endpoint = parse_arguments(launch, shlex.split(arguments))["rdzv_endpoint"]
        assert (endpoint == "$head") == ("head=" in block)


def test_the_python_that_is_shown_is_python() -> None:
    assert blocks(_PYTHON)
    for block in blocks(_PYTHON):
        compile(block, "documentation", "exec")


@pytest.mark.parametrize(
    "line", ["plan --modle a", "launch plan.yaml", "make nothing", "pip install tuneplan[gpu]"]
)
@pytest.mark.usefixtures("folder")
def test_a_command_that_does_not_work_is_noticed(line: str) -> None:
    with pytest.raises((UserError, AssertionError)):
        check(Shown(tuple(line.split()), ""))
