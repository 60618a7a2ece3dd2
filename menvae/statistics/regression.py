"""Linear regression whose moments are averages over batches, as tensors on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menvae.collectives import mean_over_ranks


class RunningRegression(nn.Module):
    """Least squares of y on x, from exponential averages of the second moments of training batches.

    Attributes:
        moments: mean of v v^T for v = [1, x, y], float32 [1 + P + F, 1 + P + F].
        slopes: offset and slopes [1 + P, F]; 0 without data.
        num_batches: batches that it has seen.
    """

    moments: Tensor
    slopes: Tensor
    num_batches: Tensor

    def __init__(self, num_inputs: int, num_outputs: int, *, slowest: float, ridge: float = 1e-4) -> None:
        """Start without data.

        Args:
            num_inputs: P.
            num_outputs: F.
            slowest: smallest weight of a batch: about the last ``1 / slowest`` batches count.
            ridge: added to the variances of x, which should be of order 1.
        """
        super().__init__()
        self.num_inputs, self.slowest, self.ridge = num_inputs, slowest, ridge
        self.register_buffer("moments", torch.zeros(1 + num_inputs + num_outputs, 1 + num_inputs + num_outputs))
        self.register_buffer("slopes", torch.zeros(1 + num_inputs, num_outputs))
        self.register_buffer("num_batches", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """X [B, P] -> prediction of y [B, F], in float32, also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return self.slopes[0] + x.float() @ self.slopes[1:]

    @torch.no_grad()
    def commit(self, x: Tensor, y: Tensor) -> None:
        """Add a training batch, x [B, P] and y [B, F]."""
        rows = torch.cat([torch.ones_like(x[:, :1]), x, y], dim=1).float()
        self.num_batches += 1
        share = (1.0 / self.num_batches).clamp(min=self.slowest)
        self.moments += share * (mean_over_ranks(rows.T @ rows / len(rows)) - self.moments)
        first = 1 + self.num_inputs
        mean_x, mean_y = self.moments[0, 1:first], self.moments[0, first:]
        xx = self.moments[1:first, 1:first] - torch.outer(mean_x, mean_x)
        xy = self.moments[1:first, first:] - torch.outer(mean_x, mean_y)
        slopes = torch.linalg.solve(xx + self.ridge * torch.eye(len(xx), device=xx.device), xy)
        self.slopes.copy_(torch.cat([(mean_y - mean_x @ slopes).unsqueeze(0), slopes]))
