"""The task in SkyPilot itself: its reader, its commands and its states."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.engines.skypilot import SkyPilot, status_of
from launcher.engines.skypilot_task import card_names
from tests.launcher.engines.jobs import job, sixteen_gpus
from tests.launcher.engines.libraries import programs_of, told_by
from tests.launcher.plans import plan

READ = """
import json, sys, sky
tasks = [sky.Task.from_yaml(path) for path in sys.argv[1:]]
print(json.dumps([
    {
        "num_nodes": task.num_nodes,
        "accelerators": sorted(
            [list(r.accelerators.items()) for r in task.resources if r.accelerators]
        ),
        "spot": [r.use_spot for r in task.resources],
        "disk": [r.disk_size for r in task.resources],
        "recovery": [r.job_recovery for r in task.resources],
        "mounts": sorted(task.file_mounts or {}),
        "storage": {path: store.mode.value for path, store in task.storage_mounts.items()},
        "volumes": task.volumes,
        "secrets": [reference.name for reference in task.managed_secret_refs],
    }
    for task in tasks
]))
"""
HELP = """
import json, sys
from click.testing import CliRunner
from sky.client.cli.command import cli
asked = json.load(open(sys.argv[1]))
print(json.dumps([CliRunner().invoke(cli, [*words, "--help"]).exit_code for words in asked]))
"""
STATES = """
import json
from sky.jobs.state import ManagedJobStatus
from sky.skylet.job_lib import JobStatus
states = [*ManagedJobStatus, *JobStatus]
print(json.dumps({state.value: state.is_terminal() for state in states}))
"""


def read(tmp_path: Path, name: str, which: Any, **settings: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    rendered = SkyPilot().render(job(which, **settings))
    for file_name, text in rendered.files.items():
        (folder / file_name).write_text(text)
    return folder / "task.yaml"


def test_tasks_load(tmp_path: Path) -> None:
    one = plan(hardware__device="cuda", hardware__gpu="rtx-a6000")
    files = [
        read(tmp_path, "cluster", sixteen_gpus(), volume="runs"),
        read(tmp_path, "spot", one, bucket="s3://runs", spot="true", secret="HF_TOKEN"),
        read(tmp_path, "cpu", plan(), shared="/mnt/runs", infra="aws/us-east-1"),
    ]
    (tmp_path / "plan.yaml").touch()
    cluster, spot, cpu = told_by("skypilot", READ, *files, home=tmp_path)
    assert cluster["num_nodes"] == 2
    assert cluster["accelerators"] == [[["H100", 8]], [["H100-SXM", 8]]]
    assert cluster["volumes"] == {"/tuneplan/runs": "runs"}
    assert cluster["mounts"] == ["/tuneplan/plan.yaml"]
    assert spot["accelerators"] == [[["A6000", 1]], [["RTXA6000", 1]]]
    assert spot["spot"] == [True, True]
    assert spot["storage"] == {"/tuneplan/runs": "MOUNT_CACHED"}
    assert spot["secrets"] == ["HF_TOKEN"]
    assert spot["recovery"][0]["strategy"] == "EAGER_NEXT_REGION"
    assert cpu["accelerators"] == []
    assert cpu["disk"] == [257]


def test_the_reader_is_asked_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{programs_of('skypilot')}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    task = read(tmp_path, "good", sixteen_gpus(), volume="runs")
    rendered = SkyPilot().render(job(sixteen_gpus(), volume="runs"))
    assert SkyPilot().problems(rendered, task.parent) == []
    task.write_text(task.read_text().replace("num_nodes", "num_node"))
    found = SkyPilot().problems(rendered, task.parent)
    assert len(found) == 1
    assert "num_node" in found[0]


def test_the_client_has_every_option(tmp_path: Path) -> None:
    """Options are read before ``--help``, and one that it does not have ends with a code."""
    launches = [
        SkyPilot().render(job(sixteen_gpus(), volume="runs", secret="HF_TOKEN", spot=spot))
        for spot in ("true", "false")
    ]
    asked = [
        *(rendered.commands[0][1:] for rendered in launches),
        *(("jobs", "queue", "--all", "--output", "json"), ("queue", "c", "--output", "json")),
        *(("jobs", "logs", "1", "--no-follow", "--tail", "0"), ("logs", "c", "--no-follow")),
        *(("jobs", "cancel", "--yes", "1"), ("cancel", "--yes", "--all", "c")),
        ("jobs", "launch", "--no-such-option"),
    ]
    listed = tmp_path / "asked.json"
    listed.write_text(json.dumps(asked))
    codes = told_by("skypilot", HELP, listed, home=tmp_path, HF_TOKEN="x")
    assert codes == [0] * (len(asked) - 1) + [2]


def test_every_state_is_known(tmp_path: Path) -> None:
    for status, ended in told_by("skypilot", STATES, home=tmp_path).items():
        state = status_of({"status": status}).state
        assert state != "unknown", status
        assert (state in ("finished", "failed", "cancelled")) == ended, status


def test_cards_are_written_as_skypilot_takes_them(tmp_path: Path) -> None:
    script = """
import json, sys, sky
names = json.load(open(sys.argv[1]))
print(json.dumps([list(sky.Resources(accelerators=f"{name}:8").accelerators) for name in names]))
"""
    names = sorted({name for names in card_names().values() for name in names})
    listed = tmp_path / "names.json"
    listed.write_text(json.dumps(names))
    assert told_by("skypilot", script, listed, home=tmp_path) == [[name] for name in names]
