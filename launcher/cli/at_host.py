"""``launch`` on a host that was reached by ssh: it obeys its standard input, and stops at its end.

ssh forwards no signals, and a host notices only by the end of its input that the other side is
gone. The run then stops with a checkpoint, as it does after a signal.
"""

import os
import signal
import sys
import threading

from launcher.cli.launch_command import main


def obey_standard_input() -> None:
    """Raise in this process every signal whose number comes in, and SIGTERM at the end of input.

    The numbers come one per line. The rest of the process has an empty standard input.
    """
    signals = os.fdopen(os.dup(0), "rb", buffering=0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def obey() -> None:
        for line in signals:
            signal.pthread_kill(main_thread, int(line))
        signal.pthread_kill(main_thread, signal.SIGTERM)

    threading.Thread(target=obey, daemon=True).start()


if __name__ == "__main__":
    obey_standard_input()
    sys.exit(main())
