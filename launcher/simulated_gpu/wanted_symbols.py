"""Names and sonames that compiled libraries need from NVIDIA's, read with binutils."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NAMES = re.compile(
    r"(__)?(cuda|cu[A-Z]|cublas|cudnn|cusparse|cusolver|curand|cufft|nvrtc|nvJitLink|nccl|nvshmem"
    r"|cufile|cupti|nvtx)"
)
SONAMES = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn|cusparse|cusparseLt|cusolver|curand|cufft|cufile|nvrtc"
    r"|nvJitLink|nccl|nvshmem_host|cupti|cuda|nvToolsExt)\.so"
)
DRIVER_NAMES = re.compile(r"\bcu[A-Z][a-z]\w*(?<!_t)\b")
DRIVER_SONAMES = ("libcuda.so.1", "libcuda.so")
"""The first is opened by name at run time; Triton before 3.3 links with the second."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be there before the libraries can be loaded."""

    versions: dict[str, str]
    """The symbol version of every name; empty where no version is requested."""
    sonames: frozenset[str]


def wanted_of(libraries: Iterable[Path], sources: Iterable[Path] = ()) -> Wanted:
    """Return what libraries and C sources need; raise CalledProcessError for a file that is not a
    library."""
    texts = [source.read_text(encoding="utf-8") for source in sources]
    versions = {name: "" for text in texts for name in DRIVER_NAMES.findall(text)}
    sonames = set(DRIVER_SONAMES)
    for library in libraries:
        needed = _sonames_of(library)
        if needed:
            versions |= _names_of(library)
            sonames |= needed
    return Wanted(versions, frozenset(sonames))


def _sonames_of(library: Path) -> set[str]:
    dynamic = tool_output("readelf", "--dynamic", "--wide", str(library))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    return {soname for soname in needed if SONAMES.match(soname)}


def _names_of(library: Path) -> dict[str, str]:
    listing = tool_output("nm", "-D", "--undefined-only", "--with-symbol-versions", str(library))
    versions = {}
    for line in listing.splitlines():
        name, _, version = line.split()[-1].partition("@")
        if NAMES.match(name):
            versions[name] = version.lstrip("@")
    return versions


def defined_names(objects: Iterable[Path]) -> set[str]:
    """Return the external names that object files define."""
    listing = tool_output("nm", "--defined-only", "--extern-only", *map(str, objects))
    return {line.split()[-1] for line in listing.splitlines() if len(line.split()) == 3}


def tool_output(*command: str) -> str:
    """Return what a tool prints; raise CalledProcessError where it fails."""
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return ended.stdout
