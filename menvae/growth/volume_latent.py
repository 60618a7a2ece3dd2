"""Latents of the volume that say a given volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

VolumeLatent = Literal["identity", "inverse", "minimum_norm"]

_TOLERANCE = 1e-7
_MAX_STEPS = 50
_MOST_HALVINGS = 12


def volume_latent(
    z_vol: Tensor, target: Tensor, head: Callable[[Tensor], Tensor], kind: VolumeLatent
) -> tuple[Tensor, float]:
    """Return latents of the volume's partition from which a head reads the target.

    The head is linearised, solved for the target and linearised again, until it says it; once is enough where it is
    linear. No step makes the error larger.

    Args:
        z_vol: present latents of the partition [P].
        target: what the head shall say, a number or [F].
        head: latents [P] -> a number or [F], differentiable.
        kind: ``identity``: only the first coordinates change, off which an identity head reads the targets;
            ``inverse``: steps along the Jacobian from 0, which are the pseudo-inverse of a linear head;
            ``minimum_norm``: the same from the present latents, which lead to those nearest to them if it is linear.

    Returns:
        Latents [P] in the type of ``z_vol``, and the largest round-trip error |head(latents) - target|.

    >>> z, error = volume_latent(torch.tensor([1.0, 5.0]), torch.tensor(3.0), lambda z: 2.0 * z[0], "minimum_norm")
    >>> z.tolist(), error
    ([1.5, 5.0], 0.0)
    """
    z = torch.zeros_like(z_vol) if kind == "inverse" else z_vol.detach().clone()
    wanted = target.detach().to(z).reshape(-1)

    def missing(at: Tensor) -> Tensor:
        return wanted - head(at).to(z).reshape(-1)

    movable = torch.arange(len(z), device=z.device) < (len(wanted) if kind == "identity" else len(z))
    left = missing(z).detach()
    for _ in range(_MAX_STEPS):
        if left.abs().max() <= _TOLERANCE:
            break
        jacobian = -torch.autograd.functional.jacobian(missing, z) * movable  # type: ignore[no-untyped-call]
        moved, left_then = _nearer(z, torch.linalg.pinv(jacobian) @ left, left, missing)
        if moved is z:
            break
        z, left = moved, left_then
    return z.to(z_vol), float(left.abs().max())


@torch.no_grad()
def _nearer(z: Tensor, step: Tensor, left: Tensor, missing: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Halve a step until the error shrinks; a step that never does is not taken."""
    for halvings in range(_MOST_HALVINGS):
        moved = z + 0.5**halvings * step
        left_then = missing(moved)
        if left_then.norm() < left.norm():
            return moved, left_then
    return z, left
