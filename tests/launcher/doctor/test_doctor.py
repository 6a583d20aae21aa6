"""Every check of ``launch --doctor``: what it says of a fault, and of nothing to fault."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from launcher.compat.requirements import Package
from launcher.doctor import driver_and_cards, examination, packages, system
from launcher.doctor.examination import CHECKS, Check, examine, print_table
from launcher.doctor.finding import Finding, failed, finding_of, passed, warned
from launcher.doctor.probe_runner import ending
from launcher.doctor.subject import Subject, TorchFacts
from planner.base.phrases import Phrase
from planner.base.preset_files import translations
from planner.base.units import GIB, MIB
from planner.hardware.detect import cluster_from, cuda_environment
from planner.hardware.machine_readings import (
    DeviceReading,
    HostReading,
    Machine,
    NvmlReading,
    PairReading,
    TorchReading,
)
from tests.launcher.launching import REPOSITORY
from tests.nvml.stand_in import build
from tests.nvml.stand_in import environment as on_machine

TORCH = TorchFacts(
    version="2.13.0+cu130",
    cuda="13.0",
    available=True,
    num_devices=2,
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120"),
    nccl="2.29.3",
)
CARD = DeviceReading(
    index=0,
    uuid="GPU-0",
    name="NVIDIA GeForce RTX 4090",
    card_name="NVIDIA GeForce RTX 4090",
    total_bytes=24_564 * MIB,
    reserved_bytes=356 * MIB,
    free_bytes=24_208 * MIB,
    compute_capability="8.9",
)
TWO = NvmlReading(
    devices=(CARD, structs.replace(CARD, index=1, uuid="GPU-1")),
    driver_version="580.65.06",
    cuda_version="13.0",
)
NO_GPU = NvmlReading(problem="There is no NVIDIA driver (libnvidia-ml.so.1) here")
HOST = HostReading(cpu_name="Some CPU", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB)


def subject(
    reading: NvmlReading = TWO,
    torch: TorchFacts | None = TORCH,
    environ: Mapping[str, str] | None = None,
) -> Subject:
    machine = Machine(nvml=reading, host=HOST, environment=cuda_environment(environ or {}))
    return Subject(machine=machine, environ=environ or {}, directory=Path.cwd(), torch=torch)


def with_cards(**changes: Any) -> NvmlReading:
    cards = tuple(structs.replace(card, **changes) for card in TWO.devices)
    return structs.replace(TWO, devices=cards)


OLD = structs.replace(TWO, driver_version="535.104.05", cuda_version="12.2")
MISMATCH = NvmlReading(problem="The NVIDIA driver's library and kernel module differ")
LOST = NvmlReading(driver_version="580.65.06", lost=("GPU 0 does not answer (GPU is lost).",))
BOTH_OFF = {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
ONE_LOST = structs.replace(
    TWO, devices=TWO.devices[:1], lost=("GPU 1 does not answer (GPU is lost).",)
)
UNKNOWN = "not checked: the driver does not answer"
NVLINK = structs.replace(
    with_cards(name="NVIDIA A100-SXM4-80GB"),
    pairs=(PairReading(one=0, other=1, nvlinks=12, p2p=True),),
)


@pytest.mark.parametrize(
    ("check", "given", "verdict", "words"),
    [
        (driver_and_cards.driver, subject(), "pass", "580.65.06, runs CUDA up to 13.0"),
        (driver_and_cards.driver, subject(NO_GPU), "warn", "training runs on the CPU"),
        (driver_and_cards.driver, subject(MISMATCH), "fail", "restart the machine"),
        (
            driver_and_cards.gpus,
            subject(),
            "pass",
            "2 x NVIDIA GeForce RTX 4090, 23.64 GiB free, PCIe",
        ),
        (driver_and_cards.gpus, subject(with_cards(free_bytes=GIB)), "warn", "is in use"),
        (driver_and_cards.gpus, subject(NO_GPU), "pass", "none; Some CPU, 8 cores"),
        (driver_and_cards.gpus, subject(LOST), "fail", "GPU 0 does not answer"),
        (driver_and_cards.gpus, subject(ONE_LOST), "warn", "see dmesg for Xid errors"),
        (driver_and_cards.gpus, subject(MISMATCH), "pass", UNKNOWN),
        (driver_and_cards.cuda_and_torch, subject(MISMATCH), "pass", UNKNOWN),
        (driver_and_cards.architecture, subject(MISMATCH), "pass", UNKNOWN),
        (driver_and_cards.peer_access, subject(MISMATCH), "pass", UNKNOWN),
        (driver_and_cards.cuda_and_torch, subject(), "pass", "CUDA 13.0, NCCL 2.29.3"),
        (
            driver_and_cards.cuda_and_torch,
            subject(torch=None),
            "fail",
            "pip install 'tuneplan[train]'",
        ),
        (driver_and_cards.cuda_and_torch, subject(NO_GPU), "pass", "no GPU here"),
        (
            driver_and_cards.cuda_and_torch,
            subject(torch=replace(TORCH, cuda=None)),
            "fail",
            "is built for the CPU, and 2 GPUs are here",
        ),
        (
            driver_and_cards.cuda_and_torch,
            subject(OLD),
            "fail",
            "needs driver 580 for CUDA 13.0, and 535.104",
        ),
        (
            driver_and_cards.cuda_and_torch,
            subject(OLD, torch=replace(TORCH, cuda="12.8")),
            "pass",
            "CUDA 12.8",
        ),
        (
            driver_and_cards.cuda_and_torch,
            subject(torch=replace(TORCH, num_devices=1)),
            "fail",
            "finds 1 of 2 GPUs",
        ),
        (driver_and_cards.architecture, subject(), "pass", "kernels for compute capability 8.9"),
        (
            driver_and_cards.architecture,
            subject(with_cards(compute_capability="6.1")),
            "fail",
            "6.1, only for",
        ),
        (
            driver_and_cards.architecture,
            subject(with_cards(compute_capability="12.1")),
            "pass",
            "12.1",
        ),
        (driver_and_cards.bf16, subject(), "pass", "compute capability 8.9"),
        (
            driver_and_cards.bf16,
            subject(with_cards(compute_capability="7.5")),
            "warn",
            "7.5 has no bf16",
        ),
        (driver_and_cards.bf16, subject(NO_GPU), "warn", "emulates"),
        (driver_and_cards.peer_access, subject(), "pass", "through host memory"),
        (
            driver_and_cards.peer_access,
            subject(OLD),
            "fail",
            "export NCCL_P2P_DISABLE=1 NCCL_IB_DISABLE=1",
        ),
        (driver_and_cards.peer_access, subject(OLD, environ=BOTH_OFF), "pass", "as needed here"),
        (driver_and_cards.peer_access, subject(NVLINK), "pass", "NVLink"),
        (
            driver_and_cards.peer_access,
            subject(NVLINK, environ=BOTH_OFF),
            "warn",
            "unset NCCL_P2P_DISABLE",
        ),
        (driver_and_cards.peer_access, subject(NO_GPU), "pass", "not needed"),
    ],
)
def test_cards(check: Any, given: Subject, verdict: str, words: str) -> None:
    finding: Finding = check(given)
    assert finding.verdict == verdict
    assert words in f"{finding.facts} {finding.remedy}"
    assert (finding.remedy is None) == (verdict == "pass")


def test_the_doctor_and_the_plan_agree_on_a_driver() -> None:
    """Both read presets/cuda.yaml; a driver without a CUDA version is judged too."""
    machine = Machine(
        nvml=structs.replace(OLD, cuda_version=None),
        host=HOST,
        environment={},
        torch=TorchReading(version="2.13.0+cu130", cuda="13.0"),
    )
    here = Subject(machine=machine, environ={}, directory=Path.cwd(), torch=TORCH)
    assert driver_and_cards.cuda_and_torch(here).verdict == "fail"
    assert any("CUDA 13 needs 580 or newer" in note for note in cluster_from(machine).notes)


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (system.judge_shared(64 * MIB, 2), "fail"),
        (system.judge_shared(64 * MIB, 0), "warn"),
        (system.judge_shared(512 * MIB, 2), "warn"),
        (system.judge_shared(8 * GIB, 8), "pass"),
        (system.judge_locked(64 * MIB, ["mlx5_0"]), "warn"),
        (system.judge_locked(64 * MIB, []), "pass"),
        (system.judge_locked(resource.RLIM_INFINITY, ["mlx5_0"]), "pass"),
    ],
)
def test_limits(finding: Finding, verdict: str) -> None:
    assert finding.verdict == verdict


@pytest.mark.parametrize(("soft", "verdict"), [(100, "fail"), (512, "warn"), (1024, "pass")])
def test_open_files_of_this_process(soft: int, verdict: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        finding = system.open_files(subject())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert finding.verdict == verdict
    assert verdict == "pass" or "ulimit -n" in str(finding.remedy)


def test_packages_against_their_declared_bounds() -> None:
    rich = Package(name="rich", bounds=">=13.7", installed="14.0", standing="tested")
    torch = Package(name="torch", bounds=">=2.11,<2.14", installed="2.13.0", standing="tested")
    assert packages.judge_packages([rich, torch]).verdict == "pass"
    old = packages.judge_packages([rich, replace(torch, installed="2.4.1", standing="too_old")])
    assert (old.verdict, old.facts) == ("fail", "older than needed: torch 2.4.1 (>=2.11,<2.14)")
    newer = replace(torch, installed="2.14.0", standing="newer_than_tested")
    new = packages.judge_packages([rich, newer])
    assert (new.verdict, new.facts) == ("warn", "newer than tested: torch 2.14.0 (>=2.11,<2.14)")
    assert str(new.remedy).startswith("pip install 'tuneplan[train]' installs tested versions;")
    missing = packages.judge_packages([rich, replace(torch, installed=None, standing="missing")])
    assert (missing.verdict, missing.facts) == ("fail", "not installed: torch")
    assert packages.judge_packages([]).facts == "tuneplan itself is not installed"
    assert packages.packages(subject()).verdict == "pass"


def test_compilers_that_cannot_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.cpu_adam(subject()).verdict == "pass"
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\necho 'x.cpp:1: fatal error: Python.h: No such file' >&2; exit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    finding = system.cpu_adam(subject())
    assert finding.verdict == "warn"
    assert finding.facts.endswith("cannot build it: Python.h: No such file")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert system.cpu_adam(subject()).facts == "no C++ compiler (no-such-compiler)"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert system.disk(replace(subject(), directory=tmp_path)).verdict in ("pass", "warn")
    assert system.disk(replace(subject(), directory=tmp_path / "gone")).verdict == "fail"


def test_how_a_probe_ended_in_words() -> None:
    assert ending(-11, "") == "the probe was killed by SIGSEGV"
    assert ending(1, "Traceback\nImportError: no bitsandbytes\n") == "ImportError: no bitsandbytes"
    assert ending(3, "") == "the probe ended with exit code 3"


FINDINGS = {
    "driver": passed("580.65.06, runs CUDA up to 13.0"),
    "open files": warned("at most 512", "ulimit -n 4096"),
    "4-bit product": failed(
        "bitsandbytes has no library for this CUDA version " * 3, "pip install --upgrade it"
    ),
}
TABLE = """\
pass  driver         580.65.06, runs CUDA up to 13.0
warn  open files     at most 512
                     -> ulimit -n 4096
