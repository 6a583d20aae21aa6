"""The report as a page: whole, by itself, and never over another file."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidRequestError, UnwritableError
from planner.cli import plan_command as cli
from planner.report.html_report import html_page, is_untouched


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


PAGE = Path("report.html")


def shown(page: str) -> list[str]:
    """What a browser shows, a line each."""
    inside = re.search(r"<pre>(.*)</pre>", page, re.DOTALL)
    assert inside is not None
    return [line.rstrip() for line in unescape(re.sub(r"<[^>]*>", "", inside[1])).splitlines()]


def plan(*, html: Path = PAGE, **options: Any) -> None:
    cli.plan(model="chatglm3-6b-base", gpus="8xh100-sxm-80gb", html=html, **options)


def test_the_page_shows_what_the_terminal_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    plan()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert shown(PAGE.read_text(encoding="utf-8")) == printed
    assert Path("plan.yaml").exists()


def test_it_needs_nothing_else() -> None:
    """Colours stand beside the words; no address, script or picture."""
    plan()
    page = PAGE.read_text(encoding="utf-8")
    assert "color: #15803d" in page
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script|<link", page)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "<title>chatglm3-6b-base, full</title>" in page


def test_formulas_where_they_are_asked_for() -> None:
    plan(explain=True)
    assert "What each part is made of" in shown(PAGE.read_text(encoding="utf-8"))


def test_beside_json_and_a_printed_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan(as_json=True)
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1
    assert [path.name for path in Path().iterdir()] == [PAGE.name]


def test_signs_of_html_are_text() -> None:
    page = html_page("a <b> & c", "1 < 2 & <b>")
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    assert shown(page) == ["1 < 2 & <b>"]


def test_another_file_is_never_lost() -> None:
    plan()
    page = PAGE.read_text(encoding="utf-8")
    assert is_untouched(page)
    plan()
    edited = page.replace("QLoRA", "mine").replace("full", "mine")
    for mine in (edited, "notes", page + "\n"):
        PAGE.write_text(mine, encoding="utf-8")
        Path("plan.yaml").unlink(missing_ok=True)
        with pytest.raises(
            InvalidRequestError, match=r"--html report\.html: .* or is not a report"
        ):
            plan()
        assert PAGE.read_text(encoding="utf-8") == mine
        assert not Path("plan.yaml").exists(), "refused before a plan is made"
    plan(force=True)
    assert PAGE.read_text(encoding="utf-8") == page


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="is a directory"):
        plan(html=tmp_path)
    with pytest.raises(UnwritableError, match="another place with --html"):
        plan(html=tmp_path / "no" / "report.html")
