"""Means and linear regressions over the training batches so far, as buffers of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menvae.collectives import mean_over_ranks, num_ranks


class RunningMean(nn.Module):
    """Mean over the rows of training batches: that of all at first, then an exponential average.

    Attributes:
        value: the mean; 0 without data.
        num_rows: rows that it has seen.
    """

    value: Tensor
    num_rows: Tensor

    def __init__(self, *size: int, memory: int) -> None:
        """Start without data.

        Args:
            size: of a row.
            memory: about so many of the last rows count.
        """
        super().__init__()
        self.memory = memory
        self.register_buffer("value", torch.zeros(size))
        self.register_buffer("num_rows", torch.zeros(()))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Add a batch [B, *size], and those of the other ranks."""
        self.add(rows.mean(dim=0), len(rows))

    @torch.no_grad()
    def add(self, mean: Tensor, num_rows: int) -> None:
        """Add the mean of a batch of so many rows, and those of the other ranks."""
        num_rows *= num_ranks()
        self.num_rows += num_rows
        weight = num_rows / self.num_rows.clamp(max=max(self.memory, num_rows))
        self.value += weight * (mean_over_ranks(mean) - self.value)


class RunningRegression(nn.Module):
    """Least squares of y on x, from running means of second moments.

    Attributes:
        moments: mean of v v^T for v = [1, x, y], float32 [1 + P + F, 1 + P + F].
        coefficients: intercept and slopes [1 + P, F]; 0 without data.
    """

    coefficients: Tensor

    def __init__(self, num_inputs: int, num_outputs: int, *, memory: int, ridge: float = 1e-4) -> None:
        """Start without data.

        Args:
            num_inputs: P.
            num_outputs: F.
            memory: about so many of the last rows count.
            ridge: added to the variances of x, which should be of order 1.
        """
        super().__init__()
        self.num_inputs, self.ridge = num_inputs, ridge
        num = 1 + num_inputs + num_outputs
        self.moments = RunningMean(num, num, memory=memory)
        self.register_buffer("coefficients", torch.zeros(1 + num_inputs, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """X [B, P] -> prediction of y [B, F], in float32, also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return self.coefficients[0] + x.float() @ self.coefficients[1:]

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a training batch, x [B, P] and y [B, F]."""
        rows = torch.cat([torch.ones_like(x[:, :1]), x, y], dim=1).float()
        self.moments.add(rows.T @ rows / len(rows), len(rows))
        moments, first = self.moments.value, 1 + self.num_inputs
        mean_x, mean_y = moments[0, 1:first], moments[0, first:]
        xx = moments[1:first, 1:first] - torch.outer(mean_x, mean_x)
        xy = moments[1:first, first:] - torch.outer(mean_x, mean_y)
        regular = xx + self.ridge * torch.eye(len(xx), device=xx.device)
        # solve would wait for a GPU, to check whether the matrix is singular
        slopes = torch.linalg.solve_ex(regular, xy).result
        self.coefficients.copy_(torch.cat([(mean_y - mean_x @ slopes).unsqueeze(0), slopes]))
