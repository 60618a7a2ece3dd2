"""Why a VAE at all? Six systems that read a tumour's volume, location and shape from the images of one cohort.

Trains on one phantom cohort, by real ``menvae-train`` commands, with the same epochs, batches and mirrored heads:

- the recipe, ``experiment=semivae``, and ``experiment=semivae_run6`` as in ``gates.py``;
- a plain VAE, with a ridge probe on its mean latents;
- ``experiment=sdp`` on frozen features, the pooled feature maps of the U-Net of "segment, then measure";

and computes two references: the encoder of Run 6 with a linear head, trained on the targets alone, and "segment, then
measure". Ridge penalties are chosen by cross-validation inside the training subjects. Prints what each system reads
from the test split, with 95 % intervals over patients, and what it costs. Encoding is timed in batches of 8 that lie
in memory; the parameters are those that it needs, and all.

Claims: the recipe has a larger R2 of volume and of shape than Run 6 and than the plain VAE, and a smaller leak than Run
6. The exit status is 1 where one does not hold, or where a run fails.

    python tests/benchmarks/systems.py                               # half an hour on two cores
    python tests/benchmarks/systems.py --seed 1 --folder kept        # again: finished runs are not repeated
    python tests/benchmarks/systems.py --subjects 80 --epochs 2      # a trial, whose claims mean nothing
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from gates import MODELS, PARTITIONS, SHARE_JUDGED, SPLIT_SEED, add_options, command, explained, on_phantoms, trained
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from menvae.console import logs
from menvae.data.batches.splits import SPLITS, Split
from menvae.data.masks.features import mask_features
from menvae.data.tables.tabular import row_names, split_groups
from menvae.errors import UserError
from menvae.evaluation.estimates import estimate
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.r2 import TargetR2
from menvae.references.cohort import ReferenceCohort
from menvae.references.find import Kind, find_references, identity_of
from menvae.references.segmented import without_small_parts
from menvae.references.store import ReferenceStore
from menvae.references.unet import UNet
from menvae.runs.finished import FinishedRun, load_run
from menvae.runs.loading import usable_device
from menvae.runs.references import ceiling_reader, reference_cohort
from menvae.types import NUM_LABELS, Batch

PENALTIES = np.logspace(-2, 6, 17)
PLAIN = (
    *("model=vae", "loss=vae", "term@loss.terms.recon=calibrated", "schedule@loss.schedules.kl=linear"),
    *("loss.schedules.kl.start=2", "loss.schedules.kl.length=4"),
    *("loss.terms.kl.reduction=per_voxel", "loss.terms.kl.free_bits=0", "loss.lambda_recon=10", "loss.lambda_kl=10"),
    *("optimizer.learning_rate=3e-3", "augmentation.flip=0.5"),
)
"""The evidence lower bound of the recipe, without supervision."""

RECIPE, RUN_6, PROBED = "SemiVAE, the recipe", "SemiVAE, Run 6", "plain VAE, ridge probe"
INDEPENDENCE = ("leak/max", "indep/max_dcor")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """What a system reads, and what it costs.

    Attributes:
        name: its name in tables.
        r2: partition -> R2 of the test split, with ``value``, ``low`` and ``high``.
        seconds: of training.
        milliseconds: to encode a subject.
        num_encoding: number of parameters that encoding needs.
        num_all: number of all that were trained.
        independence: the metrics `INDEPENDENCE`; empty without partitions.
        image_ratio: ``diag/mean_image_ratio``; None where no image is decoded.
    """

    name: str
    r2: Mapping[str, Mapping[str, Any]]
    seconds: float
    milliseconds: float
    num_encoding: int
    num_all: int
    independence: Mapping[str, float | None] = field(default_factory=dict)
    image_ratio: float | None = None


# --- runs and references ----------------------------------------------------------------------------------------------


def seconds_of(kind: Kind, cohort: ReferenceCohort, store: ReferenceStore, kept: Path) -> float:
    """Compute a reference, and return the seconds that it took; one that nobody timed is computed again."""
    if not kept.exists():
        shutil.rmtree(store.folder(kind, identity_of(kind, cohort)), ignore_errors=True)
        started = time.monotonic()
        find_references(cohort, store, "all", [kind])
        kept.write_text(json.dumps(time.monotonic() - started))
    return float(json.loads(kept.read_text()))


def judged_with_references(run: FinishedRun, folder: Path) -> dict[str, Any]:
    """Return the evaluation of a run, with its references."""
    if not (run.path / "evaluations").exists():
        command("evaluate", f"run={run.path}", "references=true", f"output_dir={folder}")
    (evaluation,) = run.path.glob("evaluations/*/evaluation.json")
    found: dict[str, Any] = json.loads(evaluation.read_text())
    return found


def of_run(name: str, run: FinishedRun, r2: Mapping[str, Mapping[str, Any]] | None = None) -> System:
    """Describe a run by its own evaluation, and by the R2 of probes where it predicts no targets."""
    metrics = json.loads((run.path / "evaluation.json").read_text())["splits"]["test"]["metrics"]
    return System(
        name,
        r2 or {partition: metrics[f"sem/{partition}_r2"] for partition in PARTITIONS},
        float(json.loads((run.path / "summary.json").read_text())["seconds"]),
        milliseconds(lambda batch: run.posterior(batch).mean.cpu(), list(run.loaders["test"].epoch(0))),
        num_parameters(run.model.encoder),
        num_parameters(run.model),
        {key: metrics[key]["value"] for key in INDEPENDENCE if key in metrics},
        metrics["diag/mean_image_ratio"]["value"] if run.experiment.source.size else None,
    )


def num_parameters(*modules: nn.Module) -> int:
    """Return the number of parameters of some networks."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def milliseconds(encode: Callable[[Batch], object], batches: Sequence[Batch]) -> float:
    """Return the milliseconds a subject that encoding takes, after a first batch that is not timed."""
    encode(batches[0])
    started = time.monotonic()
    for batch in batches:
        encode(batch)
    return 1000.0 * (time.monotonic() - started) / sum(len(batch) for batch in batches)


