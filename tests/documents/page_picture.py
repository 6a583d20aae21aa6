"""``python -m tests.documents.page_picture`` takes the pictures of a plan's page in Chromium.

No test compares them: letters differ from one machine to the next.
"""

import base64
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from planner.cli.plan_command import plan
from tests.browser import browser
from tests.test_layering import ROOT

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1080, "height": 1170}
"""Pixels: down to the chart of memory and its formulas."""
QUALITY = 90
"""Per cent, at which letters stay sharp."""


def write() -> None:
    """Write the pictures of both modes."""
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.argv = ["plan", "--model", "chatglm3-6b-base", "--gpus", "rtx-4090"]
        plan(model="chatglm3-6b-base", gpus="rtx-4090", html=Path("page.html"))
        with browser(Path("profile")) as opened:
            for mode in ("light", "dark"):
                opened.open(Path("page.html"), **SIZE, dark=mode == "dark")
                answer = opened.send("Page.captureScreenshot", format="webp", quality=QUALITY)
                picture = base64.b64decode(answer["data"])
                (IMAGES / f"page-{mode}.webp").write_bytes(picture)


if __name__ == "__main__":
    write()
