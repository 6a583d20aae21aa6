"""Probes that load the training stack, each in a process of its own: it may crash or hang.

python -m launcher.doctor.probes torch | all-reduce

Prints one line of JSON per result: {NAME: FINDING}, or {"facts": FACTS} about PyTorch.
"""

import json
import multiprocessing
import os
import queue
import socket
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from launcher.compat.torch_text import first_sentence
from launcher.doctor.finding import Finding, failed, passed
from launcher.doctor.subject import TorchFacts
from planner.base.phrases import Joined, Phrase
from planner.hardware.cluster import has_bf16

FACTS = "facts"
FOUR_BIT = Phrase("4-bit product")
ALL_REDUCE = "all-reduce"
LARGEST_ERROR = 0.02
"""Largest error of a product, as a share of its largest entry: bf16 has 8 bits of mantissa, and a
sum is over 256 products."""
COLLECTIVE_SECONDS = 10
ELEMENTS = 2**18
RANKS = 2
BUILD = Phrase("pip install --upgrade bitsandbytes; python -m bitsandbytes says more")
GLOO = Phrase("export GLOO_SOCKET_IFNAME=lo; check that this host's own name resolves (/etc/hosts)")
NCCL = Phrase(
    "run again with NCCL_DEBUG=INFO; if cards cannot reach each other, set NCCL_P2P_DISABLE=1; "
    "a container needs --shm-size=1g"
)


def say(name: str, content: dict[str, Any]) -> None:
    """Print one result for the process that started the probe."""
    print(json.dumps({name: content}), flush=True)


def torch_facts() -> TorchFacts:
    """Return what PyTorch, imported here, says of itself."""
    import torch

    available = torch.cuda.is_available()
    return TorchFacts(
        version=torch.__version__,
        cuda=torch.version.cuda,
        available=available,
        num_devices=torch.cuda.device_count() if available else 0,
        architectures=tuple(torch.cuda.get_arch_list()),
        nccl=_nccl_version() if available else None,
    )


def _nccl_version() -> str:
    import torch

    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, version))


def four_bit() -> Finding:
    """Multiply with packed weights, and compare with the product of the unpacked ones."""
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute = torch.float16 if device == "cuda" and not _has_bf16() else torch.bfloat16
    torch.manual_seed(0)
    weights = torch.randn(256, 256, dtype=compute, device=device)
    inputs = torch.randn(32, 256, dtype=compute, device=device)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    product = bitsandbytes.matmul_4bit(inputs, packed.t(), quant_state=state).float()
    unpacked = functional.dequantize_4bit(packed, state).float()
    wanted = inputs.float() @ unpacked.t()
    error = float((product - wanted).abs().max() / wanted.abs().max())
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    facts = f"bitsandbytes {bitsandbytes.__version__} on {where}, NF4, error {error:.1%}"
    return passed(facts) if error <= LARGEST_ERROR else failed(facts, BUILD)


def _has_bf16() -> bool:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return has_bf16(f"{major}.{minor}")


def all_reduce() -> Finding:
    """Have two ranks add up their tensors, by NCCL if there are two GPUs."""
    import torch
    import torch.distributed

    backend = "nccl" if torch.cuda.device_count() >= RANKS else "gloo"
    # Forked before any of CUDA is started, so that the ranks need not import PyTorch again.
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    port = _free_port()
    began = time.perf_counter()
    ranks = [
        context.Process(target=one_rank, args=(rank, backend, port, results), daemon=True)
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    try:
        answers = [results.get(timeout=2 * COLLECTIVE_SECONDS) for _ in ranks]
    except queue.Empty:
        answers = [Phrase("a rank gave no answer in {limit} s", limit=2 * COLLECTIVE_SECONDS)]
    seconds = time.perf_counter() - began
    problems = [answer for answer in answers if answer is not None]
    if problems:
        return failed(Joined(": ", [backend, problems[0]]), NCCL if backend == "nccl" else GLOO)
    on_cpu = Phrase(" on the CPU (NCCL needs two GPUs that PyTorch sees)")
    return passed(
        Phrase(
            "{backend}{why}, {ranks} {ranks[rank|ranks]}, {seconds:.1f} s including the start",
            backend=backend,
            why="" if backend == "nccl" else on_cpu,
            ranks=RANKS,
            seconds=seconds,
        )
    )


def one_rank(rank: int, backend: str, port: int, results: Any) -> None:
    """Run one rank and put its problem into ``results``: None if there is none."""
    import torch
    import torch.distributed

    try:
        device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        torch.distributed.init_process_group(
            backend,
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=RANKS,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        numbers = torch.full((ELEMENTS,), float(rank + 1), device=device)
        torch.distributed.all_reduce(numbers)
        right = bool((numbers == sum(range(1, RANKS + 1))).all())
        results.put(None if right else Phrase("the sum is wrong"))
    except Exception as error:  # any failure is the finding
        results.put(one_line(error))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def one_line(error: BaseException) -> str:
    """Return the first sentence of an error's message, or its type, in at most 160 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return first_sentence(lines[0])[:160]


def main() -> None:
    """Run the probe that the command line names, and end the process at once."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output, too
    sys.stdout = results
    if sys.argv[1] == "torch":
        say(FACTS, asdict(torch_facts()))
        try:
            say(FOUR_BIT, four_bit().as_message())
        except Exception as error:  # any failure is the finding
            say(FOUR_BIT, failed(one_line(error), BUILD).as_message())
    else:
        say(ALL_REDUCE, all_reduce().as_message())
    results.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
