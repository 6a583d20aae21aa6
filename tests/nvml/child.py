"""Answers questions of ``tests.nvml.stand_in.Child``, one JSON object a line, with pickles."""

import io
import json
import os
import pickle
import sys
import traceback
from base64 import b64encode
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from planner.cli.plan_command import main
from planner.hardware.detect import detect

OWN = dict(os.environ.items())


def answer(question: dict[str, Any]) -> object:
    os.environ.clear()
    os.environ.update(OWN | question["environ"])
    os.chdir(question["cwd"])
    sys.path.insert(0, question["torch"])
    try:
        if question["arguments"] is None:
            return detect(os.environ)
        return run(question["arguments"])
    finally:
        sys.path.remove(question["torch"])


def run(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["plan", *arguments]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main()
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    for line in sys.stdin:
        print(b64encode(pickle.dumps(answer(json.loads(line)))).decode(), flush=True)
