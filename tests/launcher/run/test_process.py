"""Commands run to their end: exit codes, signals, and who outlives whom."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.run.process import command_ending_with_parent, run_to_end

LAUNCH = """
import os, sys
from pathlib import Path
from launcher.run.process import run_to_end
sys.exit(run_to_end([sys.executable, "-c", sys.argv[1]], os.environ, Path(sys.argv[2])))
"""


def run(code: str, tmp_path: Path) -> int:
    return run_to_end([sys.executable, "-c", code], os.environ, tmp_path / "log")


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return "Z" not in stat.rpartition(")")[2][:3]


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_code_is_the_commands_own(code: int, tmp_path: Path) -> None:
    assert run(f"raise SystemExit({code})", tmp_path) == code


def test_a_killed_command_reads_as_in_a_shell(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 9)", tmp_path) == 128 + 9


def test_errors_go_to_the_log(tmp_path: Path) -> None:
    run("import sys; print('noise', file=sys.stderr)", tmp_path)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "noise\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_and_is_named(number: int, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, code, str(tmp_path / "log")],
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup has SIGHUP ignored
    ) as process:
        while not ready.exists():
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number


def test_nohup_has_a_closed_terminal_ignored(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    code = (
        f"import pathlib, time; pathlib.Path({str(ready)!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)"
    )
    command = ["nohup", sys.executable, "-c", LAUNCH, code, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not ready.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        go.touch()
        assert process.wait(timeout=60) == 0


def test_a_command_does_not_outlive_us(tmp_path: Path) -> None:
    """Not even where we are killed."""
    ready = tmp_path / "ready"
    code = (
        "import os, pathlib, time; "
        f"pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", LAUNCH, code, str(tmp_path / "log")]) as process:
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.02)
        process.kill()
    child, end = int(ready.read_text()), time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_of_python_runs_between_fork_and_exec(tmp_path: Path) -> None:
    """It could wait for a lock that a thread of ours holds: a thread beats while ranks run."""
    forbidden = "import os; os.register_at_fork(after_in_child=lambda: os._exit(99))"
    launch = [sys.executable, "-c", f"{forbidden}\n{LAUNCH}", "raise SystemExit(7)"]
    assert subprocess.run([*launch, str(tmp_path / "log")], check=False).returncode == 7


def test_a_command_whose_parent_has_ended_meanwhile_is_not_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = command_ending_with_parent(["touch", str(started)])
    assert command[-3] == str(os.getpid())
    subprocess.run(command, check=True)
    assert started.exists()
    started.unlink()
    command[-3] = "1"
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "process 1, which started this one, has ended\n")
    assert not started.exists()


def test_a_command_that_was_asked_to_stop_ends_by_itself(tmp_path: Path) -> None:
    """A scheduler's repeated SIGTERM changes nothing; a Ctrl-C ends it."""
    asked, ready = tmp_path / "asked", tmp_path / "ready"
    launch = LAUNCH.replace(
        "Path(sys.argv[2])",
        f"Path(sys.argv[2]), ask_to_stop=lambda n: not Path({str(asked)!r}).touch()",
    )
    code = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", launch, code, str(tmp_path / "log")]) as process:
        while not ready.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        while not asked.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 2:
    other = subprocess.Popen([sys.executable, __file__, sys.argv[1], "x"], start_new_session=True)
    pathlib.Path(sys.argv[1]).write_text(str(other.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("early", [True, False], ids=["before a step", "while it trains"])
def test_a_second_ctrl_c_ends_what_does_not_obey_and_all_that_it_started(
    early: bool, tmp_path: Path
) -> None:
    """A rank under torch elastic has a session of its own; a stopped one obeys nothing."""
    ready, script = tmp_path / "ready", tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    launch = LAUNCH.replace('"-c", sys.argv[1]', "*sys.argv[1:3]").replace(
        "Path(sys.argv[2])", f"Path(sys.argv[3]), ask_to_stop=lambda n: {not early}"
    )
    command = [sys.executable, "-c", launch, str(script), str(ready), str(tmp_path / "log")]
    with subprocess.Popen(command) as process:
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.02)
        stubborn = int(ready.read_text())
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
    end = time.monotonic() + 10
    while is_alive(stubborn):
        assert time.monotonic() < end
        time.sleep(0.02)
