"""What ranks share before they train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.training.process_group import cpu_adam_folder

SECONDS = 600
PROGRAM = (
    "from launcher.training.process_group import have_cpu_adam; have_cpu_adam(); "
    "import torch; from deepspeed.ops.adam import DeepSpeedCPUAdam; "
    "weight = torch.nn.Parameter(torch.ones(8)); weight.grad = torch.ones(8); "
    "DeepSpeedCPUAdam([weight], lr=0.5).step(); print(weight[0].item())"
)


@pytest.mark.long
def test_a_mark_that_a_killed_process_left_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch waits for ever for the file that says that another process builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run_program()
    built = cpu_adam_folder() / "cpu_adam"
    assert (built / "cpu_adam.so").exists()
    (built / "lock").touch()
    run_program()
    assert not (built / "lock").exists()


def run_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(0.5, abs=0.01)
