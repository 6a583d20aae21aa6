"""``launch`` as a person starts it: another process, in a folder of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.launcher.plans import plan_content, plan_text

REPOSITORY = Path(__file__).parent.parent.parent
TIME_LIMIT_S = 240


@dataclass(frozen=True, slots=True)
class Finished:
    """A launch that has ended."""

    code: int
    output: str
    errors: str
    run: Path

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.metrics]

    @property
    def metrics(self) -> list[dict[str, float]]:
        lines = (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            (self.run / "attempts.json").read_text(encoding="utf-8")
        )
        return found

    def read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run / name).read_text(encoding="utf-8"))
        return content


def environment(**changes: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "NO_COLOR": "1",
        "COLUMNS": "100",
        **changes,
    }


def launch(folder: Path, *options: str, **variables: str) -> Finished:
    """``launch plan.yaml`` in a folder that holds one."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "plan.yaml", *options],
        cwd=folder,
        env=environment(**{"XDG_CACHE_HOME": str(folder / "cache"), **variables}),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, folder / "run")


def write_plan(folder: Path, **changes: Any) -> dict[str, Any]:
    """``plan.yaml`` with its run directory beside it; gives its content."""
    changes = {"output__directory": "run", **changes}
    (folder / "plan.yaml").write_text(plan_text(**changes), encoding="utf-8")
    return plan_content(**changes)


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_samples(folder: Path) -> None:
    """Sixteen questions to train on: four steps of the tests' plans."""
    facts = [asked(f"What is {n}?", f"Fact {n * 7 % 10}") for n in range(16)]
    write_records(folder / "data.jsonl", facts)


def asked(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
