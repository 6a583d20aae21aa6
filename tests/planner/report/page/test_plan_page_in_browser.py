"""The page of a plan in a browser: silent, as narrow as a phone, and usable by keys alone."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.base.command_line import parse_arguments
from planner.base.units import short_gib
from planner.cli import plan_command as cli
from planner.models.config_json import config_from_spec
from planner.models.model_presets import load_model
from tests.browser import WEAK_TEXTS, Browser, browser, needs_chromium

pytestmark = needs_chromium
NAME = "<img src=x onerror=alert(1)><!--"
CUT = """[...document.querySelectorAll('#memory th, #memory td')]
  .filter((cell) => {
    const text = document.createRange(); text.selectNodeContents(cell);
    return text.getBoundingClientRect().right > document.documentElement.clientWidth
      || cell.scrollWidth > cell.clientWidth + 1;
  }).map((cell) => cell.textContent)"""
"""Texts of the table of memory that a screen cuts."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of a model with a hostile name, in the folder that holds the model."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / NAME).mkdir()
    content = config_from_spec(load_model("bloom-560m").spec)
    (folder / NAME / "config.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["plan"])
        cli.plan(model=NAME, gpus="8G", lora_rank=8, html=Path("page.html"))
        yield folder / "page.html"


def text_of(opened: Browser, selector: str) -> str:
    text: str = opened.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
    return text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_silent_legible_and_no_wider_than_the_screen(
    opened: Browser, page: Path, *, width: int, dark: bool
) -> None:
    opened.open(page, width=width, dark=dark)
    assert opened.errors == []
    assert opened.requests == [page.as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate("getComputedStyle(document.body).fontSize") == "16px"
    assert opened.evaluate(WEAK_TEXTS) == []
    assert opened.evaluate(CUT) == []


def test_a_hostile_name_is_text(opened: Browser, page: Path) -> None:
    opened.open(page)
    assert text_of(opened, "h1") == NAME
    assert text_of(opened, "title").startswith(NAME)
    assert opened.evaluate("document.images.length") == 0
    assert NAME in shlex.split(text_of(opened, "#state-command code"))


def priced(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``plan`` predicts for a command line, which its own grammar reads."""
    program, *arguments = shlex.split(command)
    assert program == "plan"
    capsys.readouterr()
    cli.plan(**{**parse_arguments(cli.plan, arguments), "as_json": True})
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_explorer_by_keys_and_what_its_command_gives(
    opened: Browser, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened.open(page)
    opened.evaluate("document.querySelector('input[name=method]:checked').focus()")
    opened.press("ArrowRight" if "QLoRA" in text_of(opened, "#state-title") else "ArrowLeft")
    opened.evaluate("document.querySelector('#map [tabindex=\"0\"]').focus()")
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowDown"):
        opened.press(key)
    selected = "document.querySelector('#map [aria-selected=true]')"
    assert opened.evaluate(f"document.activeElement === {selected}")
    assert opened.evaluate(f"{selected}.dataset.micro") == "1"
    assert opened.evaluate(f"{selected}.dataset.length") == "0"
    assert "fits" in text_of(opened, "#state-verdict")
    found = priced(text_of(opened, "#state-command code"), capsys)
    batch = found["plan"]["batch"]
    assert (batch["micro_batch_size"], batch["sequence_length"]) == (2, 1024)
    memory = found["prediction"]["per_gpu"]
    high = short_gib(memory["high_bytes"])
    assert text_of(opened, "#state-memory").startswith(f"{high} GiB in the worst case")
    assert text_of(opened, "#map [aria-selected=true] .figure") == high


def test_a_state_without_adapters_asks_for_no_rank(opened: Browser, page: Path) -> None:
    opened.open(page)
    commands = opened.evaluate("data.explorer.commands.map((row) => row[0])")
    assert [("--lora-rank" in command) for command in commands] == [True, True, False]
    assert [re.findall(r"--method (\w+)", command) for command in commands] == [
        ["qlora"],
        ["lora"],
        ["full"],
    ]


def test_a_part_of_the_chart_opens_its_formula(opened: Browser, page: Path) -> None:
    opened.open(page)
    opened.evaluate(
        "document.querySelector('.plot [data-part=weights]')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert opened.evaluate("document.querySelector('details[data-part=weights]').open")
    assert opened.evaluate("document.activeElement.parentElement.dataset.part") == "weights"
    assert "planner/" in text_of(opened, "details[data-part=weights] .source")
    opened.press("Enter")
    assert not opened.evaluate("document.querySelector('details[data-part=weights]').open")
    opened.draw()
    assert opened.evaluate("document.querySelectorAll('.marked').length") == 0


def test_everything_is_printed(opened: Browser, page: Path, tmp_path: Path) -> None:
    opened.open(page)
    opened.print_to(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    opened.send("Emulation.setEmulatedMedia", media="print")
    opened.draw()
    closed = "document.querySelector('details:not([open]) .formula')"
    assert opened.evaluate(f"{closed}.checkVisibility({{contentVisibilityAuto: true}})")
    opened.send("Emulation.setEmulatedMedia", media="")
