"""What custom autograd functions share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``backward`` of a `torch.autograd.Function` that computes gradients, and no gradients of gradients.

    `torch.autograd.function.once_differentiable` lets ``create_graph=True`` pass if the incoming gradient is a
    constant: a gradient penalty then has no effect. This decorator always raises.

    Args:
        backward: static method ``(ctx, *gradients)``.

    Returns:
        The same, raising RuntimeError under ``create_graph=True``.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # which create_graph=True means in a backward pass
            function = backward.__qualname__.rpartition(".")[0].lstrip("_")
            raise RuntimeError(f"{function} has no second derivative: create_graph=True is not supported")
        return backward(ctx, *gradients)

    return checked
