"""Checks of driver, CUDA, PyTorch and the cards: does each work with the next?"""

import re

from msgspec import structs

from launcher.compat.accelerate import NO_PEER_ACCESS, PEER_ACCESS_DRIVER, PEER_VARIABLES
from launcher.compat.requirements import INSTALL
from launcher.doctor.finding import Finding, failed, passed, warned
from launcher.doctor.subject import Subject
from planner.base.units import format_gib
from planner.hardware.cluster import Cluster, has_bf16
from planner.hardware.cuda_toolkits import needed_driver, version_numbers
from planner.hardware.detect import cluster_from

UNKNOWN = "not checked: the driver does not answer"
XID = "see dmesg for Xid errors; restart the machine"
CUDA_BUILD = "install a PyTorch build with CUDA: the selector at pytorch.org/get-started has it"


def driver(subject: Subject) -> Finding:
    """Check that the driver answers, and say which CUDA it runs."""
    reading = subject.machine.nvml
    if reading.problem is None and reading.driver_version is not None:
        return passed(f"{reading.driver_version}, runs CUDA up to {reading.cuda_version or '?'}")
    if subject.without_driver:
        return warned(
            "no NVIDIA driver here: training runs on the CPU",
            "if this machine has an NVIDIA GPU, install its driver; in a container, start it "
            "with --gpus all",
        )
    return failed(
        reading.problem or "the driver does not report its version",
        "restart the machine; if that does not help, reinstall the driver",
    )


def cuda_and_torch(subject: Subject) -> Finding:
    """Check that PyTorch was built for a CUDA version that this driver can run."""
    torch, reading = subject.torch, subject.machine.nvml
    if torch is None:
        return failed("PyTorch cannot be imported", INSTALL)
    if subject.gpus_unknown:
        return passed(f"PyTorch {torch.version}; {UNKNOWN}")
    if not subject.gpus:
        return passed(f"PyTorch {torch.version}; no GPU here that it would need CUDA for")
    if torch.cuda is None:
        return failed(
            f"PyTorch {torch.version} is built for the CPU, and {len(subject.gpus)} GPU"
            f"{'s are' if len(subject.gpus) > 1 else ' is'} here",
            CUDA_BUILD,
        )
    needed = needed_driver(torch.cuda, reading.driver_version)
    if needed is not None:
        return failed(
            f"PyTorch {torch.version} needs driver {needed} for CUDA {torch.cuda}, and "
            f"{reading.driver_version} runs CUDA {reading.cuda_version or '?'} at most",
            f"update the driver to {needed} or later, or install a PyTorch build for an older CUDA",
        )
    if not torch.available or torch.num_devices < len(subject.gpus):
        return failed(
            f"PyTorch {torch.version} (CUDA {torch.cuda}) finds {torch.num_devices} of "
            f"{len(subject.gpus)} GPUs",
            "run nvidia-smi and look for lost devices; check that /dev/nvidia* can be opened",
        )
    return passed(f"PyTorch {torch.version}, CUDA {torch.cuda}, NCCL {torch.nccl or '-'}")


def architecture(subject: Subject) -> Finding:
    """Check that PyTorch has kernels for every card."""
    torch = subject.torch
    capabilities = sorted(
        {gpu.compute_capability for gpu in subject.gpus if gpu.compute_capability}
    )
    if subject.gpus_unknown:
        return passed(UNKNOWN)
    if not capabilities:
        return passed("no GPU here that kernels would be needed for")
    if torch is None or torch.cuda is None:
        return passed("not checked: this needs a PyTorch with CUDA")
    missing = [name for name in capabilities if not _has_kernels(name, torch.architectures)]
    if missing:
        return failed(
            f"PyTorch {torch.version} has no kernels for compute capability {', '.join(missing)}, "
            f"only for {' '.join(torch.architectures)}",
            "install a PyTorch version that still supports this card",
        )
    return passed(f"kernels for compute capability {', '.join(capabilities)}")


