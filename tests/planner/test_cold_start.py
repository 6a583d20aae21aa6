"""A plan has answered before what it does not use would be imported."""

import subprocess
import sys
from pathlib import Path

ASKED = ("--model", "qwen2.5-7b", "--gpus", "rtx-4090")
SCRIPT = """
import sys
from planner.cli import main
sys.argv = ["plan", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "typer",
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
    "planner.document",
    "planner.explanation",
    "planner.host_reading",
    "planner.json_schema",
    "planner.listing",
    "planner.machine_notes",
    "planner.nvml",
    "planner.planned_data",
    "planner.recipe_families",
    "planner.tracing",
    "planner.xtuner",
}


def test_a_plain_plan_imports_only_what_it_uses(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *ASKED],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(finished.stderr.split())
    assert "Alternatives" in finished.stdout
    assert "planner.what_if" in imported
    assert imported & (HEAVY | FOR_OTHER_QUESTIONS) == set()
