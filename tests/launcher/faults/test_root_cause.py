"""Which failure a run is said to have ended by: never one that only follows from it."""

from pathlib import Path

import pytest

from launcher.compat.torch_text import before_elastic, ended_ranks
from launcher.faults.failure import Cause, Failure, failure_of
from launcher.faults.outcome import Outcome, failed_lines
from launcher.faults.rank_stages import RankPosition
from launcher.faults.root_cause import root_cause, silent_deaths
from launcher.run.run_directory import RunDirectory

ELASTIC_LOG = """\
Traceback (most recent call last):
  File "launcher/training/rank.py", line 31, in <module>
ImportError: libcudart.so.12: cannot open shared object file

W1128 15:03:17.070000 8276 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process
E1128 15:03:17.193000 8276 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode
Traceback (most recent call last):
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 10)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_02:40:59
  host      : localhost
  rank      : 3 (local_rank: 3)
  exitcode  : -9 (pid: 8240)
  error_file: <N/A>
"""
PLACES = [
    RankPosition(
        rank=n, process=10 + n, stage="save", step=2, passed=9, entered_at=float(n), began=n
    )
    for n in range(3)
]


def told(cause: Cause, rank: int, at: float = 50.0) -> Failure:
    return Failure(cause=cause, rank=rank, stage="save", step=2, message="", at=at)


@pytest.mark.parametrize(
    ("failures", "exit_codes", "rank"),
    [
        pytest.param([told("not_saved", 0)], {0: 1, 1: -9}, 1, id="killed while saving"),
        pytest.param([told("lost_peer", 0)], {0: 1, 1: 3}, 1, id="ended by a library"),
        pytest.param([told("other", 0)], {0: 1, 1: -11}, 1, id="crashed"),
        pytest.param([told("not_saved", 0)], {0: 1, 1: -6}, 0, id="aborted for its lost peer"),
        pytest.param([told("lost_peer", 0)], {0: 1, 1: -6}, 1, id="aborted by itself"),
        pytest.param([told("out_of_memory", 0)], {0: 1, 1: -9}, 0, id="memory"),
        pytest.param([told("other", 0)], {0: 1, 1: -15, 2: -15}, 0, id="ended by elastic"),
        pytest.param([], {0: -15, 1: -9, 2: -15}, 1, id="killed before all others"),
        pytest.param(
            [told("lost_peer", 0, at=49.0), told("other", 1)], {0: 1, 1: 1}, 1, id="its error"
        ),
        pytest.param([told("other", 0, at=51.0), told("other", 1)], {0: 1, 1: 1}, 1, id="first"),
    ],
)
def test_the_failure_that_the_others_follow_from(
    failures: list[Failure], exit_codes: dict[int, int], rank: int
) -> None:
    found = root_cause([*failures, *silent_deaths(exit_codes, failures, PLACES)])
    assert found is not None
    assert found.rank == rank


def test_a_rank_that_died_is_told_with_its_place() -> None:
    killed, ended = silent_deaths({1: -9, 7: 3}, [], PLACES)
    assert str(killed) == (
        "rank 1 (save of step 2) was killed by signal 9: the system ran out of memory?"
    )
    assert str(ended) == "rank 7 (load) ended with exit code 3"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "RuntimeError",
            "[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection",
        ),
        ("DistBackendError", "NCCL error: remote process exited or there was a network error"),
    ],
)
def test_a_lost_peer_is_known_by_its_error(name: str, message: str) -> None:
    error = type(name, (RuntimeError,), {})(message)
    assert failure_of(error, rank=0, stage="save", step=2).cause == "lost_peer"


def test_memory_that_nccl_lacks_is_memory() -> None:
    """Its buffers are not PyTorch's; a fallback follows."""
    error = type("DistBackendError", (RuntimeError,), {})(
        "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error, NCCL version 2.29.7\n"
        "ncclUnhandledCudaError: Call to CUDA or NVML function failed.\n"
        "Last error:\nCuda failure 2 'out of memory'"
    )
    assert failure_of(error, rank=1, stage="backward", step=1).cause == "out_of_memory"


def test_a_failed_gpu_is_told_with_what_to_do(tmp_path: Path) -> None:
    """An error that a program causes is not one of them."""
    text = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported"
    failure = failure_of(RuntimeError(text), rank=1, stage="forward", step=7)
    (line,) = failed_lines(RunDirectory(tmp_path), Outcome(code=1, failure=failure))
    assert line.startswith(
        "error: the GPU of rank 1 failed (forward of step 7; CUDA error: uncorrectable ECC error "
        "encountered): its memory is faulty: nvidia-smi -q -d ECC"
    )
    own = RuntimeError("CUDA error: device-side assert triggered")
    assert failure_of(own, rank=1, stage="forward", step=7).cause == "other"


def test_every_rank_is_read_from_elastics_log(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    assert ended_ranks(log) == {}
    log.write_text(ELASTIC_LOG, encoding="utf-8")
    assert ended_ranks(log) == {0: -15, 3: -9}
    assert before_elastic(log)[-1] == "ImportError: libcudart.so.12: cannot open shared object file"
    log.write_text("nothing of the kind", encoding="utf-8")
    assert ended_ranks(log) == {}


def test_a_rank_that_fails_as_it_imports_is_told_in_its_own_words(tmp_path: Path) -> None:
    """It has no log of its own yet."""
    run = RunDirectory(tmp_path)
    run.logs.mkdir()
    run.launcher_log.write_text(ELASTIC_LOG, encoding="utf-8")
    (died,) = silent_deaths({3: 1}, [], [])
    first, *said = failed_lines(run, Outcome(code=1, failure=died))
    assert first == (
        f"error: training failed: rank 3 (load) ended with exit code 1. From {run.launcher_log}:"
    )
    assert said[-1] == "  ImportError: libcudart.so.12: cannot open shared object file"