# --- probes -----------------------------------------------------------------------------------------------------------


def names_of_targets(run: FinishedRun) -> list[str]:
    """Return the names of the F targets of a run, partition by partition."""
    return [name for names in run.experiment.supervision.values() for name in names]


def targets_of(run: FinishedRun) -> dict[str, Floats]:
    """Return subject -> its z-scored targets [F]; NaN where not observed."""
    fitted = run.data.targets
    assert fitted is not None
    names = names_of_targets(run)
    rows = {subject: [fitted.normalizer.normalise(raw, name) for name in names] for subject, raw in fitted.raw.items()}
    return {subject: np.array(row, dtype=np.float64) for subject, row in rows.items()}


def ridge_of(inputs_NP: Floats, target_N: Floats) -> Any:
    """Fit a ridge regression of standardised inputs where the target is observed; its penalty by leave-one-out."""
    seen = np.isfinite(target_N)
    return make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(inputs_NP[seen], target_N[seen])


def latents_of(run: FinishedRun, split: Split) -> dict[str, Floats]:
    """Return subject -> its mean latent [Z]."""
    found: dict[str, Floats] = {}
    for batch in run.loaders[split].epoch(0):
        found |= zip(batch.subject_id, run.posterior(batch).mean.double().cpu().numpy(), strict=True)
    return found


def probed(run: FinishedRun, supervised: FinishedRun) -> dict[str, Mapping[str, Any]]:
    """Return partition -> R2 with which ridge probes of a run's latents read the targets of another one."""
    truth, train, test = targets_of(supervised), latents_of(run, "train"), latents_of(run, "test")
    subjects, learnt = sorted(test), np.array([truth[subject] for subject in train])
    codes, held = np.array(list(train.values())), np.array([test[subject] for subject in subjects])
    read = np.stack([ridge_of(codes, target).predict(held) for target in learnt.T], axis=1)
    true = np.array([truth[subject] for subject in subjects])
    arrays, start = dict[str, Floats](), 0
    for partition, names in supervised.experiment.supervision.items():
        own = slice(start, start := start + len(names))
        arrays[f"targets.{partition}"] = np.nan_to_num(true[:, own])
        arrays[f"observed.{partition}"] = np.isfinite(true[:, own]).astype(np.float64)
        arrays[f"predictions.{partition}"] = read[:, own]
    experiment = supervised.experiment
    metric = TargetR2(MetricContext(experiment.layout, (), (), experiment.supervision))
    found = estimate([metric], SplitRecord(tuple(subjects), arrays)).estimates
    return {partition: asdict(found[f"sem/{partition}_r2"]) for partition in PARTITIONS}


# --- frozen features --------------------------------------------------------------------------------------------------


@torch.no_grad()
def pooled(network: UNet, images: Tensor) -> Tensor:
    """Images [B, C, D, H, W] -> mean and maximum over the box of each channel of each level, down and up [B, F]."""
    maps: list[Tensor] = []
    levels = [network.first, *network.down, *network.join]
    hooks = [level.register_forward_hook(lambda _, __, found: maps.append(found.flatten(2))) for level in levels]
    network(images)
    for hook in hooks:
        hook.remove()
    return torch.cat([values for found in maps for values in (found.mean(dim=2), found.amax(dim=2))], dim=1)


