"""``launch --dry-run``, whole."""

from pathlib import Path

from launcher.dry_run import dry_run_text
from launcher.run_directory import RunDirectory
from tests.launcher.golden import assert_golden
from tests.launcher.plans import full, parallel, plan


def test_one_process(tmp_path: Path) -> None:
    text = dry_run_text(plan(), RunDirectory(Path("runs/tiny-lora")), python="python", cores=2)
    assert_golden("dry-run-single.txt", text, tmp_path)


def test_zero3_on_four_gpus(tmp_path: Path) -> None:
    eight = plan(
        **full(
            hardware__device="cuda",
            precision={"compute": "bf16", "frozen": "bf16", "trainable": "bf16"},
            parallel=parallel("zero3", 4),
            batch__global_batch_size=16,
        )
    )
    text = dry_run_text(eight, RunDirectory(Path("runs/tiny full")), python="python", cores=64)
    assert_golden("dry-run-zero3.txt", text, tmp_path)
