"""Two hosts over a real ssh: started, trained on, signalled, lost. Root only."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.nodes.namespaces import Namespace
from tests.launcher.engines.ssh_hosts import ssh_hosts
from tests.launcher.launching import REPOSITORY, Finished, environment, launch, write_plan
from tests.launcher.plans import nodes

TIME_LIMIT_S = 240
SAME_CURVE = 1e-3
"""Relative: two ranks in bf16 sum in another order than one process does."""


@dataclass(frozen=True, slots=True)
class Hosts:
    folder: Path
    """Which both share: data, plan and run."""
    nodes: tuple[Namespace, Namespace]
    ssh_option: str

    def start(self, *options: str) -> subprocess.Popen[str]:
        """``launch --on hosts``, itself on the first of them."""
        hosts = ",".join(node.address for node in self.nodes)
        command = [
            *(sys.executable, "-m", "launcher", "plan.yaml", "--on", "hosts"),
            *("--with", f"hosts={hosts}", "--with", f"ssh_option={self.ssh_option}", *options),
        ]
        return subprocess.Popen(
            self.nodes[0].command(command),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, starter: subprocess.Popen[str]) -> Finished:
        output, errors = starter.communicate(timeout=TIME_LIMIT_S)
        return Finished(starter.returncode, output, errors, self.folder / "run")

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + TIME_LIMIT_S
        metrics = self.folder / "run" / "metrics.jsonl"
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= step):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def hosts(folder: Path, tmp_path: Path) -> Iterator[Hosts]:
    pytest.importorskip("trl")
    keys = tmp_path / "keys"
    keys.mkdir()
    session = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(folder / "cache")}
    with ssh_hosts(keys, {**session, "NO_COLOR": "1"}) as (pair, ssh_option):
        yield Hosts(folder, pair, ssh_option)


@pytest.mark.long
def test_two_hosts_stop_go_on_and_train_as_one_process_does(
    hosts: Hosts, tiny_checkpoint: Path
) -> None:
    """Ctrl-C here, a checkpoint of both there, and the curve of an undisturbed process."""
    changes = {"model__source": str(tiny_checkpoint), "training": {"max_steps": 150}}
    write_plan(hosts.folder, **nodes(2), **changes)
    starter = hosts.start()
    hosts.wait_for_step(3)
    starter.send_signal(signal.SIGINT)
    stopped = hosts.finish(starter)
    assert stopped.code == 128 + signal.SIGINT, stopped.errors
    steps = len(stopped.losses)
    assert (stopped.run / "checkpoints" / f"checkpoint-{steps}").is_dir()
    for node in hosts.nodes:
        assert f"[{node.address}] " in stopped.errors
    resumed = hosts.finish(hosts.start("--resume"))
    assert resumed.code == 0, resumed.errors

    write_plan(hosts.folder, **changes, output__directory="one")
    one = launch(hosts.folder)
    alone = Finished(one.code, one.output, one.errors, hosts.folder / "one")
    assert len(alone.losses) == 150
    assert resumed.losses == pytest.approx(alone.losses, rel=SAME_CURVE)


@pytest.mark.long
def test_a_host_that_is_lost_is_started_again(hosts: Hosts, tiny_checkpoint: Path) -> None:
    source = {"model__source": str(tiny_checkpoint)}
    steps = {"max_steps": 100, "save_steps": 5}
    write_plan(hosts.folder, **nodes(2), **source, training=steps)
    starter = hosts.start("--max-restarts", "1")
    hosts.wait_for_step(8)
    for pid in launches_on(hosts.nodes[1]):
        subprocess.run(["kill", "-9", str(pid)], check=False)
    finished = hosts.finish(starter)
    assert finished.code == 0, finished.errors
    assert f"{hosts.nodes[1].address} failed (" in finished.errors
    assert [row["step"] for row in finished.metrics] == list(range(1, 101))


def launches_on(node: Namespace) -> list[int]:
    """What was started there, all but sshd."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.processes()}
    return [pid for pid, command in commands.items() if b"sshd" not in command]


def test_a_host_that_does_not_let_anybody_in(hosts: Hosts) -> None:
    write_plan(hosts.folder, **nodes(2))
    other = Hosts(hosts.folder, hosts.nodes, hosts.ssh_option.replace("client", "nobody"))
    refused = other.finish(other.start())
    assert refused.code == 2
    assert "10.0.0.1 cannot be reached: " in refused.errors
    assert "Permission denied (publickey" in refused.errors
