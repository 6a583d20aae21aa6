"""Whether another node's machine answers, and whether it has begun to listen."""

import socket
import time
from collections.abc import Callable

from launcher.nodes.node_identity import Endpoint

ANSWER_SECONDS = 2.0
LOOK_SECONDS = 0.5


def answers(endpoint: Endpoint) -> bool:
    """Whether its machine does: a port on which nothing listens is refused by it."""
    try:
        socket.create_connection((endpoint.host, endpoint.port), ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def listens(endpoint: Endpoint) -> bool:
    try:
        socket.create_connection((endpoint.host, endpoint.port), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def wait_until_listening(endpoint: Endpoint, limit_s: float, look: Callable[[], bool]) -> bool:
    """Whether it came to that: not where ``look`` says to give up."""
    end = time.monotonic() + limit_s
    while not listens(endpoint):
        if time.monotonic() > end or look():
            return False
        time.sleep(LOOK_SECONDS)
    return True
