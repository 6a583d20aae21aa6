"""What holds for all tests: they read English, whatever the language of the terminal."""

import os

from planner.base.phrases import VARIABLE

os.environ["LC_ALL"] = "C.UTF-8"
os.environ.pop(VARIABLE, None)
