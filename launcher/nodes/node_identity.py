"""Which of a run's nodes this is: its address towards the others, and whether it leads."""

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from launcher.run.rank_commands import PORT
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The address and port of one of the nodes, where all of them meet."""

    host: str
    port: int

    def after(self, number: int) -> "Endpoint":
        """Return the endpoint of a later meeting, on a port whose store is not just closing."""
        return Endpoint(host=self.host, port=self.port + number)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a run."""

    name: str
    address: str
    """Address of the node on the way to the endpoint."""
    interface: str
    """Name of the network interface that has the address."""
    leads: bool
    """Whether the endpoint is an address of this node."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def endpoint_of(text: str) -> Endpoint:
    """Return the endpoint of ``HOST`` or ``HOST:PORT``; an IPv6 address is in brackets then.

    Raise ``InvalidRequestError`` for anything else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidRequestError(
            Phrase(
                "--rdzv-endpoint {text}: write HOST or HOST:PORT, for example node1:{port}",
                text=text,
                port=PORT,
            )
        )
    return Endpoint(host=host, port=int(port))


def node_at(endpoint: Endpoint) -> Node:
    """Return this node, of those that meet at an endpoint.

    Raise ``InvalidRequestError`` if this node has no route there, or only it has one.
    """
    family, remote = _resolved(endpoint)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, endpoint.port))  # sends no packet, as it is for datagrams
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise InvalidRequestError(
            Phrase(
                "--rdzv-endpoint {endpoint}: this node has no route to {remote} ({strerror})",
                endpoint=endpoint,
                remote=remote,
                strerror=error.strerror or error,
            )
        ) from error
    if ip_address(address).is_loopback:
        raise InvalidRequestError(
            Phrase(
                "--rdzv-endpoint {endpoint}: {host} is {remote} here, which no other node "
                "can reach. Give the address that the others see",
                endpoint=endpoint,
                host=endpoint.host,
                remote=remote,
            )
        )
    return Node(
        name=socket.gethostname(),
        address=address,
        interface=_interface_of(address),
        leads=_owns(family, remote),
    )


def leader_address(endpoint: Endpoint) -> str:
    """Return the IP address of the node that leads."""
    return _resolved(endpoint)[1]


def _resolved(endpoint: Endpoint) -> tuple[socket.AddressFamily, str]:
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InvalidRequestError(
            Phrase(
                "--rdzv-endpoint {endpoint}: {host} cannot be resolved ({strerror})",
                endpoint=endpoint,
                host=endpoint.host,
                strerror=error.strerror,
            )
        ) from error
    family, _, _, _, address = addresses[0]
    return family, str(address[0])


def _owns(family: socket.AddressFamily, address: str) -> bool:
    """Return whether an address is this node's: only then can a socket be bound to it."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    raise AssertionError(Phrase("no interface has {address}", address=address))


INFINIBAND = Path("/sys/class/infiniband")
"""Folder in which the kernel lists InfiniBand adapters."""


def network_environment(node: Node, infiniband: Path = INFINIBAND) -> dict[str, str]:
    """Return the variables that make NCCL and gloo use the interface towards the endpoint.

    Without them either library may choose a bridge of containers. NCCL finds InfiniBand adapters
    itself, if there are any.
    """
    settings = {"NCCL_SOCKET_IFNAME": node.interface, "GLOO_SOCKET_IFNAME": node.interface}
    if not infiniband.is_dir() or not any(infiniband.iterdir()):
        settings["NCCL_IB_DISABLE"] = "1"
    return settings
