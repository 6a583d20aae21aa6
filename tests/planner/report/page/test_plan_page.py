"""``plan --html``: a page by itself, never over another file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidRequestError, UnwritableError
from planner.cli import plan_command as cli
from planner.page.document import is_untouched

PAGE = Path("page.html")
MOST_BYTES = 200_000


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["plan"])


def plan(*, html: Path = PAGE, **options: Any) -> None:
    cli.plan(**{"model": "gpt2", "gpus": "8G", "method": "lora", "html": html, **options})


def test_it_shows_what_the_report_does(capsys: pytest.CaptureFixture[str]) -> None:
    plan(explain=True)
    text = re.sub(r"<[^>]*>", "\n", PAGE.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    for heading in ("Memory per GPU", "Other ways", "Tensors of a micro-batch", "Range"):
        assert heading in printed
        assert heading in text
    tables = re.findall(r"^allocated +(.*\d)$", printed, re.MULTILINE)
    assert len(tables) == 2
    for figures in tables:
        assert "\n".join(figures.split()) in re.sub(r"\n+", "\n", text)


@pytest.mark.parametrize(
    ("model", "gpus"), [("gemma-3-1b-it", "a100-sxm-80gb"), ("qwen2.5-7b", "8xh100")]
)
@pytest.mark.long
def test_it_is_small(model: str, gpus: str) -> None:
    cli.plan(model=model, gpus=gpus, html=PAGE, explain=True)
    assert PAGE.stat().st_size < MOST_BYTES


def test_a_page_of_few_states_is_smaller() -> None:
    plan()
    assert 20_000 < PAGE.stat().st_size < MOST_BYTES


def test_beside_json_and_a_printed_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan(as_json=True)
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1
    assert [path.name for path in Path().iterdir()] == [PAGE.name]


def test_another_file_is_never_lost() -> None:
    plan()
    page = PAGE.read_text(encoding="utf-8")
    assert is_untouched(page)
    for mine in (page.replace("LoRA", "mine"), "notes", page + "\n"):
        PAGE.write_text(mine, encoding="utf-8")
        Path("plan.yaml").unlink(missing_ok=True)
        with pytest.raises(InvalidRequestError, match=r"--html page\.html: .* or is not a page"):
            plan()
        assert PAGE.read_text(encoding="utf-8") == mine
        assert not Path("plan.yaml").exists(), "refused before a plan is made"
    plan(force=True)
    assert PAGE.read_text(encoding="utf-8") == page


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="is a directory"):
        plan(html=tmp_path)
    with pytest.raises(UnwritableError, match="another place with --html"):
        plan(html=tmp_path / "no" / "page.html")
