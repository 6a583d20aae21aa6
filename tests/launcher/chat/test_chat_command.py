"""What is typed, and what a person is told before the first answer."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.chat.chat_command import HOW_TO_END, base_of, common_system, opening_lines
from planner.base.errors import UserError
from tests.launcher.launching import environment
from tests.launcher.plans import plan

SAID = "from launcher.chat.chat_command import said_lines; print([*said_lines()])"
CTRL_C, CTRL_D = b"\x03", b"\x04"
LIMIT_S = 60.0


def test_lines_of_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAID],
        input=b"Who?\n\n  \nWhy \xff?",
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "['Who?', 'Why \ufffd?']\n"


def read_until(terminal: int, expected: bytes, limit_s: float = LIMIT_S) -> bytes:
    """What a terminal shows until it shows the expected; less if that does not come in time."""
    text, end = b"", time.monotonic() + limit_s
    while expected not in text and (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            text += os.read(terminal, 1024)
    return text


def press_ctrl_c(terminal: int) -> None:
    """Until it is seen: the signal may come just before readline begins to wait for a key."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        os.write(terminal, CTRL_C)
        if HOW_TO_END.encode() in read_until(terminal, b"> ", limit_s=1):
            return
    raise AssertionError("Ctrl-C was not seen")


def test_in_a_terminal_ctrl_c_goes_on_and_ctrl_d_ends() -> None:
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SAID],
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
        env=environment(TERM="dumb"),
        preexec_fn=lambda: os.login_tty(its_side),
    )
    try:
        read_until(terminal, b"> ")
        os.write(terminal, b"Who?\n")
        read_until(terminal, b"> ")
        press_ctrl_c(terminal)
        os.write(terminal, b"Why?\n")
        read_until(terminal, b"> ")
        os.write(terminal, CTRL_D)
        assert b"['Who?', 'Why?']" in read_until(terminal, b"]")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(its_side)


def test_plain_text_is_told() -> None:
    assert "was trained on plain text" in opening_lines(goes_on=True)[0]
    assert opening_lines(goes_on=False) == ["Ctrl-C ends an answer, Ctrl-D the chat"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([{"source": "a.jsonl", "system": "Be brief."}], "Be brief."),
        ([{"source": "a.jsonl", "system": "Be brief."}, {"source": "b.jsonl"}], None),
    ],
)
def test_the_system_message_is_that_of_all_data(
    sources: list[dict[str, str]], expected: str | None
) -> None:
    assert common_system(plan(data={"sources": sources})) == expected


def test_a_base_that_was_moved_is_found_as_launch_finds_it(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    moved = plan(model__source=str(tiny_checkpoint))
    assert base_of(moved, tmp_path / "gone") == tiny_checkpoint.resolve()
    with pytest.raises(UserError, match="does not exist"):
        base_of(plan(model__source="./nowhere"), tmp_path / "gone")
