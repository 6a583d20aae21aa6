"""Two hosts with a wire between: network namespaces of this machine, each with an sshd.

Keys and configuration are the test's own, and its traffic stays on the wire. Root only.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("ip", "sshd", "ssh", "ssh-keygen")
START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TwoHosts:
    names: tuple[str, str]
    """Of the namespaces."""
    addresses: tuple[str, str]
    ssh_option: str
    """For ``--with``: with these a client gets in."""

    def inside(self, host: int) -> list[str]:
        return ["ip", "netns", "exec", self.names[host]]

    def processes(self, host: int) -> list[int]:
        listed = run("ip", "netns", "pids", self.names[host])
        return [int(pid) for pid in listed.split()]


def require_tools() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [tool for tool in TOOLS if find(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (iproute2, openssh-server)")


@contextmanager
def two_hosts(folder: Path, environment: dict[str, str]) -> Iterator[TwoHosts]:
    """Both up, and answering; ``environment`` is that of their sessions."""
    require_tools()
    own = os.getpid()
    names = (f"tp{own}a", f"tp{own}b")
    addresses = (f"10.231.{own % 250}.1", f"10.231.{own % 250}.2")
    with ExitStack() as stack:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("this machine makes no network namespaces")
            stack.callback(run, "ip", "netns", "delete", name)
        joined = ("type", "veth", "peer", "name", "wire", "netns", names[1])
        run("ip", "link", "add", "wire", "netns", names[0], *joined)
        client_key = make_key(folder / "client")
        known = folder / "known_hosts"
        for name, address in zip(names, addresses, strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                run("ip", "-n", name, "link", "set", device, "up")
            host_key = make_key(folder / f"host-{name}")
            with known.open("a") as file:
                file.write(f"{address} {host_key.with_suffix('.pub').read_text()}")
            config = folder / f"sshd-{name}"
            config.write_text(sshd_config(host_key, client_key, environment))
            stack.enter_context(sshd(name, config))
        options = f"IdentityFile={client_key} UserKnownHostsFile={known} IdentitiesOnly=yes"
        yield TwoHosts(names, addresses, options)


def sshd_config(host_key: Path, client_key: Path, environment: dict[str, str]) -> str:
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return (
        f"HostKey {host_key}\n"
        f"AuthorizedKeysFile {client_key}.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        f"SetEnv {variables}\n"
    )


@contextmanager
def sshd(namespace: str, config: Path) -> Iterator[None]:
    Path("/run/sshd").mkdir(exist_ok=True)
    program = find("sshd")
    assert program is not None
    log = config.with_name(f"{config.name}.log")
    with log.open("wb") as errors:
        daemon = subprocess.Popen(
            ["ip", "netns", "exec", namespace, program, "-D", "-e", "-f", str(config)],
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
        for pid in run("ip", "netns", "pids", namespace).split():
            subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
        daemon.wait()


def make_key(path: Path) -> Path:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    return path


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
