"""An sshd on each of two nodes of this machine, with keys and configuration of the test's own."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.nodes.namespaces import Namespace, two_nodes, why_not

START_SECONDS = 10.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def ssh_hosts(
    folder: Path, environment: dict[str, str]
) -> Iterator[tuple[tuple[Namespace, Namespace], str]]:
    """Both, and ssh's options that let a client in; ``environment`` is that of their sessions."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    programs = [shutil.which(name, path=PATH) for name in ("sshd", "ssh", "ssh-keygen")]
    if None in programs:
        pytest.skip("sshd, ssh or ssh-keygen is not installed: apt-get install openssh-server")
    client_key, known = make_key(folder / "client"), folder / "known_hosts"
    with two_nodes() as nodes, ExitStack() as stack:
        for node in nodes:
            host_key = make_key(folder / f"host-{node.address}")
            with known.open("a") as file:
                file.write(f"{node.address} {Path(f'{host_key}.pub').read_text()}")
            config = folder / f"sshd-{node.address}"
            config.write_text(sshd_config(host_key, client_key, environment))
            stack.enter_context(sshd(node, config))
        yield nodes, f"IdentityFile={client_key} UserKnownHostsFile={known} IdentitiesOnly=yes"


def sshd_config(host_key: Path, client_key: Path, environment: dict[str, str]) -> str:
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return (
        f"HostKey {host_key}\n"
        f"AuthorizedKeysFile {client_key}.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        f"SetEnv {variables}\n"
    )


@contextmanager
def sshd(node: Namespace, config: Path) -> Iterator[None]:
    Path("/run/sshd").mkdir(exist_ok=True)
    log = config.with_name(f"{config.name}.log")
    program = shutil.which("sshd", path=PATH)
    assert program is not None
    with log.open("wb") as errors:
        daemon = subprocess.Popen(
            node.command([program, "-D", "-e", "-f", str(config)]),
            stdin=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while b"listening" not in log.read_bytes():
            assert daemon.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        daemon.kill()
        daemon.wait()


def make_key(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)],
        check=True,
        capture_output=True,
    )
    return path
