"""From the cards that NVML sees to merged weights, as a person goes, on simulated cards."""

import json
from pathlib import Path

import pytest

from tests.simulated.launched import launch_on, planned_on, write_tiny

OFFLOADED = ("--strategy", "fsdp", "--offload", "all")
STEPS = ("--set", "training.max_steps=3", "--set", "training.save_steps=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("way")
    write_tiny(made)
    return made


@pytest.mark.parametrize(
    ("name", "cards", "count", "asked"),
    [
        ("qlora", "rtx-4090", 1, ("--method", "qlora")),
        ("lora", "rtx-4090:2", 2, ("--method", "lora")),
        ("full", "rtx-4090:4", 4, ("--method", "full")),
        ("lora-on-the-host", "rtx-4090:2", 2, ("--method", "lora", *OFFLOADED)),
    ],
)
def test_plan_launch_resume_merge(
    folder: Path, name: str, cards: str, count: int, asked: tuple[str, ...]
) -> None:
    plan = f"{name}.yaml"
    chosen = planned_on(cards, folder, *asked, "--global-batch-size", "4", "-o", plan)
    assert chosen.returncode == 0, chosen.stderr
    assert "NVIDIA GeForce RTX 4090" in chosen.stdout
    options = ("--output", name, *STEPS)
    begun = launch_on(cards, folder, plan, *options, fault="kill@forward:3/0")
    assert begun.code == 1
    assert "step 2 is saved: --resume continues" in begun.errors
    done = launch_on(cards, folder, plan, *options, "--resume")
    assert done.code == 0, done.errors
    report = json.loads((folder / name / "report.json").read_text())
    assert [each["from_step"] for each in report["attempts"]] == [0, 2]
    assert report["setup"]["world_size"] == count
    assert report["measured"]["peak_allocated_bytes"] > 0
    if name != "full":
        merged = launch_on(cards, folder, "--merge", name, "--output", f"{name}-merged")
        assert merged.code == 0, merged.errors
        assert list((folder / f"{name}-merged").glob("*.safetensors"))
