"""A plan has answered before what it does not use would be imported."""

import subprocess
import sys
from pathlib import Path

ASKED = ("--model", "qwen2.5-7b", "--gpus", "rtx-4090")
SCRIPT = """
import sys
from planner.cli.plan_command import main
sys.argv = ["plan", *sys.argv[1:]]
code = main()
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""
HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "typer",
    "shutil",
    "pydantic",
    "pynvml",
    "subprocess",
    "asyncio",
    "email",
    "importlib.metadata",
    "rich._emoji_codes",
    "rich.markdown",
    "rich.pretty",
    "rich.progress",
    "rich.syntax",
}
FOR_OTHER_QUESTIONS = {
    "planner.report.json_document",
    "planner.report.explain_tables",
    "planner.hardware.linux_host",
    "planner.json_schema",
    "planner.report.listing",
    "planner.hardware.machine_notes",
    "planner.hardware.nvml",
    "planner.training_stack.token_length_client",
    "planner.recipes.families",
    "planner.training_stack.trace_client",
    "planner.recipes.xtuner",
}


def test_a_plain_plan_imports_only_what_it_uses(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *ASKED],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(finished.stderr.split())
    assert "Other ways" in finished.stdout
    assert "planner.decision.what_if" in imported
    assert imported & (HEAVY | FOR_OTHER_QUESTIONS) == set()
