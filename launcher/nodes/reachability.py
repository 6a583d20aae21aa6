"""Whether another node's machine is up, and whether something listens on its port."""

import socket
import time
from collections.abc import Callable

from launcher.nodes.node_identity import Endpoint
from launcher.run.process import LOOK_SECONDS

ANSWER_SECONDS = 2.0
"""Seconds in which a machine accepts or refuses a connection."""


def answers(endpoint: Endpoint) -> bool:
    """Return whether its machine is up: one that is refuses a port on which nothing listens."""
    return isinstance(_connection_error(endpoint), ConnectionRefusedError | None)


def listens(endpoint: Endpoint) -> bool:
    """Return whether something listens at it."""
    return _connection_error(endpoint) is None


def _connection_error(endpoint: Endpoint) -> OSError | None:
    try:
        socket.create_connection((endpoint.host, endpoint.port), ANSWER_SECONDS).close()
    except OSError as error:
        return error
    return None


def wait_until_listening(endpoint: Endpoint, limit_s: float, look: Callable[[], bool]) -> bool:
    """Wait until something listens at an endpoint; return False after the limit.

    ``look`` is called meanwhile, and returns whether to give up.
    """
    end = time.monotonic() + limit_s
    while not listens(endpoint):
        if time.monotonic() > end or look():
            return False
        time.sleep(LOOK_SECONDS)
    return True
