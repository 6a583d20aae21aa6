"""Starting hosts: what ssh is given, and what becomes of the hosts together.

An ``ssh`` of the tests runs the host's command here; tests/launcher/engines/test_hosts_ssh.py has
the real one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.engines.engine import EngineError
from launcher.engines.hosts import Hosts
from launcher.engines.hosts_run import run_on_hosts
from launcher.engines.job import Job
from launcher.engines.submission import dry_run_text, run_job
from planner.base.errors import InvalidRequestError
from tests.launcher.golden import assert_golden
from tests.launcher.launching import environment
from tests.launcher.plans import nodes, plan

STAND_IN_FOR_LAUNCH = """
import signal, sys, time
from launcher.cli.at_host import obey_standard_input
def stop(number, frame):
    print("saved, signal", number, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
obey_standard_input()
print("trains", flush=True)
while True:
    time.sleep(0.1)  # one long sleep would miss a signal that comes just before it
"""


def job(directory: Path = Path("/shared/runs/two nodes"), /, **settings: str) -> Job:
    return Job(
        plan=plan(**nodes(2), data__source="demo"),
        directory=directory,
        python="/opt/venv/bin/python",
        working_directory=Path("/shared/my data"),
        settings=settings,
    )


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the remote command here; an unknown host is refused in ssh's way."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/bash\nexport HOST="${@: -2:1}"\n'
        'if [ "$HOST" = gone ]; then\n'
        '  echo "ssh: connect to host gone port 22: refused" >&2\n  exit 255\nfi\n'
        'exec sh -c "${@: -1}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def test_rendering(tmp_path: Path) -> None:
    given = {"user": "me", "port": "2222", "ssh_option": "ProxyJump=gate ConnectTimeout=60"}
    text = dry_run_text(Hosts(), job(hosts="gpu-1, gpu-2", **given))
    assert_golden("hosts.txt", text, tmp_path)


def test_the_remote_shell_gets_the_command_as_it_is() -> None:
    """Through ssh, which joins its arguments with spaces, and the host's shell."""
    command = Hosts().render(job(hosts="a,b")).commands[0][-1]
    words = subprocess.run(
        ["sh", "-c", command.replace("cd ", "echo ").replace("&& exec ", "; printf '%s\\n' ")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert words[0] == "/shared/my data"
    assert words[5] == "/shared/runs/two nodes/job/plan.yaml"
    assert words[-2:] == ["--rdzv-endpoint", "a:29500"]


def test_a_host_file(tmp_path: Path) -> None:
    listed = tmp_path / "hosts"
    listed.write_text("# ours\ngpu-1 slots=1\n\ngpu-2 slots=8  # new\n")
    commands = Hosts().render(job(hosts=str(listed))).commands
    assert [command[-2] for command in commands] == ["gpu-1", "gpu-2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs --with hosts="),
        ({"hots": "a,b"}, "Did you mean 'hosts'?"),
        ({"hosts": "a,b", "port": "ssh"}, "--with port: it should be a whole number"),
        ({"hosts": "a,b", "port": "70000"}, "--with port"),
        ({"hosts": "a,b,c"}, "the plan is for 2 nodes and --with hosts names 3"),
        ({"hosts": "a,a"}, "names a twice"),
        ({"hosts": "nowhere/hosts"}, "there is no such file"),
        ({"hosts": "a,-oProxyCommand=x"}, "is not a host"),
        ({"hosts": "me@a,b"}, "--with user=NAME"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequestError, match="--with") as caught:
        Hosts().render(job(**settings))
    assert said in str(caught.value)


def test_a_host_with_too_few_slots(tmp_path: Path) -> None:
    listed = tmp_path / "hosts"
    listed.write_text("gpu-1 slots=0\ngpu-2\n")
    with pytest.raises(InvalidRequestError, match="gpu-1 has slots=0"):
        Hosts().render(job(hosts=str(listed)))


@pytest.mark.usefixtures("fake_ssh")
def test_a_host_that_cannot_be_reached_is_named_before_any_starts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(EngineError, match="gone cannot be reached: ssh: connect to host gone"):
        run_job("hosts", job(run, hosts="here,gone"), dry_run=False, detach=False)
    assert sorted(path.name for path in (run / "job").iterdir()) == ["plan.yaml"]


@pytest.mark.usefixtures("fake_ssh")
def test_a_host_that_does_not_see_the_run_directory(tmp_path: Path) -> None:
    rendered = Hosts().render(job(hosts="a,b"))
    found = Hosts().problems(rendered, tmp_path)
    assert [problem.partition(":")[0] for problem in found] == [
        f"a does not see {tmp_path}/plan.yaml",
        f"b does not see {tmp_path}/plan.yaml",
    ]


def test_ssh_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="apt-get install openssh-client"):
        Hosts().problems(Hosts().render(job(hosts="a,b")), tmp_path)


def on(**commands: str) -> list[tuple[str, str, str]]:
    return [("ssh", host, command) for host, command in commands.items()]


@pytest.mark.usefixtures("fake_ssh")
def test_lines_have_their_host(capfd: pytest.CaptureFixture[str]) -> None:
    commands = on(a="echo one; echo two >&2", b="echo three")
    assert run_on_hosts(commands, max_restarts=0) == 0
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["[a] one", "[b] three"]
    assert shown.err.splitlines() == ["[a] two"]


@pytest.mark.usefixtures("fake_ssh")
def test_the_first_host_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    commands = on(a="sleep 1; exit 1", b="exit 7")
    assert run_on_hosts(commands, max_restarts=3) == 7
    assert capfd.readouterr().err.splitlines() == ["error: b ended with exit code 7"]


@pytest.mark.usefixtures("fake_ssh")
def test_a_lost_host_is_named_and_the_code_is_the_trainings(
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands = on(a="sleep 1; exit 3", gone="true")
    assert run_on_hosts(commands, max_restarts=0) == 3
    told = "error: gone failed (ssh: connect to host gone port 22: refused)"
    assert told in capfd.readouterr().err.splitlines()


@pytest.mark.usefixtures("fake_ssh")
@pytest.mark.parametrize(("max_restarts", "code", "starts"), [(0, 5, 1), (1, 5, 2), (2, 0, 3)])
def test_a_lost_host_is_started_again(
    tmp_path: Path, max_restarts: int, code: int, starts: int
) -> None:
    """Lost twice: only with two restarts both end well."""
    mark = tmp_path / "starts"
    lost_twice = f"echo >> {mark}; [ $(wc -l < {mark}) = 3 ] || exit 255"
    waits = f"for i in $(seq 30); do [ $(wc -l < {mark}) = 3 ] && exit 0; sleep 0.1; done; exit 5"
    assert run_on_hosts(on(a=waits, b=lost_twice), max_restarts=max_restarts) == code
    assert len(mark.read_text()) == starts


@pytest.mark.usefixtures("fake_ssh")
def test_the_first_host_is_not_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "starts"
    commands = on(a=f"echo >> {mark}; exit 255", b="sleep 1; exit 4")
    assert run_on_hosts(commands, max_restarts=2) == 4
    assert mark.read_text() == "\n"


@pytest.mark.usefixtures("fake_ssh")
def test_a_host_that_does_not_end_is_asked_and_then_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launcher.engines.hosts_run.END_SECONDS", 1.0)
    commands = on(a="exit 7", asked="read number; exit $number", left="exec sleep 60")
    began = time.monotonic()
    assert run_on_hosts(commands, max_restarts=0) == 7
    assert time.monotonic() - began < 20
    assert capfd.readouterr().err.splitlines() == [
        "error: a ended with exit code 7",
        "left does not end and is given up",
    ]


@pytest.mark.usefixtures("fake_ssh")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_host(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "launch.py"
    script.write_text(STAND_IN_FOR_LAUNCH)
    command = shlex.join([sys.executable, str(script)])
    start_both = (
        "import sys; from launcher.engines.hosts_run import run_on_hosts; "
        f"commands = [('ssh', host, {command!r}) for host in 'ab']; "
        "sys.exit(run_on_hosts(commands, max_restarts=1))"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", start_both],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    begun = [starter.stdout.readline() for _ in "ab"]
    starter.send_signal(number)
    rest, errors = starter.communicate(timeout=30)
    assert sorted(begun) == ["[a] trains\n", "[b] trains\n"]
    assert sorted(rest.splitlines()) == [f"[{host}] saved, signal {number.value}" for host in "ab"]
    assert starter.returncode == 128 + number
    assert not errors


def test_a_host_stops_when_ssh_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "launch.py"
    script.write_text(STAND_IN_FOR_LAUNCH)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as at_host:
        assert at_host.stdout is not None
        assert at_host.stdin is not None
        assert at_host.stdout.readline() == "trains\n"
        began = time.monotonic()
        at_host.stdin.close()
        assert at_host.stdout.read() == f"saved, signal {signal.SIGTERM.value}\n"
    assert at_host.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
