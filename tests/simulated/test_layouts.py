"""Our declarations of CUDA's types have the layout of the headers in Triton's wheel."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from launcher.simulated_gpu.compile import SOURCES

PAIRS = {
    "pointer_attributes": (
        "struct cudaPointerAttributes",
        {"kind": "type", "device_pointer": "devicePointer"},
    ),
    "function_attributes": (
        "struct cudaFuncAttributes",
        {
            "max_threads_per_block": "maxThreadsPerBlock",
            "binary_version": "binaryVersion",
            "max_dynamic_shared_bytes": "maxDynamicSharedSizeBytes",
        },
    ),
    "launch_configuration": (
        "cudaLaunchConfig_t",
        {"stream": "stream", "num_attributes": "numAttrs"},
    ),
    "physical_properties": (
        "CUmemAllocationProp",
        {"location": "location.id", "flags": "allocFlags"},
    ),
    "device_properties": (
        "struct cudaDeviceProp",
        {
            "total_bytes": "totalGlobalMem",
            "major": "major",
            "multiprocessors": "multiProcessorCount",
            "pci_bus": "pciBusID",
            "l2_bytes": "l2CacheSize",
            "threads_per_multiprocessor": "maxThreadsPerMultiProcessor",
            "shared_per_multiprocessor": "sharedMemPerMultiprocessor",
            "shared_per_block_optin": "sharedMemPerBlockOptin",
            "reserved_shared_per_block": "reservedSharedMemPerBlock",
            "cluster_launch": "clusterLaunch",
        },
    ),
}
"""Our type, theirs, and fields of ours by theirs."""
ATTRIBUTES = {
    "L2_BYTES": "L2_CACHE_SIZE",
    "MULTIPROCESSORS": "MULTIPROCESSOR_COUNT",
    "SHARED_PER_BLOCK_OPTIN": "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    "VIRTUAL_MEMORY": "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED",
    "BLOCKS_PER_MULTIPROCESSOR": "MAX_BLOCKS_PER_MULTIPROCESSOR",
    "RESERVED_SHARED_PER_BLOCK": "RESERVED_SHARED_MEMORY_PER_BLOCK",
    "MEMORY_POOLS": "MEMORY_POOLS_SUPPORTED",
    "CLUSTER_LAUNCH": "CLUSTER_LAUNCH",
    "PCI_BUS": "PCI_BUS_ID",
    "FILE_DESCRIPTOR_HANDLES": "HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED",
}
"""Keys of ours by theirs, which begin with CU_DEVICE_ATTRIBUTE_."""


def program(*, ours: bool) -> str:
    """C that prints sizes, offsets and keys of one side."""
    include = '"api.h"' if ours else "<cuda.h>\n#include <driver_types.h>"
    lines = ["#include <stdio.h>", "#include <stddef.h>", f"#include {include}", "int main(void) {"]
    for mine, (theirs, fields) in PAIRS.items():
        name = mine if ours else theirs
        lines.append(f'printf("{mine} %zu\\n", sizeof({name}));')
        for own, other in fields.items():
            field = own if ours else other
            lines.append(f'printf("{mine}.{own} %zu\\n", offsetof({name}, {field}));')
    for own, other in ATTRIBUTES.items():
        key = own if ours else f"CU_DEVICE_ATTRIBUTE_{other}"
        lines.append(f'printf("{own} %d\\n", (int){key});')
    return "\n".join([*lines, "return 0; }"])


def printed(source: str, include: Path, folder: Path, *flags: str) -> str:
    """Compile and run."""
    (folder / "layout.c").write_text(source)
    compiler = [
        "cc",
        *flags,
        f"-I{include}",
        str(folder / "layout.c"),
        "-o",
        str(folder / "layout"),
    ]
    subprocess.run(compiler, check=True, capture_output=True)
    return subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout


def test_layouts_are_those_of_the_release(tmp_path: Path) -> None:
    spec = find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs Triton's wheel, which brings CUDA's headers")
    headers = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "include"
    release = re.search(r"^#define CUDA_VERSION (\d+)", (headers / "cuda.h").read_text(), re.M)
    assert release is not None
    flag = f"-DCUDA_VERSION={release[1]}"
    ours = printed(program(ours=True), SOURCES / "cuda", tmp_path, flag)
    assert ours == printed(program(ours=False), headers, tmp_path)
