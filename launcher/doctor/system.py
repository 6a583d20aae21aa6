"""Checks of what the operating system grants: shared memory, limits, a compiler, a disk."""

import os
import resource
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from launcher.doctor.finding import Finding, failed, passed, warned
from launcher.doctor.subject import Subject
from planner.base.phrases import Joined, Phrase
from planner.base.units import MIB, format_gib
from planner.hardware.machine_readings import ENOUGH_SHM_BYTES

SHARED_MEMORY = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")
CONTAINER_SHARED_BYTES = 64 * MIB
"""Docker's default."""
FEWEST_FILES = 256
USUAL_FILES = 1024
"""Usual soft limit. measured: one of two ranks on the CPU has 11 open files, torch elastic has 25;
every peer, channel and loading process adds sockets and shared buffers to that."""
DISK_BYTES = 128 * MIB
DISK_SECONDS = 2.0
CHUNK_BYTES = 4 * MIB
SLOW_BYTES_PER_S = 100 * 10**6
COMPILE_SECONDS = 20.0
COMPILED = (
    "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
)
"""Source that needs of a compiler what DeepSpeed's CPU Adam needs, and not the minute it takes.

read: deepspeed/ops/op_builder/cpu/builder.py at 0.19 (OpenMP), torch/utils/cpp_extension.py at
2.13 (C++20, Python's headers, ninja).
"""


def shared_memory(subject: Subject) -> Finding:
    """Check that ranks have room in ``/dev/shm`` to exchange tensors."""
    try:
        system = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        return failed(
            Joined(": ", [str(SHARED_MEMORY), error.strerror or ""]),
            Phrase("mount a tmpfs of 1 GiB there"),
        )
    return judge_shared(system.f_frsize * system.f_blocks, len(subject.gpus))


def judge_shared(total_bytes: int, num_gpus: int) -> Finding:
    """Judge the size of ``/dev/shm`` for ranks on that many GPUs."""
    size = Phrase("{folder} has {gib} GiB", folder=SHARED_MEMORY, gib=format_gib(total_bytes))
    remedy = Phrase(
        "docker run --shm-size=1g (or --ipc=host); outside a container, mount -o "
        "remount,size=1G {folder}",
        folder=SHARED_MEMORY,
    )
    if total_bytes >= ENOUGH_SHM_BYTES:
        return passed(size)
    if total_bytes <= CONTAINER_SHARED_BYTES and num_gpus > 1:
        return failed(
            Phrase(
                "{size}, too little for NCCL between {num_gpus} GPUs", size=size, num_gpus=num_gpus
            ),
            remedy,
        )
    return warned(Phrase("{size}, little for several ranks", size=size), remedy)


def locked_memory(_subject: Subject) -> Finding:
    """Check that RDMA may register its buffers, which counts as locking them.

    Pinned CUDA memory does not count.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    devices = sorted(INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []
    return judge_locked(soft, [device.name for device in devices])


def judge_locked(soft: int, infiniband: list[str]) -> Finding:
    """Judge the soft limit of locked memory, in bytes, for these InfiniBand adapters."""
    limit = (
        Phrase("no limit")
        if soft == resource.RLIM_INFINITY
        else Phrase("at most {soft:,.0f} MiB", soft=soft / MIB)
    )
    if soft == resource.RLIM_INFINITY or not infiniband:
        return passed(
            limit if infiniband else Phrase("{limit}; no InfiniBand that needs it", limit=limit)
        )
    return warned(
        Phrase(
            "{limit}, and NCCL registers more for {infiniband}",
            limit=limit,
            infiniband=", ".join(infiniband),
        ),
        Phrase(
            "ulimit -l unlimited; docker run --ulimit memlock=-1; LimitMEMLOCK=infinity "
            "for a service"
        ),
    )


def open_files(_subject: Subject) -> Finding:
    """Check that a process may open as many files and sockets as ranks do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = Phrase("at most {soft:,}", soft=soft)
    if soft >= USUAL_FILES:
        return passed(limit)
    reachable = hard == resource.RLIM_INFINITY or hard >= USUAL_FILES
    remedy = (
        f"ulimit -n {USUAL_FILES * 4 if hard >= USUAL_FILES * 4 else USUAL_FILES}"
        if reachable
        else Phrase(
            "raise the hard limit ({hard:,}): docker run --ulimit nofile=65536, or limits.conf",
            hard=hard,
        )
    )
    return (failed if soft < FEWEST_FILES else warned)(limit, remedy)


def cpu_adam(_subject: Subject) -> Finding:
    """Check that DeepSpeed can build the optimizer that offload runs on the CPU."""
    remedy = Phrase("Debian and Ubuntu: apt install g++ python3-dev; needed by offload only")
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:
        return warned(Phrase("no C++ compiler ({compiler})", compiler=compiler), remedy)
    if shutil.which("ninja") is None:
        return warned(
            Phrase("no ninja to build with"), Phrase("pip install ninja; needed by offload only")
        )
    problem = compile_error(compiler)
    if problem is not None:
        return warned(
            Phrase("{compiler} cannot build it: {problem}", compiler=compiler, problem=problem),
            remedy,
        )
    return passed(
        Phrase("{compiler} builds C++20 with OpenMP and Python's headers", compiler=compiler)
    )


def compile_error(compiler: str) -> str | None:
    """Return the compiler's first error; None if it builds the source."""
    headers = sysconfig.get_path("include")
    flags = ["-std=c++20", "-fopenmp", "-fPIC", "-shared", f"-I{headers}"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "built.so"
        try:
            done = subprocess.run(
                [compiler, *flags, "-x", "c++", "-", "-o", str(target)],
                input=COMPILED,
                capture_output=True,
                text=True,
                timeout=COMPILE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Phrase("it took more than {seconds:.0f} s", seconds=COMPILE_SECONDS)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [
        Phrase("no reason given")
    ]
    return lines[0].partition("error: ")[2] or lines[0]


def disk(subject: Subject) -> Finding:
    """Check how fast a short write reaches the disk that runs are written to."""
    try:
        rate, free = write_rate(subject.directory), shutil.disk_usage(subject.directory).free
    except OSError as error:
        return failed(
            Phrase(
                "{directory} cannot be written: {strerror}",
                directory=subject.directory,
                strerror=error.strerror,
            ),
            Phrase("run launch in a folder that you may write to, or name one with --output DIR"),
        )
    speed = Phrase(
        "{rate:,.0f} MB/s written, {gib} GiB free", rate=rate / 10**6, gib=format_gib(free, 1)
    )
    if rate < SLOW_BYTES_PER_S:
        return warned(
            Phrase(
                "{speed}: a checkpoint of 10 GB takes {minutes:,.0f} min",
                speed=speed,
                minutes=10**10 / rate / 60,
            ),
            Phrase("write runs to a local disk: --output DIR"),
        )
    return passed(speed)


def write_rate(directory: Path) -> float:
    """Return the bytes written per second, with the flush at the end; bounded in size and time.

    Raises ``OSError`` if the folder cannot be written.
    """
    chunk = os.urandom(CHUNK_BYTES)
    written, began = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=directory) as file:
        while written < DISK_BYTES and time.perf_counter() - began < DISK_SECONDS:
            written += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return written / (time.perf_counter() - began)
