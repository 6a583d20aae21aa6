"""Architectures whose sequences ranks can share: every one but those that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.search.shared_sequences import obstacle
from planner.workload.rules import rule_book
from tests.launcher.launching import REPOSITORY
from tests.oracle.shared_attention_ranks import SHARED

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.long

ROUNDED = 1e-6
"""Experts' products of fewer rows may sum in another order; logits are near 1."""


def test_every_other_architecture_is_as_on_one_rank(tmp_path: Path) -> None:
    (rule,) = (rule for rule in rule_book() if rule.name == "sequence-parallel-model")
    refused = set(rule.when.model_type or ())
    shapes = {
        name: spec
        for name, spec in SHARED.items()
        if obstacle(spec, 2, sequence_length=64, gpus_per_node=2) is None
    }
    assert refused == refused & {spec.model_type for spec in shapes.values()}
    file = tmp_path / "differences.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "tests.oracle.shared_attention_ranks"),
            *(str(file), json.dumps(list(shapes))),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        check=True,
        timeout=200,
    )
    for name, difference in json.loads(file.read_text()).items():
        fails = difference is None or difference > ROUNDED
        assert fails == (shapes[name].model_type in refused), name
