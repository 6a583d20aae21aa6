"""The report in another language: no English sentence is left, and columns stay in line."""

import json
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len

from planner.base.console import PrintableConsole
from planner.base.phrases import speak, spoken
from planner.base.preset_files import translations
from planner.decision.choose import Decision, decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model
from planner.recipes.load_recipe import load_recipe
from planner.report.explain.explained import Explained
from planner.report.explain.formulas import formulas
from planner.report.page.plan_page import plan_page
from planner.report.terminal_report import print_report

WIDTHS = (60, 80, 100, 140)
ON_PAGES = ("QLoRA", "COMMAND", "DeepSpeed", "FSDP", "planner", "launcher", "presets", "arXiv")
NAMES = {"FILE", "FSDP", "QLoRA"}
"""Names that no table has since they are the same in every language."""
CARDS = re.compile(r"\b[a-z]+-?[a-z]*\d[a-z0-9-]*")
"""Names of presets."""


@pytest.fixture(autouse=True)
def _chinese() -> Iterator[None]:
    speak(translations("zh"))
    yield
    speak({})


def decision(gpus: str, recipe: str | None = None, **options: object) -> Decision:
    settings = None if recipe is None else load_recipe(recipe)
    return decide(
        Request(
            model=load_model("chatglm3-6b-base"),
            cluster=parse_gpus(gpus),
            recipe=settings,
            **options,  # type: ignore[arg-type]
        )
    )


DECISIONS = {
    "one card": lambda: decision("24G"),
    "two cards": lambda: decision("2x24G"),
    "full": lambda: decision("8xh100-sxm-80gb", price_per_gpu_hour=2.0),
    "recipe": lambda: decision("2xrtx-4090", recipe="chatglm3_6b_base_qlora_alpaca_e3"),
    "CPU": lambda: decision("cpu", method="qlora"),
}


def printed(made: Decision, width: int) -> str:
    file = StringIO()
    console = PrintableConsole(file=file, width=width, highlight=False, force_terminal=False)
    print_report(console, made, ["launch plan.yaml --data FILE"])
    return file.getvalue()


@pytest.mark.parametrize("name", DECISIONS)
def test_no_english_is_left(name: str) -> None:
    made = DECISIONS[name]()
    cluster, recipe = made.request.cluster, made.request.recipe
    named = [made.request.model.name, cluster.accelerator.device_name, *NAMES]
    if recipe is not None:
        named += [recipe.name, recipe.source.title]
    known = _words(" ".join([*translations("zh").values(), *named]))
    text = re.sub(r"--[a-z-]+( \S+)?", "", printed(made, 140))
    assert _words(CARDS.sub("", text)) - known == set()


def page_of(made: Decision) -> str:
    """What a page says, and the texts of its script."""
    page = plan_page(
        made,
        made_by="COMMAND",
        gpus=made.request.cluster.accelerator.label,
        written=lambda _options: "COMMAND",
        next_steps=["COMMAND"],
        explain=False,
    )
    shown = re.sub(r"<(style|script)\b(?! type).*?</\1>", "", page, flags=re.DOTALL)
    shown = re.sub(r'<p class="source">.*?</p>', "", shown)  # papers and files
    data = re.search(r'id="data">(.*?)</script>', shown, re.DOTALL)
    assert data is not None
    texts = [*_texts(json.loads(data[1])), *re.findall(r'aria-label="([^"]*)"', shown)]
    return re.sub(r"<[^>]*>", " ", shown.replace(data[0], "")) + " ".join(texts)


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list | dict):
        for each in data.values() if isinstance(data, dict) else data:
            yield from _texts(each)


@pytest.mark.parametrize("name", ["one card", "full"])
def test_no_english_is_left_on_a_page(name: str) -> None:
    made = DECISIONS[name]()
    named = [made.request.model.name, made.request.cluster.accelerator.device_name, *ON_PAGES]
    known = _words(" ".join([*translations("zh").values(), *named]))
    text = re.sub(r"--[a-z-]+( \S+)?|\S+\.py\b", "", page_of(made))
    assert _words(CARDS.sub("", text)) - known == set()


@pytest.mark.parametrize(("gpus", "method"), [("24G", "qlora"), ("8xh100-sxm-80gb", "full")])
def test_formulas_have_the_same_numbers(gpus: str, method: str) -> None:
    """The words of other languages may stand in another order, so only the numbers are compared."""
    for row in formulas(Explained(decision(gpus, method=method).chosen)):
        said = spoken(row.text)
        assert said != row.text
        assert sorted(re.findall(r"\d[\d,.]*", said)) == sorted(re.findall(r"\d[\d,.]*", row.text))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]{3,}", text))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one card", "full"])
def test_columns_stay_in_line(name: str, width: int) -> None:
    lines = printed(DECISIONS[name](), width).splitlines()
    rules = [number for number, line in enumerate(lines) if set(line) == {"\u2500"}][1:]
    assert all(cell_len(line) <= width for line in lines)
    (memory, *_) = rules
    table = lines[memory - 1 : memory + 8]
    assert {cell_len(line) for line in table} == {cell_len(lines[memory])}
