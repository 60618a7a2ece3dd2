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
        batch_size: subjects per rank and step.
        precision: ``fp32``, or autocast to ``bf16``, or to ``fp16`` with a gradient scaler for GPUs without bf16;
            statistics and losses stay in float32. ``auto``: bf16 where it is faster than fp32.
        tune: times steps before training and keeps what is fastest on this device: memory format, threads, cuDNN's
            benchmark, folded up-sampling, CUDA graphs; at most 10 s on a CPU, 60 s on a GPU, and remembered.
            ``gpu``: only on a GPU, where results are not bit-identical anyway; ``auto``: on a CPU too; ``off``.
        gradient_clip: largest L2 norm of the gradient; None: no clipping.
        channels_last: memory format of inputs and weights.
        cuda_graphs: replay the model's passes on a GPU instead of launching their kernels one by one.
        activation_checkpointing: recompute the activations of residual and up-sampling blocks in the backward pass:
            the same results with less memory, in about a third more time.
        auto_batch: split each batch into the largest micro-batches that fit into memory, for the same results up to
            rounding in about a third more time; a batch that fits is not split.
        compile: compile the model with `torch.compile`, which takes a minute or more at the start.
        validate_every_epochs: validate every so many epochs, and after the last one.
        num_workers: processes that load batches; 0: load in the training process.
        devices: number of processes, one per device. More than 1 starts them here; None uses those that `torchrun` or
            a launcher started, and any other number than theirs is an error.
        time_limit_min: minutes after which a process writes a checkpoint and ends as on a stop signal; None: never.
        resume: ``auto`` resumes the same run, ``never`` starts a new one, a path resumes from that checkpoint.
        init_from: run directory (its best weights) or checkpoint with the initial weights, for fine-tuning; None:
            random weights. Optimiser, schedules and epochs start anew.
        extend: finished run (directory, name or MLflow id) to train on to ``max_epochs`` in all, as a new run with its
            configuration; the result is that of a run of so many epochs. Needs its ``keep_optimizer`` and schedules
            that do not depend on the length of the run. None: train a run of its own.
        keep_optimizer: keep the optimiser's state in ``last.ckpt`` after the run has finished.
        profile: measure where the time of some steps goes, for ``profile.json``, ``profile_trace.json`` and a picture.
    """

    max_epochs: Annotated[int, Field(ge=1)] = 15
    batch_size: Annotated[int, Field(ge=1)] = 8
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    tune: Literal["gpu", "auto", "off"] = "gpu"
    gradient_clip: Annotated[float, Field(gt=0.0)] | None = 1.0
    channels_last: bool = True
    cuda_graphs: bool = False
    activation_checkpointing: bool = False
    auto_batch: bool = False
    compile: bool = False
    validate_every_epochs: Annotated[int, Field(ge=1)] = 1
    num_workers: Annotated[int, Field(ge=0)] = 0
    devices: Annotated[int, Field(ge=1)] | None = None
    time_limit_min: Annotated[float, Field(gt=0.0)] | None = None
    resume: str = "auto"
    init_from: str | None = None
    extend: str | None = None
    keep_optimizer: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        """Check combinations of keys."""
        if self.auto_batch and self.compile:
            raise UserError("trainer.auto_batch: true is not allowed with trainer.compile=true; turn one of them off")
        if self.init_from is not None and self.resume not in ("auto", "never"):
            raise UserError(
                f"trainer.init_from: {self.init_from!r} is not allowed with trainer.resume={self.resume}, a checkpoint "
                "with its own weights"
            )
        if self.extend is not None and (self.init_from is not None or self.resume not in ("auto", "never")):
            other = "trainer.init_from" if self.init_from is not None else f"trainer.resume={self.resume}"
            raise UserError(f"trainer.extend: {self.extend!r} is not allowed with {other}, which starts elsewhere")
