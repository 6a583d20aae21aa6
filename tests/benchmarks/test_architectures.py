"""The benchmark of every architecture: what a command's answer means, and the table."""

import json
from typing import Any

from benchmarks.architectures.asked import answer_of
from benchmarks.architectures.table import MARKS, PAGE, summary, table
from tests.launcher.plans import plan_content

METHOD: dict[str, Any] = {
    "planned": True,
    "seconds": 1.26,
    "refusal": None,
    "fault": None,
    "trainable_params": 10,
    "built_trainable_params": 10,
}
ROW: dict[str, Any] = {
    "model_type": "llama",
    "class": "LlamaForCausalLM",
    "num_params": 100,
    "built_params": 100,
    "how": "formulas",
    "methods": {"qlora": METHOD, "lora": METHOD | {"built_trainable_params": 9}},
}


def test_a_plan_is_read_and_a_late_one_is_a_fault() -> None:
    output = json.dumps({"plan": plan_content()})
    said = "The real model is traced instead.\n"
    answer = answer_of(0, output, said, seconds=1.0, wall_s=2.0)
    assert answer.plan is not None
    assert (answer.traced, answer.fault) == (True, None)
    assert answer_of(0, output, "", seconds=21.0, wall_s=21.0).fault == "21 s"


def test_one_line_refuses_and_a_traceback_is_a_fault() -> None:
    refused = answer_of(2, "", "error: it does not fit\n", seconds=1.0, wall_s=2.0)
    assert (refused.refusal, refused.fault) == ("error: it does not fit", None)
    failed = answer_of(1, "", "Traceback ...\nValueError: x\n", seconds=1.0, wall_s=2.0)
    assert failed.fault is not None


def test_counts_that_differ_are_shown_and_counted() -> None:
    line = table([ROW]).splitlines()[-1]
    assert "| 1.3 s | 1.3 s, 9 trained by peft | - |" in line
    assert summary([ROW])["trainable counts that differ"] == 1


def test_the_page_has_its_marks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert MARKS.start in text
    assert MARKS.end in text
