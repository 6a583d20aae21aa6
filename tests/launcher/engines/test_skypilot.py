"""SkyPilot: the task, and what is asked of its client. The real library: test_skypilot_library.py.

A ``sky`` of the tests stands in for the client, and answers as it does.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from msgspec import convert

from launcher.engines.engine import EngineError, JobStatus
from launcher.engines.job import Rendered
from launcher.engines.skypilot import SkyPilot, status_of
from launcher.engines.skypilot_task import card_names
from launcher.engines.submission import dry_run_text
from launcher.lifecycle.begin import StartOptions
from planner.base.errors import InvalidRequestError
from planner.base.preset_files import preset_names
from planner.plan.schema import Plan
from tests.launcher.engines.jobs import job, sixteen_gpus
from tests.launcher.golden import assert_golden
from tests.launcher.plans import plan

TASK = "task.yaml"


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers with the file named like its first arguments; remembers what it was asked."""
    program = tmp_path / "bin" / "sky"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'[ -f "{tmp_path}/$1-$2" ] && cat "{tmp_path}/$1-$2" || cat "{tmp_path}/$1"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_a_cluster(tmp_path: Path) -> None:
    rendered = SkyPilot().render(job(sixteen_gpus(), volume="runs", infra="k8s"))
    assert_golden("skypilot-cluster.txt", shown(rendered), tmp_path)


def test_a_managed_job_on_spot_machines(tmp_path: Path) -> None:
    """Started again where they are taken away, with the run directory in a bucket."""
    given = {"bucket": "s3://runs", "spot": "true", "secret": "HF_TOKEN,WANDB_API_KEY"}
    one = plan(hardware__device="cuda", hardware__gpu="rtx-a6000")
    rendered = SkyPilot().render(replace(job(one, **given), start=StartOptions(max_restarts=2)))
    assert_golden("skypilot-spot.txt", shown(rendered), tmp_path)


def shown(rendered: Rendered) -> str:
    return f"{rendered.files[TASK]}---\n{' '.join(rendered.commands[0])}\n"


def test_a_dry_run_shows_all() -> None:
    text = dry_run_text(SkyPilot(), job(sixteen_gpus(), volume="runs"))
    for part in ("job/plan.yaml:\nschema_version: 1", "job/task.yaml:\nname:", "submit:\n  sky la"):
        assert part in text


def test_inputs_are_uploaded_and_renamed_in_the_plan(tmp_path: Path) -> None:
    data = tmp_path / "my data.jsonl"
    data.touch()
    hub = "tatsu-lab/alpaca"
    sources = {"source": None, "sources": [{"source": str(data)}, {"source": hub}]}
    rendered = SkyPilot().render(job(plan(data=sources), bucket="s3://runs"))
    there = "/tuneplan/inputs/0/my data.jsonl"
    assert yaml.safe_load(rendered.files[TASK])["file_mounts"][there] == str(data)
    found = convert(yaml.safe_load(rendered.files["plan.yaml"]), Plan)
    assert [source.source for source in found.data.every_source] == [there, hub]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "set one of --with bucket="),
        ({"bucket": "s3://a", "volume": "b"}, "set one of --with bucket="),
        ({"bucket": "s3://a"}, "2 nodes need to see each other's files at once"),
        ({"bucket": "runs"}, "--with bucket: it should be a text matching"),
        ({"volum": "a"}, "Did you mean 'volume'?"),
        ({"volume": "a", "spot": "perhaps"}, "--with spot: it should be true or false"),
        ({"volume": "a", "accelerators": "A100:4"}, "Write A100:8"),
        ({"shared": "runs"}, "--with shared"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequestError, match="--with") as caught:
        SkyPilot().render(job(sixteen_gpus(), **settings))
    assert said in str(caught.value)


def test_a_card_that_the_catalog_does_not_name() -> None:
    unknown = plan(hardware__device="cuda", hardware__gpu="24G")
    with pytest.raises(InvalidRequestError, match=r"24G is not known: set one, --with acc"):
        SkyPilot().render(job(unknown, bucket="s3://runs"))
    named = SkyPilot().render(job(unknown, bucket="s3://runs", accelerators="L4"))
    assert yaml.safe_load(named.files[TASK])["resources"]["accelerators"] == "L4:1"


def test_every_named_card_is_a_preset() -> None:
    assert set(card_names()) <= set(preset_names("gpus"))


def test_the_client_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rendered = SkyPilot().render(job(sixteen_gpus(), volume="runs"))
    with pytest.raises(EngineError, match="sky is not installed: pip install skypilot"):
        SkyPilot().problems(rendered, tmp_path)


def test_a_managed_jobs_way(sky: Path) -> None:
    """Submitted, looked at, its log read on from where it was, cancelled."""
    one = plan(hardware__device="cuda", hardware__gpu="l4")
    rendered = SkyPilot().render(job(one, bucket="s3://runs", spot="true"))
    (sky / "jobs-launch").write_text("Useful Commands\nManaged Job ID: 12\n")
    engine = SkyPilot()
    assert engine.submit(rendered, sky) == "12"

    rows = [{"job_id": 12, "status": "RECOVERING", "recovery_count": 1}, {"job_id": 3}]
    (sky / "jobs-queue").write_text(f"Fetching\n{json.dumps(rows, indent=2)}\n")
    assert engine.status("12") == JobStatus(state="running", detail="recovering; recovered once")

    (sky / "jobs-logs").write_text("step 1\n")
    text, offset = engine.log("12", sky, 0)
    (sky / "jobs-logs").write_text("step 1\nstep 2\n")
    assert (text, engine.log("12", sky, offset)[0]) == ("step 1\n", "step 2\n")

    (sky / "jobs-cancel").touch()
    engine.cancel("12")
    assert (sky / "asked").read_text().splitlines()[-1] == "jobs cancel --yes 12"


def test_a_clusters_job(sky: Path) -> None:
    rendered = SkyPilot().render(job(sixteen_gpus(), volume="runs"))
    (sky / "launch").touch()
    engine = SkyPilot()
    cluster = engine.submit(rendered, sky)
    assert cluster == job(sixteen_gpus()).label
    rows = [{"job_id": 2, "status": "FAILED_SETUP"}, {"job_id": 1, "status": "SUCCEEDED"}]
    (sky / "queue").write_text(json.dumps({cluster: rows}, indent=2))
    assert engine.status(cluster) == JobStatus(state="failed", detail="failed setup")
    (sky / "queue").write_text("{}")
    with pytest.raises(EngineError, match="a cluster is taken down 10 minutes after its job"):
        engine.status(cluster)


def test_a_secret_that_is_not_set(sky: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    reader = sky / "bin" / "python"
    reader.write_text('#!/bin/sh\necho "ValueError: Invalid task YAML" >&2\nexit 1\n')
    reader.chmod(0o755)
    rendered = SkyPilot().render(job(sixteen_gpus(), volume="runs", secret="HF_TOKEN"))
    found = SkyPilot().problems(rendered, sky)
    assert found == ["HF_TOKEN is not set here", "ValueError: Invalid task YAML"]


def test_a_status_that_is_not_known() -> None:
    assert status_of({"status": "DREAMING"}) == JobStatus(state="unknown", detail="dreaming")
