"""Every registered metric against the suite of metrics, and built-in ones against other implementations."""

from __future__ import annotations

from itertools import combinations, product
from typing import ClassVar

import numpy as np
import pandas as pd
import scipy.stats
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import accuracy_score, balanced_accuracy_score, mean_squared_error, r2_score
from torch.distributions import Normal, kl_divergence

from menvae.conformance import MetricConformance, SplitExample
from menvae.conformance.metrics import as_arrays
from menvae.metrics import Metric

Reference = dict[str, float]


def has(example: SplitExample) -> np.ndarray:
    """Return which channels which subject has [N, C]."""
    available = example.batch.available
    return np.ones(example.batch.inputs.shape[:2], bool) if available is None else available.numpy()


def of_images(example: SplitExample, kind: str, measure: object) -> Reference:
    arrays, there, channels = as_arrays(example), has(example), example.context.channels
    found = {}
    for index, channel in enumerate(channels):
        pairs = [
            (arrays["inputs"][row, index], arrays["reconstruction"][row, index])
            for row in np.flatnonzero(there[:, index])
        ]
        found[f"val_epoch/{kind}_{channel}"] = float(np.mean([measure(x, y, data_range=np.ptp(x)) for x, y in pairs]))  # type: ignore[operator]
    return found


def ssim(example: SplitExample, metric: Metric) -> Reference:
    return of_images(example, "ssim", structural_similarity)


def psnr(example: SplitExample, metric: Metric) -> Reference:
    return of_images(example, "psnr", peak_signal_noise_ratio)


def mse(example: SplitExample, metric: Metric) -> Reference:
    arrays, there = as_arrays(example), has(example)
    return {
        f"val_epoch/mse_{column}": float(
            mean_squared_error(
                arrays["inputs"][there[:, index], index], arrays["reconstruction"][there[:, index], index]
            )
        )
        for index, column in enumerate(example.context.channels)
    }


def r2(example: SplitExample, metric: Metric) -> Reference:
    found: Reference = {}
    for partition, names in example.context.supervision.items():
        values = []
        for column, name in enumerate(names):
            rows = example.batch.observed[partition][:, column].numpy()
            pair = (example.batch.targets[partition], example.output.predictions[partition])
            values.append(float(r2_score(*(tensor.numpy()[rows, column] for tensor in pair))))
            found[f"sem/{name}_r2"] = values[-1]
        found[f"sem/{partition}_r2"] = float(np.mean(values))
    return found


def _classes(example: SplitExample) -> tuple[np.ndarray, np.ndarray]:
    arrays = as_arrays(example)
    known = arrays["labels"] >= 0
    return arrays["labels"][known], arrays["logits"].argmax(axis=1)[known]


def accuracy(example: SplitExample, metric: Metric) -> Reference:
    return {"sem/class_accuracy": float(accuracy_score(*_classes(example)))}


def balanced_accuracy(example: SplitExample, metric: Metric) -> Reference:
    return {"sem/class_balanced_accuracy": float(balanced_accuracy_score(*_classes(example)))}


def _blocks(example: SplitExample) -> dict[str, np.ndarray]:
    mean = as_arrays(example)["mean"]
    return {name: mean[:, slice(*example.context.layout.bounds(name))] for name in example.context.layout}


def dcor(example: SplitExample, metric: Metric) -> Reference:
    import dcor

    found = {}
    for (a, x), (b, y) in combinations(_blocks(example).items(), 2):
        squared = float(dcor.u_distance_correlation_sqr(x, y))
        found[f"indep/dcor_{a}_{b}"] = float(np.sign(squared) * np.sqrt(abs(squared)))
    return {**found, "indep/max_dcor": max(map(abs, found.values()))}


def correlation(example: SplitExample, metric: Metric) -> Reference:
    return {
        f"indep/corr_{a}_{b}": float(np.mean([abs(np.corrcoef(u, v)[0, 1]) for u, v in product(x.T, y.T)]))
        for (a, x), (b, y) in combinations(_blocks(example).items(), 2)
    }


def _active(example: SplitExample, metric: Metric) -> dict[str, list[bool]]:
    """Return which dimensions vary, by ending of the key; variances by SciPy."""
    threshold = metric.threshold  # type: ignore[attr-defined]
    blocks = {"": as_arrays(example)["mean"], **{f"_{name}": block for name, block in _blocks(example).items()}}
    return {
        ending: [bool(scipy.stats.moment(column, 2) > threshold) for column in block.T]
        for ending, block in blocks.items()
    }


def active_units(example: SplitExample, metric: Metric) -> Reference:
    return {f"diag/au_count{ending}": float(sum(active)) for ending, active in _active(example, metric).items()}


