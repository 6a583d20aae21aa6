"""How long a plan trains, what it looks at on the way, and what it keeps."""

from typing import Literal

from planner.checked import field
from planner.spec import Spec

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

    every_steps: int = field(ge=1)
    generated_samples: int = field(default=2, ge=0)
    """Of that part the first ones are answered by the model, to be read in ``evaluation.jsonl``."""
    max_new_tokens: int = field(default=64, ge=1)
    early_stop_patience: int | None = field(default=None, ge=1)
    """Evaluations without a lower loss after which the training ends."""


class TrainingSection(Spec):
    epochs: float | None = field(default=None, gt=0)
    max_steps: int | None = field(default=None, ge=1)
    seed: int = field(default=42, ge=0)
    logging_steps: int = field(default=1, ge=1)
    save_steps: int = field(default=500, ge=1)
    """Steps between checkpoints, which ``launch --resume`` and fallbacks go on from."""
    keep_checkpoints: int = field(default=KEPT_CHECKPOINTS, ge=1)
    """The newest ones."""
    evaluation: EvaluationSection | None = None
    neftune_noise_alpha: float | None = field(default=None, gt=0)
    """Noise on the embeddings while training (arXiv:2310.05914)."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers beside ``metrics.jsonl``."""
    hang_limit_s: int = field(default=1800, ge=1)
    """Without a sign of progress from any rank for so long, the run is ended. PyTorch's own
    limit of a collective is 30 minutes too (torch/distributed/constants.py)."""

    def _agrees(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give epochs or max_steps, one of the two")
