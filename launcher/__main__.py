"""``python -m launcher``: the command ``launch``."""

import sys

from launcher.cli.launch_command import main

if __name__ == "__main__":
    sys.exit(main())
