"""``python -m launcher`` is the command ``launch``."""

from launcher.cli.launch_command import main

if __name__ == "__main__":
    main()
