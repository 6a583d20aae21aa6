"""Checks of driver, CUDA, PyTorch and the cards: does each work with the next?"""

import re

from msgspec import structs

from launcher.compat.accelerate import NO_PEER_ACCESS, PEER_ACCESS_DRIVER, PEER_VARIABLES
from launcher.compat.requirements import INSTALL
from launcher.doctor.finding import Finding, failed, passed, warned
from launcher.doctor.subject import Subject
from planner.base.phrases import Joined, Phrase
from planner.base.units import format_gib
from planner.hardware.cluster import Cluster, has_bf16
from planner.hardware.cuda_toolkits import needed_driver, version_numbers
from planner.hardware.detect import cluster_from

UNKNOWN = Phrase("not checked: the driver does not answer")
XID = Phrase("see dmesg for Xid errors; restart the machine")
CUDA_BUILD = Phrase(
    "install a PyTorch build with CUDA: the selector at pytorch.org/get-started has it"
)


def driver(subject: Subject) -> Finding:
    """Check that the driver answers, and say which CUDA it runs."""
    reading = subject.machine.nvml
    if reading.problem is None and reading.driver_version is not None:
        return passed(
            Phrase(
                "{driver_version}, runs CUDA up to {cuda_version}",
                driver_version=reading.driver_version,
                cuda_version=reading.cuda_version or "?",
            )
        )
    if subject.without_driver:
        return warned(
            Phrase("no NVIDIA driver here: training runs on the CPU"),
            Phrase(
                "if this machine has an NVIDIA GPU, install its driver; in a container, "
                "start it with --gpus all"
            ),
        )
    return failed(
        reading.problem or Phrase("the driver does not report its version"),
        Phrase("restart the machine; if that does not help, reinstall the driver"),
    )


def cuda_and_torch(subject: Subject) -> Finding:
    """Check that PyTorch was built for a CUDA version that this driver can run."""
    torch, reading = subject.torch, subject.machine.nvml
    if torch is None:
        return failed(Phrase("PyTorch cannot be imported"), INSTALL)
    if subject.gpus_unknown:
        return passed(
            Phrase("PyTorch {version}; {unknown}", version=torch.version, unknown=UNKNOWN)
        )
    if not subject.gpus:
        return passed(
            Phrase(
                "PyTorch {version}; no GPU here that it would need CUDA for", version=torch.version
            )
        )
    if torch.cuda is None:
        return failed(
            Phrase(
                "PyTorch {version} is built for the CPU, and {gpus} here",
                version=torch.version,
                gpus=_are(len(subject.gpus)),
            ),
            CUDA_BUILD,
        )
    needed = needed_driver(torch.cuda, reading.driver_version)
    if needed is not None:
        return failed(
            Phrase(
                "PyTorch {version} needs driver {needed} for CUDA {cuda}, and "
                "{driver_version} runs CUDA {cuda_version} at most",
                version=torch.version,
                needed=needed,
                cuda=torch.cuda,
                driver_version=reading.driver_version,
                cuda_version=reading.cuda_version or "?",
            ),
            Phrase(
                "update the driver to {needed} or later, or install a PyTorch build for an "
                "older CUDA",
                needed=needed,
            ),
        )
    if not torch.available or torch.num_devices < len(subject.gpus):
        return failed(
            Phrase(
                "PyTorch {version} (CUDA {cuda}) finds {num_devices} of {number} "
                "{number[GPU|GPUs]}",
                version=torch.version,
                cuda=torch.cuda,
                num_devices=torch.num_devices,
                number=len(subject.gpus),
            ),
            Phrase(
                "run nvidia-smi and look for lost devices; check that /dev/nvidia* can be opened"
            ),
        )
    return passed(
        Phrase(
            "PyTorch {version}, CUDA {cuda}, NCCL {nccl}",
            version=torch.version,
            cuda=torch.cuda,
            nccl=torch.nccl or "-",
        )
    )


def _are(count: int) -> str:
    return Phrase("{count} {count[GPU is|GPUs are]}", count=count)


