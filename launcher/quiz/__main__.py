"""``python -m launcher.quiz``: the command ``quiz``."""

import sys

from launcher.quiz.quiz_command import main

if __name__ == "__main__":
    sys.exit(main())
