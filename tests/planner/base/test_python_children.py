"""A child is what this project's packages are, wherever and under whatever launcher it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.base.errors import InvalidRequestError
from planner.base.python_children import REMOVED, child_environment, module_command
from planner.base.user_folders import expanded, home_folder

ROOT = Path(__file__).parents[3]
KEPT = {"HOME": "/home/ada", "NCCL_SOCKET_IFNAME": "eth1", "CUDA_VISIBLE_DEVICES": "1"}


def test_variables_of_other_launchers_are_left_out() -> None:
    every = {name.replace("*", "SIZE"): "2" for removed in REMOVED for name in removed.names}
    environment = child_environment({**KEPT, **every})
    assert environment.keys() & every.keys() == set()
    assert {name: environment[name] for name in KEPT} == KEPT


def test_empty_entries_of_the_search_path_are_left_out() -> None:
    """Python takes one for the current folder."""
    place = os.pathsep.join(["", str(ROOT), "", "vendored"])
    environment = child_environment({**KEPT, "PYTHONPATH": place})
    assert environment["PYTHONPATH"] == os.pathsep.join([str(ROOT), "vendored"])


def test_the_current_folder_hides_no_package(tmp_path: Path) -> None:
    for name in ("json.py", "launcher.py", "planner.py", "yaml.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from here')", encoding="utf-8")
    command = [*module_command("planner"), "--list", "gpus"]
    for variable in ({}, {"PYTHONPATH": f":{ROOT}"}):
        environment = child_environment({**os.environ, **variable})
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "rtx-4090" in done.stdout


def test_packages_that_only_the_current_folder_had_are_found(tmp_path: Path) -> None:
    """As for ``python -m launcher`` in a checkout that is not installed."""
    code = (
        "import subprocess\n"
        "from planner.base.python_children import child_environment, module_command\n"
        "command = [*module_command('planner'), '--list', 'gpus']\n"
        f"done = subprocess.run(command, cwd={str(tmp_path)!r}, env=child_environment({{}}))\n"
        "raise SystemExit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_user_without_a_home_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)
    with pytest.raises(InvalidRequestError, match="user 4000000001 has no entry in passwd, and HO"):
        home_folder()
    assert child_environment(KEPT)["USER"] == "4000000001"
    assert child_environment({**KEPT, "USER": "ada"})["USER"] == "ada"


def test_another_users_home_that_is_not_there() -> None:
    with pytest.raises(InvalidRequestError, match="~nobody-here/a: there is no such home folder"):
        expanded("~nobody-here/a")
