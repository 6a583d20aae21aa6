"""Manifests in Kubeflow's own types, and the TrainJob against its definition's schema.

The schema is that of the types, which are generated from the same source as the definition (CRD):
no other key than theirs, and the limits of trainjob_limits.yaml.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.engines.kubeflow import Kubeflow
from planner.plan.schema import Plan
from tests.launcher.engines.jobs import job, sixteen_gpus
from tests.launcher.engines.libraries import environment, told_by
from tests.launcher.plans import plan

LIMITS = Path(__file__).parent / "trainjob_limits.yaml"
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
GENERATED_DIGITS = 5
"""That Kubernetes adds to generateName."""
CASES: dict[str, tuple[Plan, dict[str, str]]] = {
    "gpus": (sixteen_gpus(), {}),
    "cpu": (plan(), {"size": "1Gi", "storage_class": "fast"}),
    "settings": (
        sixteen_gpus(),
        {"image": "a/b:1", "claim": "c", "secret": "hub", "node_selector": "a=b"},
    ),
}
ROUND_TRIP = """
import json, sys, yaml
from kubeflow_trainer_api import models
kinds = {
    "TrainJob": models.TrainerV1alpha1TrainJob,
    "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim,
    "ConfigMap": models.IoK8sApiCoreV1ConfigMap,
}
documents = [each for path in sys.argv[1:] for each in yaml.safe_load_all(open(path))]
print(json.dumps([kinds[each["kind"]].from_dict(each).to_dict() for each in documents]))
"""
VALIDATE = """
import json, sys, yaml, jsonschema
from kubeflow_trainer_api import models
limits, *files = sys.argv[1:]
schema = models.TrainerV1alpha1TrainJob.model_json_schema(by_alias=True)
definitions = schema["$defs"]
for definition in [schema, *definitions.values()]:
    definition["additionalProperties"] = False
quantity = (
    r"^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$"
)
definitions["IoK8sApimachineryPkgApiResourceQuantity"] = {
    "anyOf": [{"type": "integer"}, {"type": "string", "pattern": quantity}]
}
for kind, properties in yaml.safe_load(open(limits)).items():
    for name, more in properties.items():
        known = definitions[f"TrainerV1alpha1{kind}"]["properties"]
        known[name] = {"allOf": [known[name], more]}
validator = jsonschema.Draft202012Validator(schema)
print(json.dumps([
    sorted(error.json_path for error in validator.iter_errors(yaml.safe_load(open(path))))
    for path in files
]))
"""


def written(tmp_path: Path, name: str) -> list[Path]:
    which, settings = CASES[name]
    paths = []
    for file_name, text in Kubeflow().render(job(which, **settings)).files.items():
        paths.append(tmp_path / f"{name}-{file_name}")
        paths[-1].write_text(text)
    return paths


def test_types_hold_every_key(tmp_path: Path) -> None:
    """A key that a type does not have is lost when it is written again."""
    paths = [path for name in CASES for path in written(tmp_path, name)]
    documents = [each for path in paths for each in yaml.safe_load_all(path.read_text())]
    assert told_by("kubeflow", ROUND_TRIP, *paths, home=tmp_path) == documents


def test_train_jobs_are_valid(tmp_path: Path) -> None:
    paths = [written(tmp_path, name)[-1] for name in CASES]
    assert told_by("kubeflow", VALIDATE, LIMITS, *paths, home=tmp_path) == [[]] * len(CASES)


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    def wrong(name: str, *path: str, value: Any) -> Path:
        content = yaml.safe_load(written(tmp_path, "gpus")[-1].read_text())
        section = content
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps(content))
        return file

    paths = [
        wrong("key", "spec", "trainer", "numNode", value=2),
        wrong("type", "spec", "trainer", "numNodes", value="2"),
        wrong("quantity", "spec", "trainer", "resourcesPerNode", "requests", "memory", value="1GB"),
        wrong("limit", "spec", "trainer", "args", value=["x" * 65537]),
        wrong("missing", "spec", "runtimeRef", value={}),
    ]
    found = told_by("kubeflow", VALIDATE, LIMITS, *paths, home=tmp_path)
    assert [bool(errors) for errors in found] == [True] * len(paths)


@pytest.mark.parametrize("name", ["tiny-lora", "2026.01.01 run_A", "---", "x" * 300])
def test_the_name_is_one_that_a_train_job_may_have(name: str) -> None:
    """RFC 1035, 63 characters at most, with what Kubernetes adds to it and to its pods."""
    which = job(sixteen_gpus())
    label = type(which)(plan=which.plan, directory=Path("/runs") / name, python="python").label
    assert LABEL.fullmatch(label)
    pod = f"{label}-{'x' * GENERATED_DIGITS}-node-0-0-{'x' * GENERATED_DIGITS}"
    assert len(pod) <= 63


def kubectl(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: apt-get install kubernetes-client")
    return subprocess.run(
        ["kubectl", *words],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )


def test_kubectl_reads_both_files(tmp_path: Path) -> None:
    """Without a cluster: it names what it finds in them."""
    asked = ("annotate", "--local", "read=yes", "--output", "name")
    done = [kubectl(tmp_path, *asked, "--filename", str(p)) for p in written(tmp_path, "gpus")]
    kinds = [[line.partition("/")[0] for line in each.stdout.splitlines()] for each in done]
    assert kinds == [["persistentvolumeclaim", "configmap"], ["trainjob.trainer.kubeflow.org"]]


def test_kubectl_has_every_option(tmp_path: Path) -> None:
    """Options are read before ``--help``, and one that it does not have ends with a code."""
    rendered = Kubeflow().render(job(sixteen_gpus(), context="c", namespace="n"))
    asked = [
        *((*command[1:], "--dry-run=server") for command in rendered.commands),
        ("get", "trainjob", "x", "--ignore-not-found", "--output", "json"),
        ("logs", "--selector", "a=b", "--container", "node", "--tail", "-1", "--prefix"),
        ("logs", "--timestamps"),
        ("delete", "trainjob", "x", "--wait=false"),
        ("get", "--no-such-option"),
    ]
    codes = [kubectl(tmp_path, *words, "--help").returncode for words in asked]
    assert codes == [0] * (len(asked) - 1) + [1]
