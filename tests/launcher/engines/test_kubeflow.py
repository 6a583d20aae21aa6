"""Kubeflow: what the cluster is given and asked. The real types: test_kubeflow_library.py.

A ``kubectl`` of the tests stands in for the client, and answers as a cluster does.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.engines.engine import EngineError, JobStatus
from launcher.engines.kubeflow import Kubeflow, exit_code_of, in_order, status_of
from launcher.engines.kubeflow_job import KubeflowSettings, lasting
from launcher.engines.readable_yaml import yaml_text
from launcher.lifecycle.begin import StartOptions
from planner.base.errors import InvalidRequestError
from tests.launcher.engines.jobs import job, sixteen_gpus
from tests.launcher.golden import assert_golden
from tests.launcher.plans import plan

TRAIN_JOB = "trainjob.yaml"
LASTING = "claim-and-plan.yaml"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers with the file named like its verb and kind; remembers what it was asked."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        'while [ "${1#--}" != "$1" ]; do shift 2; done\n'
        f'[ -f "{tmp_path}/$1-$2" ] && exec cat "{tmp_path}/$1-$2"\nexec cat "{tmp_path}/$1"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_two_nodes(tmp_path: Path) -> None:
    """With a word in the place of the plan, which has tests of its own."""
    which = job(sixteen_gpus())
    rendered = Kubeflow().render(which)
    plan_there = yaml.safe_load_all(rendered.files[LASTING])
    assert list(plan_there)[1]["data"]["plan.yaml"].startswith("schema_version: 1\n")
    rest = yaml_text(*lasting(which, "plan\n", KubeflowSettings()))
    commands = "\n".join(" ".join(command) for command in rendered.commands)
    text = f"{rest}---\n{rendered.files[TRAIN_JOB]}---\n{commands}\n"
    assert_golden("kubeflow.txt", text, tmp_path)


def test_every_setting(tmp_path: Path) -> None:
    given = {
        "image": "example.com/tuneplan:1",
        "runtime": "torch-big",
        "namespace": "team",
        "context": "arn:aws:eks:eu:1:cluster/train",
        "claim": "shared-runs",
        "secret": "hub",
        "node_selector": "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3",
    }
    rendered = Kubeflow().render(
        replace(job(sixteen_gpus(), **given), start=StartOptions(max_restarts=1))
    )
    assert [document["kind"] for document in documents(rendered.files[LASTING])] == ["ConfigMap"]
    commands = "\n".join(" ".join(command) for command in rendered.commands)
    text = f"{rendered.files[TRAIN_JOB]}---\n{commands}\n"
    assert_golden("kubeflow-settings.txt", text, tmp_path)


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def test_one_node_needs_no_meeting_and_no_shared_claim() -> None:
    rendered = Kubeflow().render(job(plan(), size="7Gi", storage_class="fast"))
    claim = documents(rendered.files[LASTING])[0]["spec"]
    assert claim["accessModes"] == ["ReadWriteOnce"]
    assert claim["resources"]["requests"]["storage"] == "7Gi"
    assert claim["storageClassName"] == "fast"
    assert "--rdzv-endpoint" not in rendered.files[TRAIN_JOB]
    assert "nvidia.com/gpu" not in rendered.files[TRAIN_JOB]


def test_no_secret_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    rendered = Kubeflow().render(job(sixteen_gpus(), secret="hub"))
    assert "hf_very_secret" not in str(rendered)
    environment = documents(rendered.files[TRAIN_JOB])[0]["spec"]["trainer"]["env"]
    reference = {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert environment[-1] == {"name": "HF_TOKEN", "valueFrom": reference}


def test_data_on_this_machines_disk(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.touch()
    with pytest.raises(InvalidRequestError, match=r"put it on the claim .* \(/tuneplan/...\)"):
        Kubeflow().render(job(plan(data__source=str(data))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"namespaces": "a"}, "Did you mean 'namespace'?"),
        ({"size": "100GB"}, "--with size"),
        ({"node_selector": "big"}, "--with node_selector"),
        ({"image": ""}, "--with image"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequestError, match="--with") as caught:
        Kubeflow().render(job(sixteen_gpus(), **settings))
    assert said in str(caught.value)


def test_the_client_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="kubectl is not installed: apt-get install"):
        Kubeflow().problems(Kubeflow().render(job(sixteen_gpus())), tmp_path)


def test_a_cluster_that_refuses(kubectl: Path) -> None:
    """The server is asked to check both files, and keeps nothing of them."""
    rendered = Kubeflow().render(job(sixteen_gpus(), context="west"))
    (kubectl / "apply").touch()
    found = Kubeflow().problems(rendered, kubectl)
    assert found == [f"cat: {kubectl}/create: No such file or directory"]
    asked = (kubectl / "asked").read_text().splitlines()
    assert asked == [
        f"--context west apply --filename {LASTING} --dry-run=server",
        f"--context west create --filename {TRAIN_JOB} --output json --dry-run=server",
    ]


def test_a_jobs_way(kubectl: Path) -> None:
    """Submitted, looked at, its log read on from where it was, cancelled."""
    context = "arn:aws:eks:eu:1:cluster/train"
    rendered = Kubeflow().render(job(sixteen_gpus(), context=context))
    (kubectl / "apply").touch()
    created = {"metadata": {"name": "tuneplan-x-abcde", "namespace": "team"}}
    (kubectl / "create").write_text(json.dumps(created))
    engine = Kubeflow()
    job_id = engine.submit(rendered, kubectl)
    assert job_id == f"{context}/team/tuneplan-x-abcde"

    running = {"jobsStatus": [{"name": "node", "ready": 1}]}
    (kubectl / "get-trainjob").write_text(json.dumps({"status": running}))
    assert engine.status(job_id) == JobStatus(state="running")

    first = "[pod/a/node] 2026-01-01T00:00:01Z one\n[pod/a/node] 2026-01-01T00:00:03Z three\n"
    (kubectl / "logs").write_text(first)
    text, offset = engine.log(job_id, kubectl, 0)
    assert text == "[pod/a/node] one\n[pod/a/node] three\n"
    (kubectl / "logs").write_text(f"{first}[pod/b/node] 2026-01-01T00:00:04Z four\n")
    assert engine.log(job_id, kubectl, offset)[0] == "[pod/b/node] four\n"

    (kubectl / "delete").touch()
    engine.cancel(job_id)
    asked = (kubectl / "asked").read_text().splitlines()[-1]
    where = f"--context {context} --namespace team"
    assert asked == f"{where} delete trainjob tuneplan-x-abcde --wait=false"
    (kubectl / "get-trainjob").write_text("")
    assert engine.status(job_id).state == "cancelled"


def test_a_failed_job_has_its_pods_exit_code(kubectl: Path) -> None:
    failed = {"conditions": [{"type": "Failed", "status": "True", "message": "a pod failed"}]}
    (kubectl / "get-trainjob").write_text(json.dumps({"status": failed}))
    ended = {"terminated": {"exitCode": 7, "finishedAt": "2026-01-01T00:00:09Z"}}
    status = {"containerStatuses": [{"name": "node", "state": ended}]}
    (kubectl / "get-pods").write_text(json.dumps({"items": [{"status": status}]}))
    assert Kubeflow().status("/team/x") == JobStatus(
        state="failed", detail="a pod failed", exit_code=7
    )


def test_how_it_ended() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "JobsFailed", "message": "a pod"}
    suspended = {"type": "Suspended", "status": "False"}
    assert status_of({"conditions": [suspended, failed]}) == JobStatus(
        state="failed", detail="JobsFailed: a pod"
    )
    assert status_of({"conditions": [{"type": "Complete", "status": "True"}]}).state == "finished"
    assert status_of({}).state == "waiting"


def test_the_exit_code_is_the_first_failures() -> None:
    def pod(code: int, at: str) -> dict[str, Any]:
        ended = {"exitCode": code, "finishedAt": at}
        container = {"name": "node", "state": {"terminated": ended}}
        return {"status": {"containerStatuses": [container]}}

    pods = [pod(1, "2026-01-01T00:00:09Z"), pod(7, "2026-01-01T00:00:02Z"), pod(0, "2026")]
    assert exit_code_of(pods) == 7
    assert exit_code_of([{"status": {}}]) is None


def test_lines_of_all_nodes_are_in_order() -> None:
    log = "[pod/a/node] 2T x y\n[pod/a/node] 4T\n[pod/b/node] 3T z\n"
    assert in_order(log) == ["[pod/a/node] x y", "[pod/b/node] z"]
