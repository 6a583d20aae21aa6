"""``--language``, and the language of the environment, in whole commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layering import ROOT

PLAN = ("--model", "chatglm3-6b-base", "--gpus", "24G")
FITS, ERROR, USAGE = "\u653e\u5f97\u4e0b", "\u9519\u8bef\uff1a", "\u7528\u6cd5\uff1a"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-m", "planner", *arguments],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_report_is_in_the_language_of_the_locale_and_the_plan_is_not(tmp_path: Path) -> None:
    printed = run(*PLAN, folder=tmp_path, LANG="zh_CN.UTF-8")
    assert FITS in printed.stdout
    assert (tmp_path / "plan.yaml").read_text(encoding="utf-8").isascii()


def test_the_document_stays_english(tmp_path: Path) -> None:
    printed = run(*PLAN, "--json", "--language", "zh", folder=tmp_path)
    content = json.loads(printed.stdout)
    assert content["why"]["code"] == "tiers"
    assert content["why"]["text"].startswith("24 GiB; for 6.24 B parameters")
    assert {each["reason"]["code"] for each in content["alternatives"]} >= {"memory_short"}
    assert content["rejected"][0].keys() == {"code", "text", "candidates"}


@pytest.mark.parametrize("flag", [("--language", "zh"), ("--language=zh",)])
def test_an_error_and_the_help_are_in_the_language_of_the_option(
    flag: tuple[str, ...], tmp_path: Path
) -> None:
    refused = run("--modle", "a", *flag, folder=tmp_path)
    assert (refused.returncode, refused.stderr.startswith(ERROR)) == (2, True)
    assert len(refused.stderr.splitlines()) == 1
    help_text = run("--help", *flag, folder=tmp_path).stdout
    assert help_text.startswith(USAGE)
    assert [line for line in help_text.splitlines() if line.endswith(":")] == []


def test_the_option_is_stronger_than_the_locale(tmp_path: Path) -> None:
    refused = run("--language", "en", "--modle", folder=tmp_path, LC_ALL="zh_CN.UTF-8")
    assert refused.stderr.startswith("error: no such option: --modle")


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    refused = run("--language", "klingon", folder=tmp_path)
    assert "--language: unknown value 'klingon'" in refused.stderr
    assert refused.returncode == 2


def test_a_terminal_without_the_letters_is_spoken_to_in_english(tmp_path: Path) -> None:
    refused = run("--modle", folder=tmp_path, LANG="zh_CN", PYTHONIOENCODING="ascii")
    assert refused.stderr.startswith("error: ")