def active_share(example: SplitExample, metric: Metric) -> Reference:
    return {f"diag/au_frac{ending}": sum(active) / len(active) for ending, active in _active(example, metric).items()}


def latent_variance(example: SplitExample, metric: Metric) -> Reference:
    return {"diag/mu_var_mean": float(np.mean(scipy.stats.moment(as_arrays(example)["mean"], 2)))}


def latent_logvar(example: SplitExample, metric: Metric) -> Reference:
    return {"diag/logvar_mean": float(example.output.posterior.logvar.mean())}


def latent_sd(example: SplitExample, metric: Metric) -> Reference:
    arrays = as_arrays(example)
    of_subjects = scipy.stats.norm(arrays["mean"], np.exp(0.5 * arrays["logvar"]))
    first, second = of_subjects.moment(1).mean(axis=0), of_subjects.moment(2).mean(axis=0)
    return {"diag/z_std": float(np.sqrt(second - first**2).mean())}


def latent_kl(example: SplitExample, metric: Metric) -> Reference:
    posterior, layout = example.output.posterior, example.context.layout
    q = Normal(posterior.mean.double(), (0.5 * posterior.logvar.double()).exp())
    kl = kl_divergence(q, Normal(torch.zeros(1), torch.ones(1)))
    parts = {name: layout.select(kl, name).sum(dim=1).mean().item() for name in layout}
    return {"diag/kl_all_nats": kl.sum(dim=1).mean().item(), **{f"diag/kl_{name}_nats": v for name, v in parts.items()}}


def _errors(example: SplitExample) -> dict[str, float]:
    kind = "errors."
    found = {name: values for name, values in example.errors.items() if name.startswith(kind)}
    return {name.removeprefix(kind): float(np.mean(values.double().numpy())) for name, values in found.items()}


def reconstruction_error(example: SplitExample, metric: Metric) -> Reference:
    return {f"diag/recon_{name}_mse": _errors(example)[name] for name in ("mu", "sampled")}


def foreign_error(example: SplitExample, metric: Metric) -> Reference:
    return {f"diag/recon_{name}_mse": _errors(example)[name] for name in ("shuffled", "mean_z", "z0")}


def decoder_ratio(example: SplitExample, metric: Metric) -> Reference:
    errors = _errors(example)
    return {f"diag/{name}_ratio": errors[name] / errors["mu"] for name in ("shuffled", "mean_z", "z0")}


def sampling_error(example: SplitExample, metric: Metric) -> Reference:
    return {"diag/recon_delta_mu_vs_sampled": _errors(example)["sampled"] - _errors(example)["mu"]}


def _ratio(example: SplitExample, foreign: str, own: str) -> float:
    """Return the ratio of the column means of the complete rows."""
    columns = {name: example.errors[name].double().numpy() for name in (foreign, own)}
    means = pd.DataFrame(columns).dropna().mean()
    return float(means[foreign] / means[own])


def reads(example: SplitExample, metric: Metric) -> Reference:
    names = list(metric.context.layout)
    return {f"diag/reads_{name}": _ratio(example, f"final_errors.without_{name}", "errors.mu") for name in names}


def reads_tumour(example: SplitExample, metric: Metric) -> Reference:
    names = list(metric.context.layout)
    return {
        f"diag/reads_{name}_tumour": _ratio(example, f"tumour_errors.without_{name}", "tumour_errors.mu")
        for name in names
    }


def mean_image_ratio(example: SplitExample, metric: Metric) -> Reference:
    return {"diag/mean_image_ratio": _ratio(example, "final_errors.mean_image", "errors.mu")}


def tumour_error(example: SplitExample, metric: Metric) -> Reference:
    return {"diag/recon_tumour_mse": float(pd.Series(example.errors["tumour_errors.mu"].double().numpy()).mean())}


class TestMetrics(MetricConformance):
    variants: ClassVar = {"active_units": [{}, {"threshold": 0.3}], "active_share": [{}, {"threshold": 0.3}]}
    references: ClassVar = {
        "ssim": ssim,
        "psnr": psnr,
        "mse": mse,
        "r2": r2,
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "dcor": dcor,
        "correlation": correlation,
        "active_units": active_units,
        "active_share": active_share,
        "latent_variance": latent_variance,
        "latent_logvar": latent_logvar,
        "latent_sd": latent_sd,
        "latent_kl": latent_kl,
        "reconstruction_error": reconstruction_error,
        "foreign_error": foreign_error,
        "decoder_ratio": decoder_ratio,
        "sampling_error": sampling_error,
        "reads": reads,
        "reads_tumour": reads_tumour,
        "mean_image_ratio": mean_image_ratio,
        "tumour_error": tumour_error,
    }