def write_table(path: Path, network: UNet, cohort: ReferenceCohort, run: FinishedRun) -> None:
    """Write the pooled features of a network beside the targets of a run, a row per subject.

    A table has splits of its own: rows are put where they give each subject the split that it has. Features are clipped
    to the range of the training subjects: those that hardly vary in training would be hundreds of sd away elsewhere.
    """
    fitted = run.data.targets
    assert fitted is not None
    of_row = split_groups(np.arange(len(run.splits)), SHARE_JUDGED, SHARE_JUDGED, SPLIT_SEED)
    parts: list[pd.DataFrame] = []
    for split in SPLITS:
        batches = [(batch.subject_id, pooled(network, batch.inputs).cpu()) for batch in cohort.batches(split)]
        subjects = [subject for some, _ in batches for subject in some]
        features = torch.cat([values for _, values in batches]).double().numpy()
        part = pd.DataFrame(features, index=np.flatnonzero(of_row == split)).add_prefix("feature_")
        if parts:
            part = part.clip(parts[0][part.columns].min(), parts[0][part.columns].max(), axis=1)
        for name in names_of_targets(run):
            part[name] = np.array([fitted.raw[subject][name] for subject in subjects], dtype=np.float64)
        parts.append(part.assign(subject=subjects))
    pd.concat(parts).sort_index().to_parquet(path, index=False)


def trained_on_table(path: Path, run: FinishedRun, folder: Path) -> FinishedRun:
    """Train ``experiment=sdp`` on a table that `write_table` wrote, with the partitions of a run."""
    table, supervision = pd.read_parquet(path), run.experiment.supervision
    features = table.filter(like="feature_").to_numpy()
    by_partition = ",".join(f"{partition}:[{','.join(names)}]" for partition, names in supervision.items())
    trained_on = trained(
        *("sdp", folder, "experiment=sdp", "data=table", f"data.path={path}"),
        *(f'data.columns=["feature_{{0..{features.shape[1] - 1}}}"]', f"model.supervision={{{by_partition}}}"),
        f"data.target_columns=[{','.join(names_of_targets(run))}]",
        f"encoder.input_noise={input_noise(features, table['subject'], run):.3g}",
    )
    sdp = load_run(trained_on, device=run.device)
    rows = zip(row_names(len(table)), table["subject"], strict=True)
    assert all(sdp.splits[row] == run.splits[subject] for row, subject in rows), "the splits of the table differ"
    return sdp


def input_noise(features_NF: Floats, subjects: Sequence[str], run: FinishedRun) -> float:
    """Return the noise that stands for the median penalty of ridge regressions of the targets, N input_noise^2."""
    truth = targets_of(run)
    rows = [row for row, subject in enumerate(subjects) if run.splits[subject] == "train"]
    targets = np.array([truth[subject] for subject in subjects])[rows]
    penalties = [ridge_of(features_NF[rows], target)[-1].alpha_ for target in targets.T]
    return float(np.sqrt(np.median(penalties) / len(rows)))


# --- systems ----------------------------------------------------------------------------------------------------------


def systems(folder: Path, options: argparse.Namespace) -> list[System]:
    """Train and judge all systems; raises `subprocess.CalledProcessError` or `UserError` where a run fails."""
    device = usable_device(None)
    cohort = on_phantoms(options.seed, options)
    recipe, run6, plain = (
        load_run(trained(name, folder, *overrides, *cohort), device=device)
        for name, overrides in {**MODELS, "plain_vae": PLAIN}.items()
    )
    return [
        of_run(RECIPE, recipe),
        of_run(RUN_6, run6),
        of_run(PROBED, plain, probed(plain, recipe)),
        *without_images(recipe, run6, folder),
    ]


