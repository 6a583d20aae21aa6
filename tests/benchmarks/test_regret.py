"""The regret benchmark: times that count, results of another version, what others use."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

from benchmarks.regret.child import NoCounters, SharedProcessorMeter
from benchmarks.regret.run import Results, read_results
from planner.base.errors import InvalidFileError
from planner.hardware.detect import parse_gpus

BUSY = "while True: pass"


def results(path: Path) -> Results:
    return Results(
        path=path,
        environment={},
        times_s={"quiet": [1.0, 1.1], "disturbed": [2.0, 2.1]},
        others_shares={"quiet": [0.02, 0.01], "disturbed": [0.02, 0.4]},
    )


def test_a_time_that_others_disturbed_does_not_count(tmp_path: Path) -> None:
    found = results(tmp_path / "results.json")
    assert [found.counts(name) for name in ("quiet", "disturbed", "none")] == [True, False, False]


def test_results_are_read_as_they_were_saved(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results(file).save()
    assert read_results(file, parse_gpus("cpu")) == results(file)


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results(file).save()
    content = json.loads(file.read_text(encoding="utf-8"))
    content["measurements"]["1"] = {"schema_version": 1}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidFileError, match="of another version, remove it"):
        read_results(file, parse_gpus("cpu"))


def test_what_another_program_uses_of_the_cores_is_seen() -> None:
    meter = SharedProcessorMeter(NoCounters())
    with meter.phase("forward"):
        pass
    with subprocess.Popen([sys.executable, "-c", BUSY]) as other, meter.phase("forward"):
        time.sleep(0.5)
        other.kill()
    assert meter.all_s - meter.own_s > 0.1
    assert meter.own_s < meter.wall_s
