"""The page of runs in a browser: silent, as narrow as a phone, and read by keys alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.run_page.write_page import write_page
from tests.browser import WEAK_TEXTS, Browser, browser, needs_chromium
from tests.launcher.run_page.test_run_page import begun, finished

pytestmark = needs_chromium
NAME = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    one = finished(folder / "one", model__name=NAME)
    other = begun(folder / "<b>&amp;")
    rows = [json.loads(line) for line in other.metrics.read_text().splitlines()[:2]]
    other.metrics.write_text("".join(json.dumps({**row, "loss": 2.5}) + "\n" for row in rows))
    return write_page([one.path, other.path], folder / "page.html")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_silent_legible_and_no_wider_than_the_screen(
    opened: Browser, page: Path, *, width: int, dark: bool
) -> None:
    opened.open(page, width=width, dark=dark)
    assert opened.errors == []
    assert opened.requests == [page.as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate(WEAK_TEXTS) == []


def test_hostile_names_are_text(opened: Browser, page: Path) -> None:
    opened.open(page)
    assert NAME in opened.evaluate("document.querySelector('h1').textContent")
    assert opened.evaluate("document.images.length") == 0


def test_values_are_read_at_a_step(opened: Browser, page: Path) -> None:
    """A run that has ended before the step is not read there."""
    opened.open(page)
    plot = "document.querySelector('[data-chart=loss]')"
    opened.evaluate(f"{plot}.focus()")
    readout = f"{plot}.closest('figure').querySelector('.readout').textContent"
    assert opened.evaluate(readout) == "step 4: one 1.5"
    opened.press("ArrowLeft")
    opened.press("ArrowLeft")
    assert opened.evaluate(readout) == "step 2: one 1.5, <b>&amp; 2.5"
