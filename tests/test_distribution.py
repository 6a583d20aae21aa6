"""The wheel and the sdist, built and then installed into an empty environment of their own."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_layering import ROOT

pytestmark = pytest.mark.long

LIGHT = {"msgspec", "nvidia-ml-py", "pyyaml", "rich"}
"""What ``plan`` needs, as setup.cfg lists it."""
OF_RICH = {"markdown-it-py", "mdurl", "pygments"}
OF_VENV = {"pip", "setuptools"}
LIMIT_S = 600


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel, made from the sdist, and the sdist."""
    if find_spec("build") is None:
        pytest.skip("package build is not installed")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def installed(distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    [wheel] = distribution.glob("*.whl")
    done = subprocess.run(
        [programs / "python", "-m", "pip", "install", "--quiet", wheel],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return programs


def version_in(text: str) -> str:
    return str(Parser().parsestr(text)["Version"])


def test_the_versions_agree_and_the_description_is_rendered(distribution: Path) -> None:
    [wheel], [sdist] = distribution.glob("*.whl"), distribution.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        [metadata] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        version = version_in(file.read(metadata).decode())
    with tarfile.open(sdist) as file:
        packed = file.extractfile(f"tuneplan-{version}/PKG-INFO")
        assert packed is not None
        assert version_in(packed.read().decode()) == version
    assert wheel.name.split("-")[1] == version
    done = run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=distribution)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_light_packages_are_installed(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path)
    names = {line.partition("==")[0].lower() for line in done.stdout.splitlines()}
    assert names - OF_VENV == {"tuneplan", *LIGHT, *OF_RICH}


def test_plan_works_with_its_presets(installed: Path, tmp_path: Path) -> None:
    done = run(
        *(installed / "plan", "--recipe", "chatglm3_6b_base_qlora_alpaca_zh_e3"),
        *("--gpus", "rtx-4090"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "fits" in done.stdout.splitlines()[0]
    assert (tmp_path / "plan.yaml").is_file()
    for kind in ("models", "gpus", "recipes", "networks", "optimizers"):
        listed = run(installed / "plan", "--list", kind, cwd=tmp_path)
        assert len(listed.stdout.splitlines()) > 5, kind
    schema = run(installed / "plan", "--schema", "plan", cwd=tmp_path)
    assert '"description": "Samples per forward pass on one device."' in schema.stdout


def test_launch_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    options = ("--model", "qwen2.5-0.5b", "--gpus", "24G", "--json", "-o", "plan.yaml")
    assert run(installed / "plan", *options, cwd=tmp_path).returncode == 0
    for arguments in (("plan.yaml",), ("plan.yaml", "--rehearse"), ("--doctor",)):
        done = run(installed / "launch", *arguments, cwd=tmp_path)
        assert "pip install 'tuneplan[train]'" in done.stdout + done.stderr, arguments
        assert "Traceback" not in done.stderr
    version = run(installed / "tuneplan", "--version", cwd=tmp_path)
    assert "training packages: none (pip install 'tuneplan[train]')" in version.stdout
