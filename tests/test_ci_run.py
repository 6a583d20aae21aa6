"""``.ci/run`` installs what the tests need of the system, and only what is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "slurmctld": "slurm-wlm",
    "munged": "munge",
    "sshd": "openssh-server",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "chromium": "chromium",
}
APT_GET = """\
#!/bin/bash
[[ $1 == install ]] || exit 0
echo "${@: -1}" >> installed
[[ ${@: -1} != munge ]]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
@pytest.mark.parametrize("present", [(), ("kubectl",), ("slurmctld", "ip"), tuple(PACKAGES)])
def test_each_missing_command_is_installed_by_its_own_package(
    present: tuple[str, ...], tmp_path: Path
) -> None:
    """One that cannot be had, as munge here, keeps no other from being installed."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "dirname"):
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    scripts = {"apt-get": APT_GET, "make": "#!/bin/bash\necho make $1\n"}
    for name, text in {**scripts, **dict.fromkeys(present, "#!/bin/bash\n")}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    done = subprocess.run(
        [tmp_path / ".ci" / "run"],
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "make test\nmake long\nmake docs\n"
    asked = tmp_path / "installed"
    installed = set(asked.read_text().split()) if asked.exists() else set()
    assert installed == {package for name, package in PACKAGES.items() if name not in present}
    assert done.stderr == ("" if "munged" in present else "not installed here: munge\n")