def architecture(subject: Subject) -> Finding:
    """Check that PyTorch has kernels for every card."""
    torch = subject.torch
    capabilities = sorted(
        {gpu.compute_capability for gpu in subject.gpus if gpu.compute_capability}
    )
    if subject.gpus_unknown:
        return passed(UNKNOWN)
    if not capabilities:
        return passed(Phrase("no GPU here that kernels would be needed for"))
    if torch is None or torch.cuda is None:
        return passed(Phrase("not checked: this needs a PyTorch with CUDA"))
    missing = [name for name in capabilities if not _has_kernels(name, torch.architectures)]
    if missing:
        return failed(
            Phrase(
                "PyTorch {version} has no kernels for compute capability {missing}, only for "
                "{architectures}",
                version=torch.version,
                missing=", ".join(missing),
                architectures=" ".join(torch.architectures),
            ),
            Phrase("install a PyTorch version that still supports this card"),
        )
    return passed(
        Phrase(
            "kernels for compute capability {capabilities}", capabilities=", ".join(capabilities)
        )
    )


def bf16(subject: Subject) -> Finding:
    """Check that what trains, GPU or processor, multiplies in bf16."""
    capabilities = [gpu.compute_capability for gpu in subject.gpus if gpu.compute_capability]
    if capabilities:
        weakest = min(capabilities, key=float)
        if has_bf16(weakest):
            return passed(Phrase("in tensor cores (compute capability {weakest})", weakest=weakest))
        return warned(
            Phrase(
                "compute capability {weakest} has no bf16, which begins with 8.0", weakest=weakest
            ),
            Phrase("nothing to do: plans made here use fp16 with loss scaling"),
        )
    if subject.machine.host.multiplies_bf16:
        return passed(Phrase("the processor has instructions for it"))
    return warned(
        Phrase("the processor emulates it, slowly"),
        Phrase("nothing to do: plans made here use fp32"),
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
        return passed(
            Phrase(
                "none; {device_name}, {cores} {cores[core|cores]}",
                device_name=cluster.accelerator.device_name,
                cores=cluster.cores,
            )
        )
    cards = _cards(cluster)
    if not cluster.notes:
        return passed(cards)
    remedy = (
        XID if subject.machine.nvml.lost else Phrase("a plan made here counts only what is free")
    )
    return warned(Joined(". ", [cards, Joined(" ", cluster.notes)]), remedy)


def _cards(cluster: Cluster) -> str:
    accelerator, count = cluster.accelerator, cluster.gpus_per_node
    times = f"{count} x " if count > 1 else ""
    link = {"nvlink": ", NVLink", "pcie": ", PCIe", "none": ""}[cluster.link]
    return Phrase(
        "{times}{device_name}, {gib} GiB free{link}",
        times=times,
        device_name=accelerator.device_name,
        gib=format_gib(accelerator.free_bytes),
        link=link,
    )


def peer_access(subject: Subject) -> Finding:
    """Check that GPUs reach each other, or that NCCL is kept from trying."""
    cards, environ = subject.gpus, subject.environ
    if subject.gpus_unknown:
        return passed(UNKNOWN)
    if len(cards) < 2:
        return passed(Phrase("not needed by one device"))
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
            return passed(
                Phrase("switched off by NCCL_P2P_DISABLE and NCCL_IB_DISABLE, as needed here")
            )
        return failed(
            Phrase(
                "{name} has none, and driver {version} reports that it has: runs hang or "
                "refuse to start",
                name=cards[0].name,
                version=version,
            ),
            Phrase(
                "export NCCL_P2P_DISABLE=1 NCCL_IB_DISABLE=1, or update the driver to {driver}",
                driver=PEER_ACCESS_DRIVER,
            ),
        )
    if linked and "NCCL_P2P_DISABLE" in disabled:
        return warned(
            Phrase("NVLink joins the GPUs, and NCCL_P2P_DISABLE=1 keeps NCCL from using it"),
            "unset NCCL_P2P_DISABLE",
        )
    if consumer:
        return passed(Phrase("none between these cards: NCCL goes through host memory"))
    return passed("NVLink" if linked else Phrase("over PCIe"))


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
