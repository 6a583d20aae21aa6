"""What PyTorch writes and reads as text: logs, messages, options. Imports nothing of it.

read: PyTorch 2.13.0.
"""

import re
from pathlib import Path

PEER_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""Class names of the errors that say only that another rank does not answer any more."""
_GLOO = "gloo/transport/"
"""Part of the messages of gloo's errors of connection, which are plain ``RuntimeError``."""

OUT_OF_MEMORY = "out of memory"
"""What NCCL's last error says where a buffer of its own finds no memory on the GPU.

read: nccl/src/include/checks.h at 2.29, CUDACHECK.
"""
DEVICE_REMEDIES = {
    "uncorrectable ECC error": "its memory is faulty: nvidia-smi -q -d ECC,ROW_REMAPPER counts it; "
    "reset the GPU (nvidia-smi --gpu-reset) or leave it out with CUDA_VISIBLE_DEVICES",
    "uncorrectable NVLink error": "nvidia-smi nvlink -e counts it; check the bridge, or leave the "
    "GPU out with CUDA_VISIBLE_DEVICES",
    "unspecified launch failure": "dmesg names it (NVRM: Xid); if it comes again, reset the GPU "
    "(nvidia-smi --gpu-reset) or leave it out with CUDA_VISIBLE_DEVICES",
    "unknown error": "dmesg names it (NVRM: Xid; 79 is a GPU that has fallen off the bus: check "
    "its power and its seat); reset the GPU or reboot",
    "busy or unavailable": "another process holds it alone, or its compute mode forbids a second "
    "one: nvidia-smi -q -d COMPUTE shows it",
}
"""What to do about CUDA's errors that no program causes, by their text.

read: cuda.h of CUDA 13.0, CUresult; the Xid errors of NVIDIA's GPU deployment documentation.
"""
_DEVICE_ERROR = "CUDA error: "
"""read: c10/cuda/CUDAException.cpp."""

KEEP_ALIVE_SECONDS = 5.0
"""Seconds between two heartbeats of a node of torch elastic, by its clock."""
KEEP_ALIVE_ATTEMPTS = 3
"""Number of intervals after which the others consider a silent node dead.

read: torch/distributed/elastic/rendezvous/dynamic_rendezvous.py, create_handler and _sanitize.
"""
SEPARATE_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Variable with which ranks meet in a store of their own, not in that of torch elastic.

read: torch/distributed/elastic/rendezvous/dynamic_rendezvous.py, next_rendezvous.
"""

_ENDED = re.compile(r"^\s*rank\s*:\s*(\d+).*?^\s*exitcode\s*:\s*(-?\d+)", re.DOTALL | re.M)
"""read: torch/distributed/elastic/multiprocessing/errors/__init__.py."""
_ELASTIC_LINE = re.compile(r"^[A-Z]\d{4} .*torch/distributed/elastic/", re.M)
"""read: torch/_logging: level, month and day, then time, process and place."""
_SOURCE_PLACE = re.compile(r"\[enforce fail at [^\]]*\] [^.]*\. ")
_GUESS = ". This may indicate"
_ROOM = re.compile(
    r"of which ([\d.]+) (\w+) is free.*this process has ([\d.]+) (\w+) memory in use", re.DOTALL
)
"""Of an error of CUDA's allocator; NVML may not say what the process has in use.

read: libc10_cuda.so, the text of torch.OutOfMemoryError.
"""
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_REFUSED_PICKLE = "Weights only"
"""read: torch/serialization.py, load."""


def rendezvous_options(
    *, hosts_store: bool, join_timeout_s: int, clocks_agree: bool
) -> dict[str, int]:
    """Return torch elastic's options for one of several nodes.

    Where clocks may disagree, no node is taken for dead while the nodes may still join.
    read: torch/distributed/elastic/rendezvous/c10d_rendezvous_backend.py (is_host) and
    dynamic_rendezvous.py (the others).
    """
    options = {"is_host": int(hosts_store), "join_timeout": join_timeout_s}
    if not clocks_agree:
        options["keep_alive_max_attempt"] = join_timeout_s
    return options


def ended_ranks(log_file: Path) -> dict[int, int]:
    """Return the exit code by failed rank, from torch elastic's summary; -n for a signal n.

    Elastic itself ends the remaining ranks with SIGTERM. Its root cause is the rank that it looked
    at first, whichever was the first to fail.
    """
    return {int(rank): int(code) for rank, code in _ENDED.findall(_read(log_file))}


def before_elastic(log_file: Path) -> list[str]:
    """Return the lines that ranks printed before they had logs of their own, as while importing."""
    text = _read(log_file)
    first_line = _ELASTIC_LINE.search(text)
    printed = text[: first_line.start()] if first_line is not None else text
    return [line for line in printed.splitlines() if line.strip()]


def is_connection_error(error: BaseException) -> bool:
    """Return whether gloo raised the error because another rank does not answer any more."""
    return _GLOO in str(error)


def device_remedy(message: str) -> str | None:
    """Return what to do about a GPU that failed; None if the message is of another error.

    >>> device_remedy("CUDA error: unknown error")[:14]
    'dmesg names it'
    """
    if not message.startswith(_DEVICE_ERROR):
        return None
    remedies = (remedy for text, remedy in DEVICE_REMEDIES.items() if text in message)
    return next(remedies, None)


def is_refused_pickle(error: BaseException) -> bool:
    """Return whether ``torch.load`` raised the error because a file holds more than tensors."""
    return _REFUSED_PICKLE in str(error)


def room_bytes(message: str) -> int | None:
    """Return the bytes of a GPU that a process could have when its memory ran out, or None.

    That is what was free and what the process had itself; the rest is other processes'.

    >>> room_bytes(
    ...     "GPU 0 has a total capacity of 23.68 GiB of which 1.00 GiB is free. Process 7 has "
    ...     "2.25 GiB memory in use. Including non-PyTorch memory, this process has 512.00 MiB "
    ...     "memory in use. Of the allocated memory"
    ... )
    1610612736
    """
    match = _ROOM.search(message)
    if match is None:
        return None
    free, free_unit, had, had_unit = match.groups()
    return int(float(free) * _UNITS[free_unit] + float(had) * _UNITS[had_unit])


def first_sentence(message: str) -> str:
    """Return a message without its place in PyTorch's source and without its guess at the cause.

    >>> first_sentence("[enforce fail at device.cc:94] false. Unable to find address for: eth9")
    'Unable to find address for: eth9'
    """
    return _SOURCE_PLACE.sub("", message).split(_GUESS)[0]


def _read(log_file: Path) -> str:
    return log_file.read_text(encoding="utf-8", errors="replace") if log_file.is_file() else ""