def without_images(recipe: FinishedRun, run6: FinishedRun, folder: Path) -> list[System]:
    """Train and judge the systems that draw no image."""
    cohort, store = reference_cohort(run6.experiment, run6.data, run6.device), ReferenceStore(folder)
    assert cohort is not None
    of_ceiling = seconds_of("ceiling", cohort, store, folder / "ceiling.json")
    of_unet = seconds_of("segmented", cohort, store, folder / "segmented.json")
    beside = judged_with_references(run6, folder)["references"]["test"]
    r2 = {kind: {name: beside[name][kind] for name in PARTITIONS} for kind in ("ceiling", "segmented")}
    ceiling, batches = ceiling_reader(cohort, run6.experiment), list(cohort.batches("test"))
    assert ceiling is not None
    unet = UNet(cohort.num_channels, NUM_LABELS).to(cohort.device).eval()
    unet.load_state_dict(store.load_weights("segmented", identity_of("segmented", cohort), cohort.device))
    if not (path := folder / "features.parquet").exists():
        write_table(path, unet, cohort, recipe)
    sdp = trained_on_table(path, recipe, folder)
    on_features = of_run("SDP on frozen features", sdp)

    @torch.no_grad()
    def project(batch: Batch) -> Tensor:
        return sdp.model.encode(pooled(unet, batch.inputs), None).mean.cpu()

    @torch.no_grad()
    def measure(batch: Batch) -> None:
        masks = unet(batch.inputs).argmax(dim=1).to(torch.uint8).cpu().numpy()
        for subject, mask in zip(batch.subject_id, masks, strict=True):
            mask_features(without_small_parts(mask), cohort.spacing_mm[subject])

    alone, segmenting = num_parameters(ceiling), num_parameters(unet)
    return [
        replace(
            on_features,
            seconds=of_unet + on_features.seconds,
            milliseconds=milliseconds(project, batches),
            num_encoding=segmenting + on_features.num_encoding,
            num_all=segmenting + on_features.num_all,
        ),
        System(
            "supervised alone",
            r2["ceiling"],
            of_ceiling,
            milliseconds(lambda batch: ceiling.read(batch.inputs, batch.available).cpu(), batches),
            alone,
            alone,
        ),
        System(
            "segment, then measure",
            r2["segmented"],
            of_unet,
            milliseconds(measure, batches),
            segmenting,
            segmenting,
        ),
    ]


def broken_claims(found: Sequence[System]) -> list[str]:
    """Return the claims that do not hold."""
    of = {system.name: system for system in found}
    recipe, run6 = of[RECIPE], of[RUN_6]
    broken = [
        f"the recipe's R2 of {partition} is not above that of {other.name}"
        for other in (run6, of[PROBED])
        for partition in ("vol", "shape")
        if not _above(recipe.r2[partition]["value"], other.r2[partition]["value"])
    ]
    if not _above(run6.independence["leak/max"], recipe.independence["leak/max"]):
        broken.append(f"the recipe's leak is not below that of {RUN_6}")
    return broken


def _above(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and value > other


# --- tables -----------------------------------------------------------------------------------------------------------

Cells = list[list[str]]


def quality(found: Sequence[System]) -> Cells:
    """Return header and rows of what systems read and draw."""
    header = ["test split", *(f"R² of {partition}" for partition in PARTITIONS), "leak", "dCor", "image"]
    rows = [
        [
            system.name,
            *(_with_interval(system.r2[partition]) for partition in PARTITIONS),
            *(_short(system.independence.get(key), "n/a") for key in INDEPENDENCE),
            _short(system.image_ratio, "-"),
        ]
        for system in found
    ]
    return [header, *rows]


def cost(found: Sequence[System]) -> Cells:
    """Return header and rows of what systems cost."""
    header = ["cost", "training, s", "encoding, ms a subject", "parameters to encode", "all parameters"]
    rows = [
        [
            system.name,
            f"{system.seconds:,.0f}",
            f"{system.milliseconds:.1f}",
            f"{system.num_encoding:,}",
            f"{system.num_all:,}",
        ]
        for system in found
    ]
    return [header, *rows]


def _with_interval(value: Mapping[str, Any]) -> str:
    if value["low"] is None:
        return _short(value["value"], "n/a")
    return f"{_short(value['value'])} [{_short(value['low'])}, {_short(value['high'])}]"


def _short(value: float | None, missing: str = "n/a") -> str:
    if value is None:
        return missing
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def as_table(cells: Cells) -> Table:
    """Return a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in cells[1:]:
        table.add_row(*row)
    return table


def as_markdown(cells: Cells) -> str:
    """Return a table for GitHub."""
    header, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([header, "|---" * len(cells[0]) + "|", *rows])


def main() -> int:
    """Train, judge and print; 0 where the claims hold, 1 where one does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="of the cohort; default: drawn")
    add_options(parser)
    parser.add_argument("--markdown", action="store_true", help="print the tables as GitHub markdown")
    options = parser.parse_args()
    options.seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"cohort: {options.seed}")
    logs.configure(None)  # shows the training of the references
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve() / f"cohort_{options.seed}"
        try:
            found = systems(folder, options)
        except (subprocess.CalledProcessError, UserError) as error:
            console.print(f"FAILS  {explained(error)}", markup=False, soft_wrap=True)
            return 1
    for cells in (quality(found), cost(found)):
        console.print(as_markdown(cells) if options.markdown else as_table(cells), markup=False, soft_wrap=True)
        console.print()
    broken = broken_claims(found)
    verdict = f"FAILS  {'; '.join(broken)}" if broken else "holds  the recipe reads more than both, and leaks less"
    console.print(verdict, markup=False, soft_wrap=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
