"""``launch`` at a host that ssh has reached: stops when its standard input says so, or ends.

ssh passes no signals on, and nothing tells a host that the other end is gone but the end of
its input. Then the run stops with a checkpoint, as it does after a signal.
"""

import os
import signal
import threading

from launcher.cli.launch_command import main


def obey_standard_input() -> None:
    """Signals are told by number, a line each; the rest of the process reads nothing."""
    told = os.fdopen(os.dup(0), "rb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def obey() -> None:
        for line in told:
            signal.pthread_kill(main_thread, int(line))
        signal.pthread_kill(main_thread, signal.SIGTERM)

    threading.Thread(target=obey, daemon=True).start()


if __name__ == "__main__":
    obey_standard_input()
    main()
