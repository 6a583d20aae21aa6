"""Layers checkpointed by torch's reentrant variant, which transformers 4 takes by default."""

from collections.abc import Callable
from typing import Any

from planner.tape.tape import Tape
from planner.tape.tensors import Node, Storage, Tensor, storages


class ReentrantTape(Tape):
    """A tape whose checkpoints have no graph until backward runs them again."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ran_again: list[int] = []
        """Positions in the log where a layer has run again and its backward begins, the last layer
        first."""

    def checkpoint(
        self, run: Callable[..., Tensor], *given: Tensor, offloaded: bool = False
    ) -> Tensor:
        def noted(*given: Tensor) -> tuple[Tensor, None]:
            if self.keeps_saved:
                self._begins_again(given)
            output = run(*given)
            if self.keeps_saved:
                self.ran_again.append(len(self.log))
            return output, None

        return self.checkpoint_reentrant(noted, *given, offloaded=offloaded)[0]

    def _begins_again(self, given: tuple[Tensor, ...]) -> None:
        """Get the inputs of a layer that is about to run again."""


class FrozenUnitsTape(ReentrantTape):
    """The same around frozen units of FullyShardedDataParallel, whose inputs and their gradients
    stay until backward has ended.

    read: torch/distributed/fsdp/_runtime_utils.py at 2.13,
    _register_post_backward_reshard_only_hook: a frozen unit hooks the gradients of its inputs,
    which are leaves of the graph that runs again; torch/autograd/graph.py,
    register_multi_grad_hook: the hook holds each leaf's AccumulateGrad, which holds the leaf with
    its gradient, until _finalize_params removes the hook.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._hooked: list[Storage] = []

    def backward(self, output: Tensor, gradient: Tensor) -> None:
        passed_on = [gradient]
        del gradient  # the pass below frees it, which a variable here would prevent
        super().backward(output, passed_on.pop())
        self._hooked.clear()

    def _begins_again(self, given: tuple[Tensor, ...]) -> None:
        for leaf in given:
            if isinstance(leaf.node, Node):
                self._hook(leaf, leaf.node)

    def _hook(self, leaf: Tensor, node: Node) -> None:
        """Hold a leaf, and its gradient when it arrives."""
        self._hooked += storages((leaf,))
        arrive = node.backward

        def hooked(gradient: Tensor) -> Any:
            self._hooked += storages((gradient,))
            return arrive(gradient)

        node.backward = hooked
