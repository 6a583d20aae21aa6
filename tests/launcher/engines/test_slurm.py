"""A plan as a Slurm job: the script, what is refused, and what Slurm says of a job.

tests/launcher/slurm has a real one.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.engines.client_command import ClientResult
from launcher.engines.engine import EngineError, JobStatus
from launcher.engines.job import Job
from launcher.engines.slurm import ENGINE, accounted
from launcher.engines.slurm_client import accounted_status, refusal_text, shown_status
from launcher.engines.submission import dry_run_text
from launcher.lifecycle.begin import StartOptions
from planner.base.errors import InvalidRequestError
from tests.launcher.golden import assert_golden
from tests.launcher.launching import launch, write_plan
from tests.launcher.plans import full, nodes, plan

EIGHT_GPUS: dict[str, Any] = {
    **full(),
    **nodes(2, 8, hardware__device="cuda", prediction__host_ram_bytes=300 * 2**30),
}
SHOWN = (
    "JobId=12 JobName=two nodes UserId=me(1000) JobState={state} Reason={reason} "
    "Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode={code} "
    "RunTime=00:00:05 TimeLimit=00:30:00 Partition=low NodeList={nodes} NumNodes=2 "
    "Command=/shared/runs/two nodes/job/job.sh Power="
)
"""The words of interest of a line of scontrol 22.05.8, as it prints them."""


def job(directory: str = "/shared/runs/two nodes", **settings: str) -> Job:
    return Job(
        plan=plan(**EIGHT_GPUS),
        directory=Path(directory),
        python="/opt/venv/bin/python",
        start=StartOptions(max_restarts=1),
        working_directory=Path("/shared/my data"),
        settings=settings,
    )


def test_two_nodes_with_gpus(tmp_path: Path) -> None:
    given = {"partition": "gpu", "account": "lab", "time": "12:00:00", "gres": "gpu:h100:8"}
    assert_golden("slurm-two-nodes.txt", dry_run_text(ENGINE, job(**given)), tmp_path)


def test_one_node_without(tmp_path: Path) -> None:
    one = Job(
        plan=plan(),
        directory=Path("/shared/runs/tiny-lora"),
        python="/opt/venv/bin/python",
        start=StartOptions(resume=True),
        working_directory=Path("/shared"),
        settings={"qos": "long", "constraint": "[rack1|rack2]", "exclude": "n7", "mem": "4G"},
    )
    assert_golden("slurm-one-node.txt", dry_run_text(ENGINE, one), tmp_path)


def test_bash_reads_the_script(tmp_path: Path) -> None:
    script = ENGINE.render(job("/shared/it's {50%} $HOME")).files["job.sh"]
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_nothing_of_the_environment_is_in_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names: Slurm carries the values."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    script = ENGINE.render(job(export="HF_TOKEN,PATH")).files["job.sh"]
    assert "#SBATCH --export=HF_TOKEN,PATH\n" in script
    assert "hf_secret" not in script


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"partitoin": "gpu"}, "slurm has no such setting. Did you mean 'partition'?"),
        ({"partition": "gpu low"}, "--with partition: "),
        ({"time": "noon"}, "--with time: "),
        ({"time": "3"}, "ends before anything is trained: the warning comes up to 180 s before"),
        ({"time": "10", "warning": "900"}, "ends before anything is trained"),
        ({"cpus_per_task": "0"}, "--with cpus_per_task: "),
        ({"mem": "4GiB"}, "--with mem: "),
        ({"gres": "gpu:h100:4"}, "requests 4 GPUs per node and the plan is for 8"),
        ({"export": "HF_TOKEN=hf_secret"}, "--with export: "),
    ],
)
def test_settings_that_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequestError, match="--with") as caught:
        ENGINE.render(job(**settings))
    assert said in str(caught.value)


@pytest.mark.parametrize("time", ["0", "0:00", "0-0"])
def test_no_time_limit(time: str) -> None:
    assert f"#SBATCH --time={time}\n" in ENGINE.render(job(time=time)).files["job.sh"]


@pytest.mark.parametrize("directory", ["/shared/two\nlines", "/shared/back\\slash"])
def test_a_folder_that_slurm_cannot_name(directory: str) -> None:
    with pytest.raises(InvalidRequestError, match="Slurm cannot read"):
        ENGINE.render(job(directory))


@pytest.mark.parametrize(
    ("state", "words", "status"),
    [
        ("PENDING", {"reason": "Resources"}, JobStatus(state="waiting", detail="Resources")),
        (
            "PENDING",
            {"reason": "BeginTime", "restarts": 2},
            JobStatus(state="waiting", detail="BeginTime, restarted 2 times"),
        ),
        ("RUNNING", {"nodes": "node[1-2]"}, JobStatus(state="running", detail="on node[1-2]")),
        ("COMPLETING", {}, JobStatus(state="running", detail="COMPLETING")),
        ("COMPLETED", {"nodes": "node1"}, JobStatus(state="finished", exit_code=0)),
        ("FAILED", {"code": "2:0"}, JobStatus(state="failed", detail="FAILED", exit_code=2)),
        ("FAILED", {"code": "0:9"}, JobStatus(state="failed", detail="FAILED", exit_code=137)),
        (
            "FAILED",
            {"code": "143:0", "reason": "NonZeroExitCode"},
            JobStatus(state="cancelled", detail="stopped by SIGTERM", exit_code=143),
        ),
        ("CANCELLED", {"code": "0:15"}, JobStatus(state="cancelled", detail="CANCELLED")),
        (
            "TIMEOUT",
            {"reason": "TimeLimit"},
            JobStatus(state="failed", detail="TIMEOUT, TimeLimit"),
        ),
        (
            "OUT_OF_MEMORY",
            {},
            JobStatus(state="failed", detail="OUT_OF_MEMORY, ask for more by --with mem=..."),
        ),
        ("NEW_STATE", {}, JobStatus(state="unknown", detail="NEW_STATE")),
    ],
)
def test_what_slurm_says_of_a_job(state: str, words: dict[str, Any], status: JobStatus) -> None:
    known = {"reason": "None", "restarts": 0, "code": "0:0", "nodes": "(null)"}
    assert shown_status(SHOWN.format(state=state, **known | words)) == status


def test_what_its_accounting_says() -> None:
    assert accounted_status("CANCELLED by 1000|0:15\n") == JobStatus(
        state="cancelled", detail="CANCELLED"
    )
    assert accounted_status("\n") is None


def test_its_accounting_is_asked_for_fields_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sacct(1) of 22.05 refuses a field that it does not know; the test's ``sacct`` does so too."""
    program = tmp_path / "sacct"
    program.write_text(
        "#!/bin/bash\n"
        "for option; do [[ $option == --format=* ]] && fields=${option#--format=}; done\n"
        '[[ $fields == State,ExitCode ]] || { echo "Invalid field requested" >&2; exit 1; }\n'
        '[[ "$*" == *--jobs=12 ]] && echo "CANCELLED by 0|0:15"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert accounted_status(accounted("12")) == JobStatus(state="cancelled", detail="CANCELLED")


def test_a_refusal_on_one_line() -> None:
    shown = "sbatch: error: invalid partition specified: lw\nallocation failure: Invalid name\n"
    refused = ClientResult(code=1, output="", errors=shown)
    assert refusal_text(refused) == (
        "invalid partition specified: lw; allocation failure: Invalid name"
    )


def test_a_log_is_read_on(tmp_path: Path) -> None:
    """A character of which a part is written comes whole the next time."""
    assert ENGINE.log("12", tmp_path, 0) == ("", 0)
    file = tmp_path / "slurm-12.out"
    content = "loss 2.0 → 1.5\n".encode()
    file.write_bytes(content[:10])
    text, offset = ENGINE.log("12", tmp_path, 0)
    assert text == "loss 2.0 "
    file.write_bytes(content)
    assert ENGINE.log("12", tmp_path, offset) == ("→ 1.5\n", len(content))


def test_slurm_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="sbatch is not installed here: --on slurm submits from"):
        ENGINE.problems(ENGINE.render(job()), tmp_path)


def test_an_engine_that_starts_a_finished_run_again(tmp_path: Path) -> None:
    write_plan(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.json").write_text("{}")
    done = launch(tmp_path, "--begin-or-resume")
    assert (done.code, done.errors) == (0, "run already holds the finished run\n")
