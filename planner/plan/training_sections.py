"""How long a plan trains, what it looks at on the way, and what it keeps."""

from typing import Literal

from planner.base.strict_yaml import NonNegativeInt, PositiveFloat, PositiveInt, Spec

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml", "clearml"]
"""transformers' names for ``report_to``; each is a package of its own."""


KEPT_CHECKPOINTS = 2
"""Unless a plan says otherwise."""


class EvaluationSection(Spec):
    """The part of the data that is kept out of the training (``data.validation_fraction``) is
    looked at every so many steps.

    Its forward passes have the training's micro-batch and keep no activations, so that they
    need less than a training step.
    """

    every_steps: PositiveInt
    generated_samples: NonNegativeInt = 2
    """Of that part the first ones are answered by the model, to be read in ``evaluation.jsonl``."""
    max_new_tokens: PositiveInt = 64
    early_stop_patience: PositiveInt | None = None
    """Evaluations without a lower loss after which the training ends."""


class TrainingSection(Spec):
    epochs: PositiveFloat | None = None
    max_steps: PositiveInt | None = None
    seed: NonNegativeInt = 42
    logging_steps: PositiveInt = 1
    save_steps: PositiveInt = 500
    """Steps between checkpoints, which ``launch --resume`` and fallbacks go on from."""
    keep_checkpoints: PositiveInt = KEPT_CHECKPOINTS
    """The newest ones."""
    evaluation: EvaluationSection | None = None
    neftune_noise_alpha: PositiveFloat | None = None
    """Noise on the embeddings while training (arXiv:2310.05914)."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers beside ``metrics.jsonl``."""
    hang_limit_s: PositiveInt = 1800
    """Without a sign of progress from any rank for so long, the run is ended. PyTorch's own
    limit of a collective is 30 minutes too (torch/distributed/constants.py)."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give epochs or max_steps, one of the two")
