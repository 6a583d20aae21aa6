"""The terminal is kept for what a person wants to see."""

import subprocess
import sys
from pathlib import Path

from tests.launcher.launching import environment


def test_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from launcher.run.output import libraries_quiet\n"
        "with libraries_quiet(Path('log')) as screen:\n"
        "    print('noise'); os.system('echo more noise >&2'); print('ours', file=screen)\n"
        "print('back')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("ours\nback\n", "")
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert sorted(log.splitlines()) == ["more noise", "noise"]
