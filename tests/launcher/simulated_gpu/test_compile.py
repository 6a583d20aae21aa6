"""What is compiled, as far as it needs no CUDA build of PyTorch."""

from pathlib import Path

import pytest

from launcher.simulated_gpu.compile import (
    EMPTY_FUNCTIONS,
    SOURCES,
    compile_cuda,
    generated_functions,
    version_script,
)
from launcher.simulated_gpu.wanted_symbols import DRIVER_SONAMES, Wanted, defined_names, wanted_of
from tests.launcher.launching import launch, write_plan
from tests.launcher.simulated_gpu.c_programs import compiled

MOST_LINES = 250


def test_a_function_is_empty_only_where_it_is_listed() -> None:
    text = generated_functions(["cublasSgemm_v2", "cufftExec"], ["cublas*gemm*", "ncclSend"])
    assert text.splitlines()[-2:] == ["EMPTY(cublasSgemm_v2)", "UNKNOWN(cufftExec)"]


def test_names_have_the_versions_they_are_asked_for_by() -> None:
    versions = {"cudaMalloc": "libcudart.so.13", "cudaFree": "libcudart.so.13", "cuInit": ""}
    assert version_script(versions) == "libcudart.so.13 { global: cudaFree; cudaMalloc; };\n"


def test_no_listed_function_is_written_too(tmp_path: Path) -> None:
    """Else the list would say that it does nothing."""
    wanted = Wanted({"cudaFree": "libcudart.so.13"}, frozenset({"libcuda.so.1"}))
    library = compile_cuda(tmp_path, wanted, "13.0")
    assert (tmp_path / "libcuda.so.1").resolve() == library
    written = "\n".join(path.read_text() for path in SOURCES.glob("cuda/*.c"))
    names = [line for line in EMPTY_FUNCTIONS.read_text().split("\n") if line.isidentifier()]
    assert [name for name in names if f" {name}(" in written] == []


def test_what_a_library_wants_is_read_from_it(tmp_path: Path) -> None:
    needed = compiled(tmp_path, "libcudart.so.13", "int cudaFree(void *p) { return p != 0; }")
    wants = "int cudaFree(void *); int other(void); int f(void) { return cudaFree(0) + other(); }"
    user = compiled(tmp_path, "libuser.so", wants, needed)
    driver = tmp_path / "driver.c"
    driver.write_text("cuInit(0); cuLaunchKernelEx_t pointer; cuda(1);")
    wanted = wanted_of([user], [driver])
    assert wanted == Wanted(
        {"cudaFree": "", "cuInit": ""}, frozenset({"libcudart.so.13", *DRIVER_SONAMES})
    )


def test_defined_names_are_those_of_the_object(tmp_path: Path) -> None:
    library = compiled(tmp_path, "libcudart.so.13", "int cudaFree(void) { return 0; }")
    assert "cudaFree" in defined_names([library])


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.c")), ids=lambda path: path.name)
def test_sources_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_without_a_cuda_build_simulate_says_how_to_get_one(tmp_path: Path) -> None:
    import torch

    if torch.version.cuda is not None:
        pytest.skip("the CUDA build of torch is installed")
    write_plan(tmp_path, hardware__device="cuda")
    done = launch(tmp_path, "--rehearse", "--simulate", "h100")
    assert done.code == 2
    (line,) = done.errors.splitlines()
    assert line.startswith("error: --simulate needs a torch built with CUDA 12 or 13, and torch")
    assert "pip install torch===2.13.0" in line
