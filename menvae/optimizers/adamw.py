"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import nn

from menvae.registry import Field, register
from menvae.uncompiled import AdamW, leave_out_compiler


@register("optimizer", "adamw", reference="Loshchilov & Hutter 2019")
def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.5e-3,
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01,
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.99),
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, fused implementation.

    Args:
        parameters: parameters of the model.
        learning_rate: peak rate, scaled by the schedule ``learning_rate``.
        weight_decay: decay coefficient.
        betas: decay rates of the first and second moments.
    """
    leave_out_compiler()
    return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas, fused=True)
