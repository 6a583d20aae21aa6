"""Whether a node can listen where the nodes are to meet."""

import socket

import pytest

from launcher.nodes.node_identity import Endpoint
from launcher.nodes.reachability import require_free_ports
from planner.base.errors import InvalidRequestError


def test_a_port_on_which_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for first in (port, port - 1):
            with pytest.raises(InvalidRequestError) as caught:
                require_free_ports(Endpoint(host="127.0.0.1", port=first), 2)
            assert f"cannot listen at 127.0.0.1:{port} (Address already in use): choose" in str(
                caught.value
            )
    require_free_ports(Endpoint(host="127.0.0.1", port=port), 1)


def test_a_port_beyond_the_last() -> None:
    with pytest.raises(InvalidRequestError, match=r"no such port\): .*, such as 127.0.0.1:29500"):
        require_free_ports(Endpoint(host="127.0.0.1", port=65535), 2)
