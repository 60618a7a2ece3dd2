"""Keys of ``trainer.*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from menvae.errors import UserError
from menvae.registry import Field


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Keys of ``trainer.*``.

    Attributes:
        max_epochs: length of the run.
        batch_size: subjects a rank and step.
        precision: ``fp32``, or autocast to ``bf16``, or to ``fp16`` with a gradient scaler, for GPUs that lack bf16
            (statistics and losses stay in float32).
        gradient_clip: largest L2 norm of the gradient; None does not clip.
        channels_last: memory format of inputs and weights; faster on CPU and GPU.
        activation_checkpointing: compute the activations of residual and up-sampling blocks again in the backward pass
            instead of keeping them: the same results with less memory, in about a third more time.
        compile: run the model through `torch.compile` (a minute or more at the start).
        validate_every_epochs: how often the validation split is evaluated; the last epoch always is.
        num_workers: processes that load batches; 0 loads in the training process.
        devices: processes that train together, one a device. More than 1 starts them here; None takes what `torchrun`
            or a launcher started; a number that they did not start is refused.
        time_limit_min: minutes after which a process writes a checkpoint and ends as if told to; None: never.
        resume: ``auto`` goes on with the same run, ``never`` begins a new one, a path continues from that checkpoint.
        init_from: run directory (its best weights) or checkpoint whose weights this run begins with, for fine-tuning;
            None: those that the seed gives. Only weights are taken: optimiser, schedules and epochs begin anew.
        keep_optimizer: keep the optimiser's state in ``last.ckpt`` when the run is finished.
    """

    max_epochs: Annotated[int, Field(ge=1)] = 15
    batch_size: Annotated[int, Field(ge=1)] = 8
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_clip: Annotated[float, Field(gt=0.0)] | None = 1.0
    channels_last: bool = True
    activation_checkpointing: bool = False
    compile: bool = False
    validate_every_epochs: Annotated[int, Field(ge=1)] = 1
    num_workers: Annotated[int, Field(ge=0)] = 0
    devices: Annotated[int, Field(ge=1)] | None = None
    time_limit_min: Annotated[float, Field(gt=0.0)] | None = None
    resume: str = "auto"
    init_from: str | None = None
    keep_optimizer: bool = False

    def __post_init__(self) -> None:
        """Refuse what the keys alone show to be wrong."""
        if self.init_from is not None and self.resume not in ("auto", "never"):
            raise UserError(
                f"trainer.init_from: {self.init_from!r} is not allowed with trainer.resume={self.resume}, a checkpoint "
                "that brings weights of its own"
            )
