"""One process with the stand-in for NVML for all machines of a session."""

from collections.abc import Iterator

import pytest

from tests.nvml.stand_in import Child, build


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    library = build(tmp_path_factory.mktemp("nvml"))
    child = Child(library, tmp_path_factory.mktemp("machines"))
    yield child
    child.close()
