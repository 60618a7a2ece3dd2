"""Run by torchrun with 2 ranks, and once alone: writes losses and gradients of the same joined batch.

two_ranks.py OUTPUT [ROWS_OF_A_MICRO_BATCH]
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from menvae import collectives
from menvae.apps.outcome import leave
from menvae.latent import LatentLayout
from menvae.objective import Objective
from menvae.registry import build
from menvae.terms import TermContext
from menvae.training.passes import MicroBatches, WholeBatch
from menvae.training.place import place
from menvae.types import Batch, ModelOutput, Posterior, Progress

ROWS, Z, FEATURES = 16, 6, 3
PROGRESS = Progress(1.0, 1.0)
RECONSTRUCTION = {
    "mse": {"name": "mse", "tumour_weight": 5.0},
    "calibrated": {"name": "calibrated"},
    "per_modality": {"name": "calibrated", "per_modality": True, "tumour_weight": 2.0},
}


class TinyModel(nn.Module):
    """Linear encoder, decoder and head, deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.head = nn.Linear(8, 2 * Z), nn.Linear(Z, 8), nn.Linear(2, FEATURES)
        self.small, self.inverse = nn.Linear(2, 1), nn.Linear(FEATURES, 2)

    def forward(self, batch: Batch) -> ModelOutput:
        mean, logvar = self.encode(batch.inputs.flatten(1)).chunk(2, dim=1)
        reconstruction = self.decode(mean + 0.1 * logvar).reshape(batch.inputs.shape)
        extras = {"auxiliary_reconstruction": self.small(mean[:, 4:]).reshape(-1, 1, 1, 1, 1)}
        vol = self.head(mean[:, :2])
        extras["cycle.vol"] = self.inverse(vol.detach())
        return ModelOutput(Posterior(mean, logvar), mean, reconstruction, {"vol": vol}, extras)


def objective(recon: str, clamping: str) -> Objective:
    """Every term that looks at more than one subject; the first variant has the other settings of some of them."""
    first = recon == "mse"
    layout = LatentLayout({"vol": 2, "loc": 2, "residual": 2})
    context = TermContext(layout, 8, ROWS)
    terms = {
        "recon": build("term", RECONSTRUCTION[recon], context),
        "kl": build("term", {"name": "kl", "free_bits": 0.05, "clamping": clamping}, context),
        "vol": build("term", {"name": "semantic", "partition": "vol"}, context),
        "dcor": build("term", {"name": "dcor", "buffer_size": 24}, context),
        "hsic": build("term", {"name": "hsic", "buffer_size": 24, "gradient_scale": "all_rows"}, context),
        "aux_recon": build("term", {"name": "aux_recon"}, context),
        "cycle": build("term", {"name": "cycle", "partition": "vol"}, context),
        "tcvae": build("term", {"name": "tcvae", "estimator": "mws" if first else "mss"}, context),
        "dip": build("term", {"name": "dip", "kind": "i" if first else "ii"}, context),
        "cross_partition": build(
            "term", {"name": "cross_partition", "statistic": "covariance" if first else "correlation"}, context
        ),
        "manifold": build("term", {"name": "manifold"}, context),
        "contrastive": build("term", {"name": "contrastive", "partitions": None if first else ["residual"]}, context),
    }
    weights = {"recon": 1.0, "kl": 0.3, "vol": 2.0, "dcor": 5.0, "hsic": 5.0, "aux_recon": 0.5, "cycle_vol": 2.0}
    weights |= {"mi": 0.1, "tc": 0.2, "dwkl": 0.3, "od": 0.4, "d": 0.5, "cross_partition": 0.6, "manifold": 0.7}
    weights["contrastive"] = 0.8
    return Objective(terms, weights, {})


def batch_of(seed: int, rank: int, num_ranks: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 2, 1, 2, 2, generator=generator)
    targets = torch.randn(ROWS, FEATURES, generator=generator)
    observed = torch.rand(ROWS, FEATURES, generator=generator) > 0.4
    mine = slice(rank * ROWS // num_ranks, (rank + 1) * ROWS // num_ranks)
    names = tuple(str(row) for row in range(ROWS))[mine]
    patients = tuple(f"patient {row % 7}" for row in range(ROWS))[mine]  # most have a visit on either rank
    mask = torch.randint(0, 4, (ROWS, 1, 2, 2, 2), generator=generator)[mine]
    return Batch(inputs[mine], names, {"vol": targets[mine]}, {"vol": observed[mine]}, mask, patient_id=patients)


def main() -> None:
    results = {}
    with place() as here:
        for recon, clamping in (("mse", "batch_mean"), ("calibrated", "per_sample"), ("per_modality", "batch_mean")):
            torch.manual_seed(0)
            model, loss = TinyModel(), objective(recon, clamping)
            parallel = DistributedDataParallel(model) if here.num_ranks > 1 else model
            passes = WholeBatch(parallel, nullcontext)
            if len(sys.argv) > 2:
                passes = MicroBatches(model, parallel, nullcontext, int(sys.argv[2]))
            for step in range(3):
                batch = batch_of(step, here.rank, here.num_ranks)
                model.zero_grad()
                output = passes.forward(batch)
                report = loss(batch, output, PROGRESS)
                passes.backward(report.total)
                loss.commit(output)
            results[f"{recon}/total"] = report.total.detach()
            results |= {f"{recon}/{name}": value for name, value in report.diagnostics.items()}
            results |= {f"{recon}/{name}": scalar.raw.detach() for name, scalar in report.scalars.items()}
            results |= {f"{recon}/grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
            results |= {f"{recon}/{name}": value.clone() for name, value in loss.state_dict().items()}
            everyone = collectives.gather_objects(results)
            for name, value in results.items():
                assert all(torch.equal(value, other[name]) for other in everyone), f"ranks differ in {name}"
        if here.is_main:
            torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
    leave(0)
