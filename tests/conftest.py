"""What holds for all tests: none reads or writes the user's own measurements and records."""

import os

from planner.base.data_folder import KEEP_NOTHING, VARIABLE

os.environ[VARIABLE] = KEEP_NOTHING
