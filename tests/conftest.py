"""What holds for all tests: none reads or writes the user's own measurements and records."""

import os

from planner.hardware.measured.data_folder import KEEP_NOTHING, VARIABLE

os.environ[VARIABLE] = KEEP_NOTHING
