"""What holds for all tests: they read English, whatever the language and the width of the terminal,
and none reads or writes the user's own measurements and records, cards and recipes."""

import os

from planner.base import phrases
from planner.hardware.measured import data_folder

os.environ["LC_ALL"] = "C.UTF-8"
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it
os.environ.pop(phrases.VARIABLE, None)
os.environ[data_folder.VARIABLE] = data_folder.KEEP_NOTHING
os.environ["XDG_CONFIG_HOME"] = "/nowhere"