fail  4-bit product  bitsandbytes has no library for this CUDA version
                     bitsandbytes has no library for this CUDA version
                     bitsandbytes has no library for this CUDA version
                     -> pip install --upgrade it

1 pass, 1 warn, 1 fail (2.5 s)
"""


def test_the_table_at_80_columns() -> None:
    screen = StringIO()
    print_table(FINDINGS, 2.5, Console(file=screen, width=80))
    assert "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines()) == TABLE


def test_the_exit_code_says_whether_something_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "findings_of", lambda *_: FINDINGS)
    assert examine(as_json=True) == 2
    document = json.loads(capsys.readouterr().out)
    assert [document[count] for count in ("passed", "warned", "failed")] == [1, 1, 1]
    assert document["checks"][1] == {
        "name": "open files",
        "verdict": "warn",
        "facts": "at most 512",
        "remedy": "ulimit -n 4096",
    }
    fine = {name: finding for name, finding in FINDINGS.items() if finding.verdict != "fail"}
    monkeypatch.setattr(examination, "findings_of", lambda *_: fine)
    assert examine(as_json=False) == 0
    assert "1 pass, 1 warn, 0 fail" in capsys.readouterr().out


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, dict[str, str]]]:
    """``launch --doctor`` on a machine with six real faults."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("doctor")
    machine = folder / "machine.txt"
    cards_text = (REPOSITORY / "tests/nvml/machines/two-rtx-4090.txt").read_text(encoding="utf-8")
    machine.write_text(
        cards_text.replace("550.54.15", "535.104.05").replace("12040", "12020"), encoding="utf-8"
    )
    (folder / "bitsandbytes").mkdir()
    (folder / "bitsandbytes" / "__init__.py").write_text(
        "raise ImportError('libbitsandbytes_cuda130.so: cannot open shared object file')"
    )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "--doctor", "--json"],
        cwd=folder,
        env={
            **on_machine(build(folder), machine),
            "PYTHONPATH": f"{folder}:{REPOSITORY}",
            "GLOO_SOCKET_IFNAME": "nowhere0",
            "CXX": "no-such-compiler",
        },
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, limit[1])),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {check["name"]: check for check in checks}


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("driver", "pass", "535.104.05"),
        ("GPUs", "warn", "2 x NVIDIA GeForce RTX 4090"),
        ("CUDA", "fail", "is built for the CPU, and 2 GPUs are here"),
        ("4-bit product", "fail", "libbitsandbytes_cuda130.so: cannot open shared object file"),
        ("all-reduce", "fail", "nowhere0"),
        ("peer access", "fail", "driver 535.104.05 reports that it has"),
        ("CPU Adam", "warn", "no C++ compiler (no-such-compiler)"),
        ("open files", "fail", "at most 200"),
        ("packages", "pass", "torch "),
    ],
)
def test_real_faults_are_found(
    examined: tuple[int, dict[str, dict[str, str]]], name: str, verdict: str, words: str
) -> None:
    code, checks = examined
    assert code == 2
    assert list(checks) == [check.name for check in CHECKS]
    assert (checks[name]["verdict"], words in checks[name]["facts"]) == (verdict, True), checks[
        name
    ]


