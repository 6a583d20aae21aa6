"""GPUs read through pynvml while a run goes on, from the stand-in library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.launcher.launching import REPOSITORY
from tests.nvml.stand_in import build, environment

MACHINE = """
driver 580.65.06
cuda 13000
gpu
  name NVIDIA H100 80GB HBM3
  uuid GPU-00000000-aaaa-0000-0000-000000000001
  memory_mib 81559 559 40000
  capability 9.0
  temperature_c 64
  draw_watts 512
gpu
  name NVIDIA H100 80GB HBM3
  uuid GPU-00000000-aaaa-0000-0000-000000000002
  memory_mib 81559 559 1000
gpu
  name NVIDIA H100 80GB HBM3
  uuid GPU-00000000-aaaa-0000-0000-000000000003
  slice 1
    name NVIDIA H100 80GB HBM3 MIG 1g.10gb
    uuid MIG-00000000-aaaa-0000-0000-000000000004
    memory_mib 9984 16 9000
"""
PROBE = """
import json, sys
from dataclasses import asdict
from launcher.display.sensors import NvmlSensors
sensors = NvmlSensors(sys.argv[1:])
print(json.dumps([asdict(gauge) for gauge in sensors.read()]))
"""


def test_gpus_by_their_uuids(tmp_path: Path) -> None:
    machine = tmp_path / "machine.txt"
    machine.write_text(MACHINE, encoding="utf-8")
    uuids = [f"00000000-aaaa-0000-0000-00000000000{number}" for number in (2, 1, 4, 9)]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *uuids],
        env=environment(build(tmp_path), machine, PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        check=True,
    )
    silent, first, part, unknown = json.loads(done.stdout)
    mib = 2**20
    assert silent == gauge("GPU 0", 80_000 * mib, None, None)
    assert first == gauge("GPU 1", 41_000 * mib, 64, 512)
    assert part == gauge("GPU 2", 968 * mib, None, None)
    assert unknown == gauge("GPU 3", None, None, None)


def gauge(
    name: str, used_bytes: int | None, celsius: int | None, watts: int | None
) -> dict[str, object]:
    return {
        "name": name,
        "used_bytes": used_bytes,
        "peak_bytes": used_bytes,
        "temperature_c": celsius,
        "power_watts": watts,
    }
