"""The other nodes of a run, as the launching process of one of them deals with them."""

from collections.abc import Mapping

from launcher.command import Rendezvous
from launcher.execution import Company
from launcher.nodes.heartbeat import Heart
from launcher.nodes.place import Endpoint, Node
from launcher.nodes.settings import network_environment
from planner.plan import Plan


class Nodes(Company):
    """Of either kind of node: one that leads and tells the others what comes next, or another."""

    def __init__(
        self, plan: Plan, node: Node, endpoint: Endpoint, heart: Heart, *, max_restarts: int
    ) -> None:
        super().__init__(max_restarts=max_restarts)
        self.node, self.heart = node, heart
        self._endpoint, self._num_nodes = endpoint, plan.parallel.num_nodes
        self.environment: Mapping[str, str] = network_environment(node)
        self.attempt = 0
        """Of the ranks' starts; its number is that of its port behind the endpoint's."""

    def prepares(self) -> None:
        self.heart.say("preparing")

    def trains(self) -> Rendezvous:
        if self.node.leads:
            self.attempt += 1
        self.heart.say("training", attempt=self.attempt)
        return rendezvous_of(self.node, self._endpoint, self.attempt, self._num_nodes)


def rendezvous_of(node: Node, endpoint: Endpoint, number: int, num_nodes: int) -> Rendezvous:
    """The meeting's is number 0, and each attempt to train has the next."""
    return Rendezvous(
        endpoint=str(endpoint.after(number)),
        id=f"tuneplan-{number}",
        num_nodes=num_nodes,
        address=node.address,
        hosts_store=node.leads,
    )
