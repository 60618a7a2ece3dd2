"""Optimiser state of a checkpoint: checked before it is loaded, as torch accepts any and fails at the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"}
"""Entries of the optimisers of torch that have the shape of their parameter; others of plugins are not known."""


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of an optimiser of the same class and parameters.

    Args:
        optimizer: receives the state.
        state: output of its ``state_dict``, from a checkpoint.

    Raises:
        ValueError: the state is not one of this optimiser; torch raises other errors for some.
    """
    groups, known = state["param_groups"], optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in known]:
        raise ValueError("its optimiser has other parameters")
    for group, mine in zip(groups, known, strict=True):
        for key, value in mine.items():
            is_flag = isinstance(value, bool) or value is None  # later versions of torch add such, and fill them in
            known_value = group.get(key, value) if is_flag else group[key]
            if not _is_alike(known_value, value):
                raise ValueError(f"its optimiser has {str(known_value)[:60]!r} as '{key}'")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in state["state"].items():
        for key, value in entries.items():
            if not isinstance(value, Tensor | int | float | None):
                raise ValueError(f"its optimiser has {str(value)[:60]!r} as '{key}'")
            if key in _LIKE_PARAMETER and not (isinstance(value, Tensor) and value.shape == parameters[number].shape):
                raise ValueError(f"its optimiser has a '{key}' of another shape than the parameter")
    for group in groups:
        of_group = [entries for number in group["params"] if (entries := state["state"].get(number))]
        needed = {key for entries in of_group for key in entries} & {"step", *_LIKE_PARAMETER}
        needed |= {"max_exp_avg_sq"} if group.get("amsgrad") else set()
        for entries in of_group:
            if lacking := needed - entries.keys():
                raise ValueError(f"its optimiser lacks '{min(lacking)}' for some parameters")
    optimizer.load_state_dict(dict(state))


def _is_alike(value: object, known: object) -> bool:
    """Whether a value has the form of another: the same types, where int and float are alike."""
    if isinstance(known, bool) or known is None:
        return isinstance(value, bool) or (value is None and known is None)
    if isinstance(known, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(known, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(known)
            and all(_is_alike(one, other) for one, other in zip(value, known, strict=True))
        )
    return type(value) is type(known)