def bf16(subject: Subject) -> Finding:
    """Check that what trains, GPU or processor, multiplies in bf16."""
    capabilities = [gpu.compute_capability for gpu in subject.gpus if gpu.compute_capability]
    if capabilities:
        weakest = min(capabilities, key=float)
        if has_bf16(weakest):
            return passed(f"in tensor cores (compute capability {weakest})")
        return warned(
            f"compute capability {weakest} has no bf16, which begins with 8.0",
            "nothing to do: plans made here use fp16 with loss scaling",
        )
    if subject.machine.host.multiplies_bf16:
        return passed("the processor has instructions for it")
    return warned(
        "the processor emulates it, slowly",
        "nothing to do: plans made here use fp32",
    )


def gpus(subject: Subject) -> Finding:
    """Check the cards as a plan would count them; PyTorch has a check of its own."""
    if subject.gpus_unknown:
        return passed(UNKNOWN)
    cluster = cluster_from(structs.replace(subject.machine, torch=None))
    if cluster.device == "cpu":
        lost = " ".join(subject.machine.nvml.lost)
        if lost:
            return failed(lost, XID)
        return passed(f"none; {cluster.accelerator.device_name}, {cluster.cores} cores")
    cards = _cards(cluster)
    if not cluster.notes:
        return passed(cards)
    remedy = XID if subject.machine.nvml.lost else "a plan made here counts only what is free"
    return warned(f"{cards}. {' '.join(cluster.notes)}", remedy)


def _cards(cluster: Cluster) -> str:
    accelerator, count = cluster.accelerator, cluster.gpus_per_node
    times = f"{count} x " if count > 1 else ""
    link = {"nvlink": ", NVLink", "pcie": ", PCIe", "none": ""}[cluster.link]
    return f"{times}{accelerator.device_name}, {format_gib(accelerator.free_bytes)} GiB free{link}"


def peer_access(subject: Subject) -> Finding:
    """Check that GPUs reach each other, or that NCCL is kept from trying."""
    cards, environ = subject.gpus, subject.environ
    if subject.gpus_unknown:
        return passed(UNKNOWN)
    if len(cards) < 2:
        return passed("not needed by one device")
    disabled = [name for name in PEER_VARIABLES if environ.get(name) == "1"]
    version = subject.machine.nvml.driver_version
    linked = any(pair.nvlinks for pair in subject.machine.nvml.pairs)
    consumer = any(NO_PEER_ACCESS in card.name for card in cards)
    if (
        consumer
        and version is not None
        and version_numbers(version) < version_numbers(PEER_ACCESS_DRIVER)
    ):
        if len(disabled) == len(PEER_VARIABLES):
            return passed("switched off by NCCL_P2P_DISABLE and NCCL_IB_DISABLE, as needed here")
        return failed(
            f"{cards[0].name} has none, and driver {version} reports that it has: runs hang or "
            "refuse to start",
            "export NCCL_P2P_DISABLE=1 NCCL_IB_DISABLE=1, or update the driver to "
            f"{PEER_ACCESS_DRIVER}",
        )
    if linked and "NCCL_P2P_DISABLE" in disabled:
        return warned(
            "NVLink joins the GPUs, and NCCL_P2P_DISABLE=1 keeps NCCL from using it",
            "unset NCCL_P2P_DISABLE",
        )
    if consumer:
        return passed("none between these cards: NCCL goes through host memory")
    return passed("NVLink" if linked else "over PCIe")


def _has_kernels(capability: str, architectures: tuple[str, ...]) -> bool:
    """Return whether kernels compiled for these architectures run on a card of that capability.

    A binary runs on its own major version from its minor one on; PTX on all later versions.
    Source: CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    major, minor = map(int, capability.split("."))
    for name in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name)
        if match is None:
            continue
        kind, built = match[1], (int(match[2]), int(match[3]))
        if kind == "compute" and built <= (major, minor):
            return True
        if built[0] == major and built[1] <= minor:
            return True
    return False
