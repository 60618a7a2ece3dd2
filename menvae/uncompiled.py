"""Torch without its compiler, which takes longer to import than the rest of torch.

`torch.use_deterministic_algorithms` and `torch.optim` import it in every process, only to tell it about themselves.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

_TOLD_TO_THE_COMPILER = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of an optimiser that the compiler has to leave alone."""


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` without the calls that split a graph of the compiler around a step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; see `torch.optim.AdamW.step`."""
        update: Callable[..., float | None] = inspect.unwrap(torch.optim.AdamW.step)
        return update(self, closure)


def leave_out_compiler() -> None:
    """Let optimisers be built and used without the compiler, which menvae never lets see an optimiser."""
    for name in _TOLD_TO_THE_COMPILER:
        method: Any = inspect.unwrap(getattr(Optimizer, name))
        vars(method).setdefault("__dynamo_disable", method)  # where torch looks for what the compiler made of it


def use_deterministic_algorithms(mode: bool) -> None:
    """Do what the function of torch does; `tell_compiler` tells the compiler later, if it is used."""
    try:
        torch._C._set_deterministic_algorithms(mode, warn_only=False)  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # another version of torch
        torch.use_deterministic_algorithms(mode)
    if "torch._inductor.config" in sys.modules:
        tell_compiler()


def tell_compiler() -> None:
    """Tell the compiler whether to be deterministic; call before compiling."""
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
