"""The ``training`` section of a plan: how long it trains, how it is evaluated, and what is kept."""

from typing import Literal

from planner.base.phrases import Phrase
from planner.base.strict_yaml import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from planner.plan.bounds import Epochs, Seconds, Seed

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml", "clearml"]
"""transformers' names for ``report_to``; each is a package of its own."""


KEPT_CHECKPOINTS = 2
"""Checkpoints that are kept unless a plan sets another number."""


class EvaluationSection(Spec):
    """Evaluation on the part of the data that is kept out of training
    (``data.validation_fraction``).

    Its forward passes have the training's micro-batch and keep no activations, so that they need
    less than a training step.
    """

    every_steps: PositiveInt
    """Steps between evaluations."""
    generated_samples: NonNegativeInt = 2
    """Samples of that part, from the first on, that the model answers in ``evaluation.jsonl``."""
    max_new_tokens: PositiveInt = 64
    """Most tokens of such an answer."""
    early_stop_patience: PositiveInt | None = None
    """Evaluations without a lower loss after which the training ends; None for no early end."""


class TrainingSection(Spec):
    """The length of a run, and what it writes on the way."""

    epochs: Epochs | None = None
    """Passes over the data; either this or ``max_steps`` is given."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps."""
    seed: Seed = 42
    """Seed of everything random: initial adapters, order of the data, dropout."""
    logging_steps: PositiveInt = 1
    """Steps between two lines of ``metrics.jsonl``."""
    save_steps: PositiveInt = 500
    """Steps between checkpoints, which ``launch --resume`` and fallbacks resume from."""
    keep_checkpoints: PositiveInt = KEPT_CHECKPOINTS
    """Number of checkpoints that are kept, the newest."""
    evaluation: EvaluationSection | None = None
    neftune_noise_alpha: PositiveFloat | None = None
    """Strength of the noise on the embeddings while training (arXiv:2310.05914); None for no
    noise."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers that are reported to beside ``metrics.jsonl``."""
    hang_limit_s: Seconds = 1800
    """Seconds without progress of any rank after which the run is ended. PyTorch's own limit of a
    collective is 30 minutes, too (torch/distributed/constants.py)."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError(Phrase("give either epochs or max_steps"))
