"""A Slurm of two nodes on this machine: network namespaces with a bridge between, and its daemons.

The controller is in a namespace of its own, from which the tests submit; each node has one with an
address and a host name. Nothing of it is seen outside, and all of it ends with the test. Processes
are tracked by cgroups, Slurm's default: of the other ways one signals a task's children too
(proctrack/linuxproc) and one loses those in sessions of their own (proctrack/pgid).
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.run.process import command_ending_with_parent
from tests.launcher.launching import environment

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "ip", "unshare", "nsenter")
START_SECONDS = 20.0
GRACE_SECONDS = 40
ADDRESS = "198.18.0.{}"
"""RFC 2544: for tests, so nobody's own."""
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000  # read: linux/sched.h; Python has os.setns since 3.12

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=controller({controller})
AuthType=auth/munge
# After a requeue a job waits for as long as a credential lives: 120 s, if nobody says less.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime={grace}
PartitionName=hasty Nodes=ALL State=UP PriorityTier=1 GraceTime=0
PartitionName=high Nodes=ALL State=UP PriorityTier=2 PreemptMode=OFF
"""
GPUS = """\
AutoDetect=off
Name=gpu Type=h100 File=/dev/null
Name=gpu Type=h100 File=/dev/zero
"""
"""To be asked for: nothing is computed on them."""
CGROUPS = """\
CgroupPlugin=autodetect
IgnoreSystemd=yes
ConstrainCores=no
ConstrainRAMSpace=no
ConstrainDevices=no
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    folder: Path
    holder: int
    """A process that is where the controller is."""

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, sees the controller."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/proc/{self.holder}/ns/net", os.O_RDONLY)
        try:
            assert LIBC.setns(inside, CLONE_NEWNET) == 0
            yield
        finally:
            assert LIBC.setns(before, CLONE_NEWNET) == 0
            os.close(inside)
            os.close(before)

    def ask(self, *command: str) -> str:
        """Of one of Slurm's commands, what it prints."""
        with self.entered():
            return run(*command, SLURM_CONF=str(self.configuration))


def require_slurm() -> None:
    """Skips, and says why, where a cluster cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm of one's own needs root")
    missing = [name for name in PROGRAMS if program(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (slurm-wlm, munge, iproute2)")
    if subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no namespaces")


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    require_slurm()
    # cgroups of the nodes are named after them, and another test may have a cluster too
    names = [f"node{os.getpid()}-{number}" for number in (1, 2)]
    write_configuration(folder, names)
    with ExitStack() as stack:
        controller = stack.enter_context(namespace(()))
        nodes = [stack.enter_context(namespace(controller)) for _ in names]
        join(controller, nodes)
        cluster = Cluster(folder, int(controller[2]))
        socket = f"--socket={folder}/munge.socket"
        files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        stack.enter_context(
            daemon(cluster, (), "munged", "--foreground", "--force", socket, *files)
        )
        stack.enter_context(daemon(cluster, controller, "slurmctld", "-D", "-c"))
        for name, node in zip(names, nodes, strict=True):
            run(*node, "hostname", name)
            stack.callback(remove_cgroups, name)
            stack.enter_context(daemon(cluster, node, "slurmd", "-D", "-N", name))
        wait_until_idle(cluster)
        stack.callback(end_jobs, cluster)
        yield cluster


def write_configuration(folder: Path, names: Sequence[str]) -> None:
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={ADDRESS.format(number)} CPUs=4 RealMemory=8000 Gres=gpu:h100:2"
        for number, name in enumerate(names, 1)
    )
    text = CONFIGURATION.format(
        folder=folder, controller=ADDRESS.format(254), nodes=nodes, grace=GRACE_SECONDS
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text(CGROUPS)
    (folder / "gres.conf").write_text(GPUS)


@contextmanager
def namespace(parent: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What goes in front of a command to run it in a new one, held by a process that sleeps."""
    holder = subprocess.Popen(
        command_ending_with_parent([*parent, "unshare", "--net", "--uts", "sleep", "infinity"])
    )
    try:
        own = Path("/proc/self/ns/net").readlink()
        while (Path("/proc") / str(holder.pid) / "ns/net").readlink() == own:
            time.sleep(0.01)
        while (Path("/proc") / str(holder.pid) / "comm").read_text() != "sleep\n":
            time.sleep(0.01)
        inside = ("nsenter", "--target", str(holder.pid), "--net", "--uts", "--")
        run(*inside, "ip", "link", "set", "lo", "up")
        yield inside
    finally:
        holder.kill()
        holder.wait()


def join(controller: Sequence[str], nodes: Sequence[Sequence[str]]) -> None:
    run(*controller, "ip", "link", "add", "bridge", "type", "bridge")
    run(*controller, "ip", "address", "add", f"{ADDRESS.format(254)}/24", "dev", "bridge")
    run(*controller, "ip", "link", "set", "bridge", "up")
    run(*controller, "hostname", "controller")
    for number, node in enumerate(nodes, 1):
        wire = ("type", "veth", "peer", "name", "eth0", "netns", node[2])
        run(*controller, "ip", "link", "add", f"wire{number}", *wire)
        run(*controller, "ip", "link", "set", f"wire{number}", "master", "bridge", "up")
        run(*node, "ip", "address", "add", f"{ADDRESS.format(number)}/24", "dev", "eth0")
        run(*node, "ip", "link", "set", "eth0", "up")


@contextmanager
def daemon(cluster: Cluster, inside: Sequence[str], name: str, *options: str) -> Iterator[None]:
    """``inside`` goes in front of its command."""
    path = program(name)
    assert path is not None
    with (cluster.folder / f"{name}.out").open("ab") as output:
        process = subprocess.Popen(
            command_ending_with_parent([*inside, path, *options]),
            env=environment(SLURM_CONF=str(cluster.configuration)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_idle(cluster: Cluster) -> None:
    """Skips where the daemons do not come up, with what they say."""
    end = time.monotonic() + START_SECONDS
    shown = ""
    while shown.split() != ["idle", "idle"]:
        if time.monotonic() > end:
            logs = [path.read_text() for path in cluster.folder.glob("slurm*.log")]
            errors = [line for log in logs for line in log.splitlines() if "error:" in line]
            pytest.skip(f"Slurm does not come up: {' / '.join(errors[-3:]) or shown}")
        time.sleep(0.1)
        try:
            shown = cluster.ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T")
        except AssertionError as error:
            shown = str(error)


def preempt(cluster: Cluster) -> None:
    """By a job that wants both nodes, for a moment."""
    wants = ("--partition=high", "--nodes=2", "--exclusive")
    cluster.ask("sbatch", *wants, "--output=/dev/null", "--wrap=true")


def end_jobs(cluster: Cluster) -> None:
    cluster.ask("scancel", "--user=root")
    cluster.ask("scancel", "--user=root", "--signal=KILL", "--full")
    end = time.monotonic() + START_SECONDS
    while cluster.ask("squeue", "--noheader") and time.monotonic() < end:
        time.sleep(0.1)


def remove_cgroups(name: str) -> None:
    for folder in Path("/sys/fs/cgroup").glob(f"**/slurm_{name}"):
        below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, folder):
            path.rmdir()


def run(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
