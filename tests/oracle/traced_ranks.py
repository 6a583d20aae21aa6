"""Cases that are traced on the ranks of one run, as the tests of ZeRO and of FSDP ask."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.launcher.launching import REPOSITORY
from tests.oracle.zero_cases import ZeroCase

TIME_LIMIT_S = 400


def traced_cases(
    program: str, cases: Sequence[ZeroCase], folder: Path, phases: Iterable[str]
) -> list[dict[str, int]]:
    """Return the most loaded rank's bytes, by phase, of every case; ``program`` is the module that
    each rank runs, of which all cases have as many."""
    (count,) = {case.ranks for case in cases}
    file, phases = folder / "cases.json", tuple(phases)
    file.write_text(json.dumps([asdict(case) for case in cases]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(count)),
            *("-m", program, str(file), str(folder)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(count)]
    return [
        {phase: max(rank[phase] for rank in by_rank) for phase in phases}
        for by_rank in zip(*ranks, strict=True)
    ]
