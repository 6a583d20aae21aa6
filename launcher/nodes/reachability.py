"""Whether another node's machine is up, and whether something listens on its port."""

import socket
import time
from collections.abc import Callable

from launcher.nodes.node_identity import Endpoint
from launcher.run.process import LOOK_SECONDS
from launcher.run.rank_commands import PORT
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase

ANSWER_SECONDS = 2.0
"""Seconds in which a machine accepts or refuses a connection."""


def answers(endpoint: Endpoint) -> bool:
    """Return whether its machine is up: one that is refuses a port on which nothing listens."""
    return isinstance(_connection_error(endpoint), ConnectionRefusedError | None)


def require_free_ports(endpoint: Endpoint, number: int) -> None:
    """Raise ``InvalidRequestError`` if this node cannot listen at an endpoint and those after it.

    ``number`` is how many meetings there may be, each on a port of its own.
    """
    highest = 2**16 - number
    for place in map(endpoint.after, range(number)):
        taken = Phrase("there is no such port") if place.port >= 2**16 else _binding_error(place)
        if taken is not None:
            other = endpoint.port + number if endpoint.port + number <= highest else PORT
            raise InvalidRequestError(
                Phrase(
                    "this node cannot listen at {place} ({taken}): choose another port, the same "
                    "on every node, such as {endpoint}",
                    place=place,
                    taken=taken,
                    endpoint=Endpoint(host=endpoint.host, port=other),
                )
            )


def _binding_error(endpoint: Endpoint) -> str | None:
    """Return why this node cannot listen at an endpoint; a connection that has ended is no
    reason."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return error.strerror or str(error)
    return None


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
