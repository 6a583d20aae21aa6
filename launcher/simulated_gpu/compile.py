"""Compile the stand-ins: NVML alone, or all that an installed CUDA build of PyTorch wants.

One shared object carries the names of all libraries but NVML's, with the symbol versions that are
asked for; a link per soname points to it. Names that nobody wrote become functions that end the
run, or that do nothing where ``empty_functions.txt`` lists them.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path

from launcher.simulated_gpu.wanted_symbols import Wanted, defined_names, wanted_of
from launcher.storage.whole_folders import one_maker, whole_folder
from planner.base.errors import InvalidRequestError
from planner.base.user_folders import cache_directory
from planner.hardware.linux_host import read_torch

SOURCES = Path(__file__).parent / "csrc"
SHARED_SOURCES = ("machine.c", "ledger.c")
NVML_LIBRARY = "libnvidia-ml.so.1"
CUDA_LIBRARY = "libsimulated-cuda.so"
FLAGS = ("-std=gnu11", "-O1", "-fPIC", "-Wall", "-Wextra")
COMPILE_SECONDS = 300
EMPTY_FUNCTIONS = Path(__file__).with_name("empty_functions.txt")
CUDA_MAJORS = ("12", "13")
"""The major releases whose layouts csrc/cuda/api.h declares."""
HOW_TO_GET_TORCH = (
    "pip install torch==={version} triton cuda-bindings==13.* from PyPI, without its nvidia-* "
    "packages (--no-deps), in an environment of its own: make simulated does it"
)


def stand_ins() -> Path:
    """Return the folder of compiled stand-ins for the installed torch, made on first use.

    Raise InvalidRequestError without a CUDA build of torch, a C compiler or binutils.
    """
    libraries = cuda_libraries()
    key = blake2b(_ingredients(libraries).encode(), digest_size=12).hexdigest()
    folder = cache_directory() / "simulated-gpu" / key
    if not folder.is_dir():
        with one_maker(folder):
            if not folder.is_dir():
                with whole_folder(folder) as making:
                    compile_nvml(making)
                    compile_cuda(making, wanted_of(libraries, triton_sources()), built_with())
    return folder


def cuda_libraries() -> list[Path]:
    """Return the shared objects of torch and bitsandbytes that are linked with CUDA's.

    Raise InvalidRequestError where the installed torch has none.
    """
    bitsandbytes = f"libbitsandbytes_cuda{built_with().replace('.', '')}.so"
    return [
        *sorted((_package("torch") / "lib").glob("*.so")),
        *_package("bitsandbytes").glob(bitsandbytes),
    ]


def built_with() -> str:
    """Return the release of CUDA that the installed torch is built with, as in 13.0.

    Raise InvalidRequestError where it is none that is simulated.
    """
    torch = read_torch()
    if torch is None or torch.cuda is None or torch.cuda.partition(".")[0] not in CUDA_MAJORS:
        has = "no torch is installed" if torch is None else f"torch {torch.version} is installed"
        release = (torch.version if torch else "2.13.0").partition("+")[0]
        raise InvalidRequestError(
            f"--simulate needs a torch built with CUDA {' or '.join(CUDA_MAJORS)}, and {has}: "
            f"{HOW_TO_GET_TORCH.format(version=release)}"
        )
    return torch.cuda


def triton_sources() -> list[Path]:
    """Return the C sources that Triton compiles at its first start, and links with the driver."""
    return [*(_package("triton") / "backends" / "nvidia").glob("driver.c")]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0]) if places else Path(name)


def _ingredients(libraries: Iterable[Path]) -> str:
    """Return what the compiled stand-ins depend on: our sources, and the installed libraries."""
    own = sorted([*SOURCES.rglob("*.[ch]"), EMPTY_FUNCTIONS, *Path(__file__).parent.glob("*.py")])
    texts = [path.read_text(encoding="utf-8") for path in own]
    sizes = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in libraries]
    return "\n".join([*texts, *sizes])


def compile_nvml(folder: Path) -> Path:
    """Compile the stand-in for NVML into ``folder`` and return its path."""
    library = folder / NVML_LIBRARY
    sources = [*(SOURCES / name for name in SHARED_SOURCES), *sorted(SOURCES.glob("nvml/*.c"))]
    _run([*_compiler(), "-shared", *map(str, sources), "-o", str(library)])
    return library


def compile_cuda(folder: Path, wanted: Wanted, release: str) -> Path:
    """Compile the stand-ins for everything that is wanted of a release of CUDA, with a link per
    soname."""
    sources = [*(SOURCES / name for name in SHARED_SOURCES), *sorted(SOURCES.glob("cuda/*.c"))]
    objects = folder / "objects"
    objects.mkdir()
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(partial(_compile_object, objects, release), sources))
    defined = {name for name in defined_names(compiled) if not name.startswith("simulated_")}
    patterns = _empty_patterns()
    looked_up = {pattern for pattern in patterns if "*" not in pattern}
    missing = (set(wanted.versions) | looked_up) - defined
    generated = objects / "generated.c"
    generated.write_text(generated_functions(missing, patterns))
    script = objects / "versions.map"
    script.write_text(version_script(wanted.versions))
    library = folder / CUDA_LIBRARY
    _run(
        [
            *_compiler(),
            *("-shared", "-fno-builtin", *map(str, compiled), str(generated), "-o", str(library)),
            *(f"-Wl,--version-script={script}", f"-Wl,-soname,{CUDA_LIBRARY}", "-ldl", "-lpthread"),
        ]
    )
    for soname in wanted.sonames:
        (folder / soname).symlink_to(CUDA_LIBRARY)
    shutil.rmtree(objects)
    return library


def _compile_object(folder: Path, release: str, source: Path) -> Path:
    made = folder / f"{source.parent.name}-{source.stem}.o"
    flags = ("-fvisibility=hidden", f"-DCUDA_VERSION={version_number(release)}")
    _run([*_compiler(), *flags, "-c", str(source), "-o", str(made)])
    return made


def version_number(release: str) -> int:
    """Return CUDA's number of a release.

    >>> version_number("12.4")
    12040
    """
    major, _, minor = release.partition(".")
    return 1000 * int(major) + 10 * int(minor)


def _empty_patterns() -> list[str]:
    """Return the patterns of empty functions; a name without a star is always defined, because
    programs look some up at run time."""
    lines = EMPTY_FUNCTIONS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def generated_functions(names: Iterable[str], empty: Iterable[str]) -> str:
    """Return C source of functions that nobody wrote: empty where a pattern matches the name."""
    pattern = re.compile("|".join(re.escape(each).replace(r"\*", r"\w*") for each in empty))
    lines = [
        '#define API __attribute__((visibility("default")))',
        "void simulated_empty(const char *);",
        "void simulated_unknown(const char *);",
        "#define EMPTY(name) API long name(void) { simulated_empty(#name); return 0; }",
        "#define UNKNOWN(name) API long name(void) { simulated_unknown(#name); return 0; }",
    ]
    for name in sorted(names):
        kind = "EMPTY" if pattern.fullmatch(name) else "UNKNOWN"
        lines.append(f"{kind}({name})")
    return "\n".join(lines) + "\n"


def version_script(versions: Mapping[str, str]) -> str:
    """Return the linker's script that gives names the symbol versions that are requested.

    Names that are requested without one are left out, and so have none.
    """
    nodes: dict[str, list[str]] = {}
    for name, version in sorted(versions.items()):
        nodes.setdefault(version, []).append(name)
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n"
        for version, names in sorted(nodes.items())
        if version
    )


def _compiler() -> list[str]:
    compiler = shutil.which("cc")
    if compiler is None or shutil.which("nm") is None:
        raise InvalidRequestError(
            "simulated GPUs are compiled on first use: install a C compiler and binutils "
            "(apt install gcc)"
        )
    return [compiler, *FLAGS]


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stderr}")
