"""Run by torchrun with 2 ranks, and once alone: steps through batch normalisation, and what they leave.

batch_norm.py OUTPUT
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from menvae.apps.outcome import leave
from menvae.latent import LatentLayout
from menvae.objective import Objective
from menvae.registry import build
from menvae.terms import TermContext
from menvae.training.place import Place, place
from menvae.types import Batch, ModelOutput, Posterior, Progress

ROWS, Z = 16, 4


class TinyModel(nn.Module):
    """A tabular VAE that draws no noise: all ranks' noise together is not that of one process."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build("encoder", {"name": "mlp", "widths": [8, 5]}, 6, (), LatentLayout({"z": Z}))
        self.decoder = build("decoder", {"name": "mlp", "widths": [5, 8]}, LatentLayout({"z": Z}), 6, ())
        self.classifier = build("head", {"name": "classifier", "width": 8, "dropout": 0.0}, Z, 3)

    def forward(self, batch: Batch) -> ModelOutput:
        mean, logvar = self.encoder(batch.inputs)
        extras = {"logits": self.classifier(mean), "hidden": (batch.inputs > 0.5).float()}
        return ModelOutput(Posterior(mean, logvar), mean, self.decoder(mean), {}, extras)


def results(reduction: str, here: Place) -> dict[str, Tensor]:
    """Return losses, gradients and statistics after two steps."""
    context = TermContext(LatentLayout({"residual": Z}), 6, ROWS)
    terms = {
        "recon": build("term", {"name": "mse", "reduction": "sum"}, context),
        "masked": build("term", {"name": "masked_mse"}, context),
        "kl": build("term", {"name": "kl", "reduction": "mean"}, context),
        "labelled": build("term", {"name": "cross_entropy", "reduction": reduction}, context),
    }
    torch.manual_seed(0)
    model = TinyModel()
    objective = Objective(terms, {"recon": 1.0, "masked": 0.5, "kl": 1.0, "cross_entropy": 1.0}, {})
    parallel = DistributedDataParallel(model, broadcast_buffers=False) if here.num_ranks > 1 else model
    mine = slice(here.rank * ROWS // here.num_ranks, (here.rank + 1) * ROWS // here.num_ranks)
    labels = torch.tensor([0, 1, 2, -1, -1, -1, 0, -1] + [2] * 8)
    for step in range(2):
        inputs = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step))
        inputs *= torch.linspace(0.5, 3.0, ROWS)[:, None]
        batch = Batch(inputs[mine], ("",) * len(inputs[mine]), labels=labels[mine])
        model.zero_grad()
        report = objective(batch, parallel(batch), Progress(1.0, 1.0))
        report.total.backward()
    found = {"total": report.total.detach()}
    found |= {f"raw.{name}": scalar.raw.detach() for name, scalar in report.scalars.items()}
    found |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found |= {f"buffer.{name}": value.clone() for name, value in model.named_buffers()}
    return found


def main() -> None:
    with place() as here:
        for reduction in ("mean", "sum"):
            torch.save(results(reduction, here), f"{sys.argv[1]}.{reduction}.{here.rank}")


if __name__ == "__main__":
    main()
    leave(0)
