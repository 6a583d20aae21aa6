"""Parts of apollo-torch that a checkpoint holds.

read: apollo-torch 1.0.3. It is imported where it is needed: few plans have its optimizer.
"""

import torch


def load_projections() -> None:
    """Have ``torch.load`` build the projections among the optimizer's states.

    read: apollo_torch/random_projector.py; they are an object for each matrix, of numbers and a
    tensor.
    """
    from apollo_torch.random_projector import GradientProjector

    torch.serialization.add_safe_globals([GradientProjector])