def test_doctor_goes_without_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.cli.launch_command import launch
    from planner.base.errors import InvalidRequestError

    with pytest.raises(InvalidRequestError, match="PLAN and --doctor cannot be combined"):
        launch(Path("plan.yaml"), doctor=True)
    with pytest.raises(InvalidRequestError, match=r"name a plan: launch plan\.yaml"):
        launch()
    assert os.environ.get("NCCL_P2P_DISABLE") is None


def test_findings_are_said_in_chinese_and_come_back_from_a_probe() -> None:
    table = translations("zh")
    found = [check.look(made) for made in (subject(), subject(NO_GPU)) for check in PURE]
    found.append(ending_of_a_probe())
    for finding in found:
        back = finding_of(json.loads(json.dumps(finding.as_message())))
        assert back == finding
        for text in filter(None, (back.facts, back.remedy)):
            said = text.translated(table) if isinstance(text, Phrase) else text
            assert said != text or text in SAME_EVERYWHERE, text


def ending_of_a_probe() -> Finding:
    return failed(ending(-9, ""), "pip install x")


PURE = tuple(
    Check(name, look)
    for name, look in {
        "driver": driver_and_cards.driver,
        "GPUs": driver_and_cards.gpus,
        "CUDA": driver_and_cards.cuda_and_torch,
        "kernels": driver_and_cards.architecture,
        "bf16": driver_and_cards.bf16,
        "peer access": driver_and_cards.peer_access,
        "locked memory": system.locked_memory,
        "open files": system.open_files,
    }.items()
)
SAME_EVERYWHERE = {"NVLink", "pip install x"}
