"""Interventions: a decoder that draws balls, a reader that measures them, and changes that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.evaluation.estimates import estimate
from menvae.evaluation.final import evaluate_model, judge
from menvae.evaluation.interventions import swaps, with_interventions
from menvae.gates import Target
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.interventions import (
    LARGEST_RATIO,
    ONE_PATIENT,
    SEVERAL_RANKS,
    Interventions,
    intervention_table,
)
from menvae.models import Model
from menvae.statistics.estimate import Estimate
from menvae.training.settings import TrainerSettings
from menvae.types import Batch, ModelOutput, Posterior

LAYOUT = LatentLayout({"vol": 1, "loc": 2, "residual": 2})
SUPERVISION = {"vol": ["radius"], "loc": ["loc_x", "loc_y"]}
CONTEXT = MetricContext(LAYOUT, ("t1c",), (20, 20, 20), SUPERVISION)
GRID = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij"))


class Balls(Model):
    """Draws a soft ball: its radius is that of vol, its centre that of loc, the background that of the residual."""

    def __init__(self, growth_with_x: float = 0.0, reads_vol: bool = True) -> None:
        """Args: growth_with_x: change of the radius with loc_x, in z-scores. reads_vol: whether vol is read at all."""
        super().__init__()
        self.layout, self.supervision = LAYOUT, SUPERVISION
        self.growth_with_x, self.reads_vol = growth_with_x, reads_vol
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Rows of the first plane hold z."""
        mean = inputs[:, 0, 0, 0, :5]
        return Posterior(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, 5] -> [B, 1, 20, 20, 20]."""
        vol, x, y, background, _ = z.T.reshape(5, -1, 1, 1, 1)
        radius = 4.0 + 0.5 * (vol * self.reads_vol + self.growth_with_x * x)
        distance = ((GRID[0] - 10.0 - x) ** 2 + (GRID[1] - 10.0 - y) ** 2 + (GRID[2] - 10.0) ** 2).sqrt()
        return (torch.sigmoid(4.0 * (radius - distance)) + 0.01 * background).unsqueeze(1)


@dataclass
class Callipers:
    """Measures balls: radius and centre, by the moments of their voxels; not in the order of the supervision."""

    targets: tuple[str, ...] = ("loc_y", "radius", "spare", "loc_x")
    noise: float = 0.0

    def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
        """Return z-scores [N, 4]."""
        inside = (images[:, 0] - images[:, 0, 0, 0, 0].reshape(-1, 1, 1, 1)).double()
        total = inside.flatten(1).sum(dim=1)
        x, y = ((inside * axis).flatten(1).sum(dim=1) / total - 10.0 for axis in GRID[:2])
        radius = 2.0 * ((total * 0.75 / torch.pi) ** (1.0 / 3.0) - 4.0)
        read = torch.stack([y, radius, torch.zeros_like(x), x], dim=1)
        # every image has its own noise, but the same one each time that it is read
        seeds = [int(1e6 * value) for value in total.tolist()]
        noise = [torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return read + self.noise * torch.stack(noise)


def record_of(num: int, seed: int = 0) -> SplitRecord:
    """Return latents that are the targets, of ``num`` patients."""
    mean = np.random.default_rng(seed).normal(size=(num, 5))
    arrays = {"mean": mean, "targets.vol": mean[:, :1], "targets.loc": mean[:, 1:3]}
    arrays |= {f"observed.{name}": np.ones((num, len(features))) for name, features in SUPERVISION.items()}
    return SplitRecord(tuple(f"s{row:03d}" for row in range(num)), arrays)


def judged(model: Balls, reader: Callipers, record: SplitRecord) -> tuple[SplitRecord, dict[str, Estimate]]:
    """Return record and estimates; the images of the split are perfect reconstructions of a perfect decoder."""
    with torch.no_grad():
        images = Balls().decode(torch.from_numpy(record.arrays["mean"]).float())
    read = reader.read(images)[:, [1, 3, 0]].numpy()
    found = with_interventions(
        replace(record, arrays={**record.arrays, "read": read}), model, reader, TrainerSettings()
    )
    return found, dict(estimate([Interventions(CONTEXT)], found).estimates)


def test_a_partition_that_changes_only_its_features_has_a_large_ratio() -> None:
    record, found = judged(Balls(), Callipers(), record_of(40))
    for name in SUPERVISION:
        ratio, r2 = found[f"intervention/{name}_ratio"], found[f"intervention/{name}_r2"]
        assert ratio.value is not None
        assert ratio.low is not None
        assert ratio.low > 20.0, "balls on a grid are measured to a few percent"
        assert ratio.n == 40
        assert r2.value == pytest.approx(1.0, abs=0.01)
    table = intervention_table(record, SUPERVISION)
    assert table is not None
    assert (table.partitions, table.targets) == (("vol", "loc", "residual"), ("radius", "loc_x", "loc_y"))
    # each subject becomes the one before it; the first becomes the last
    mean = record.arrays["mean"]
    moved = np.sqrt(np.mean((np.roll(mean, 1, axis=0) - mean) ** 2, axis=0))
    assert table.changes[0, 0] == pytest.approx(moved[0], rel=0.02)
    assert table.changes[1, 1:] == pytest.approx(moved[1:3], rel=0.02)
    assert table.changes[2].max() < 0.01
    assert table.reader_r2.min() > 0.95, "radii have an offset, which is no noise"
    assert table.noise.max() < 0.1


@pytest.mark.parametrize("growth", [0.5, 1.0])
def test_the_ratio_is_that_of_the_planted_entanglement(growth: float) -> None:
    record, found = judged(Balls(growth_with_x=growth), Callipers(), record_of(60))
    change = np.roll(record.arrays["mean"], 1, axis=0) - record.arrays["mean"]
    own = np.sqrt(np.mean(change[:, 1:3] ** 2))
    expected = own / (growth * np.sqrt(np.mean(change[:, 1] ** 2)))
    ratio = found["intervention/loc_ratio"]
    assert ratio.value == pytest.approx(expected, rel=0.05)
    assert ratio.high is not None
    assert ratio.high < 5.0, "the claim fails"
    assert (found["intervention/vol_ratio"].low or 0.0) > 20.0, "vol moves nothing else"


def test_a_partition_that_the_decoder_does_not_read_changes_nothing() -> None:
    record, found = judged(Balls(reads_vol=False), Callipers(), record_of(40))
    ratio, r2 = found["intervention/vol_ratio"], found["intervention/vol_r2"]
    assert ratio.value == 0.0
    # R2 of zeros: the mean square of the truth over its variance, which are nearly equal
    asked = record.arrays["asked"][:, 0]
    assert r2.value == pytest.approx(1.0 - np.mean(asked**2) / np.var(asked))


def test_a_noisy_reader_leaves_the_claim_undecided() -> None:
    record = record_of(80)
    exact, noisy = (judged(Balls(growth_with_x=0.05), Callipers(noise=noise), record) for noise in (0.0, 0.3))
    assert (exact[1]["intervention/loc_ratio"].low or 0.0) > 5.0
    found = noisy[1]["intervention/loc_ratio"]
    assert found.low is not None
    assert found.high is not None
    assert found.low < 5.0 < found.high
    table = intervention_table(noisy[0], SUPERVISION)
    assert table is not None
    assert table.noise == pytest.approx(np.sqrt(2.0) * 0.3, rel=0.25)


def test_ends_of_the_interval_contain_the_noise() -> None:
    """Constant changes have no sampling error, so that only the noise of the reader is left in the interval."""
    record = record_of(200)
    moved = {
        "moved.vol": np.array([1.0, 0.4, 0.2]),
        "moved.loc": np.array([0.1, 1.0, 1.0]),
        "moved.residual": np.zeros(3),
    }
    arrays = {name: np.tile(values, (200, 1)) for name, values in moved.items()}
    truth = record.arrays["mean"][:, :3]
    error = 0.2 * np.where(np.arange(200) % 2, 1.0, -1.0)[:, None]  # 2 Var = 0.08
    arrays |= {"read": truth + error, "asked": np.roll(truth, 1, axis=0) - truth}
    found = estimate([Interventions(CONTEXT)], replace(record, arrays={**record.arrays, **arrays})).estimates
    vol, loc = found["intervention/vol_ratio"], found["intervention/loc_ratio"]
    assert vol.value == pytest.approx(1.0 / 0.4)
    assert vol.low == pytest.approx(np.sqrt(1.0 - 0.08) / 0.4, rel=0.01)
    assert vol.high == pytest.approx(1.0 / np.sqrt(0.4**2 - 0.08), rel=0.02)
    assert loc.value == pytest.approx(10.0)
    assert loc.high == LARGEST_RATIO, "the other change may be noise"


def test_visits_become_those_of_other_patients() -> None:
    record = record_of(6)
    with_visits = replace(record, patient_id=("a", "a", "b", "b", "b", "c"))
    found, _ = judged(Balls(), Callipers(), with_visits)
    targets = record.arrays["mean"][:, :3]
    np.testing.assert_allclose(found.arrays["asked"], targets[[5, 5, 1, 1, 1, 4]] - targets)
    alone = replace(record, patient_id=("a",) * 6)
    assert with_interventions(alone, Balls(), Callipers(), TrainerSettings()) is alone
    assert swaps(Balls(), alone, TrainerSettings()) is None


def test_swaps_are_decoded_from_the_latents_of_both_patients() -> None:
    record, model = record_of(5), Balls()
    found = swaps(model, record, TrainerSettings())
    assert found is not None
    assert list(found.subjects) == [("s000", "s004"), ("s002", "s001"), ("s004", "s003")]
    a, b = record.arrays["mean"][[2, 1]]
    latents = [a, [b[0], *a[1:]], [a[0], *b[1:3], *a[3:]], [*a[:3], *b[3:]], b]
    with torch.no_grad():
        expected = model.decode(torch.tensor(np.array(latents)).float())[:, 0].numpy()
    np.testing.assert_allclose(found.volumes[1], expected, atol=1e-6)


def outputs_of(model: Model, batches: list[Batch]) -> Callable[[], list[tuple[Batch, ModelOutput]]]:
    def outputs() -> list[tuple[Batch, ModelOutput]]:
        found = []
        for batch in batches:
            posterior = model.encode(batch.inputs)
            found.append((batch, ModelOutput(posterior, posterior.mean, model.decode(posterior.mean), {})))
        return found

    return outputs


def test_an_evaluation_without_a_reader_has_none_of_it_and_with_one_reads_the_images() -> None:
    record, model = record_of(24), Balls()
    mean = torch.from_numpy(record.arrays["mean"]).float()
    with torch.no_grad():
        images = model.decode(mean)
    images[:, 0, 0, 0, :5] = mean
    batches = [
        Batch(
            images[rows],
            tuple(record.subject_id[row] for row in rows),
            targets={"vol": mean[rows, :1], "loc": mean[rows, 1:3]},
            observed={
                "vol": torch.ones(len(rows), 1, dtype=torch.bool),
                "loc": torch.ones(len(rows), 2, dtype=torch.bool),
            },
        )
        for rows in (list(range(10)), list(range(10, 24)))
    ]

    class Corner(Callipers):
        """Skips the corner that holds z."""

        def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
            """Return z-scores [N, 4]."""
            clean = images.clone()
            clean[:, 0, 0, 0, :5] = clean[:, :1, 0, 0, 5:6].squeeze(1)
            return super().read(clean)

    metrics = [Interventions(CONTEXT)]
    without, found = (
        evaluate_model(model, batches, {"val": outputs_of(model, batches)}, metrics, reader).splits["val"]
        for reader in (None, Corner())
    )
    assert not any(key.startswith("intervention/") for key in without.estimates)
    assert intervention_table(without.record, SUPERVISION) is None
    ratio = found.estimates["intervention/vol_ratio"].value
    assert ratio is not None
    assert ratio > 20.0


def test_a_reader_of_other_targets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the reader does not read loc_x, loc_y, only radius$"):
        with_interventions(record_of(12), Balls(), Callipers(("radius",)), TrainerSettings())


class InOneChannel(Callipers):
    """Measures the ball in the first channel that a subject has."""

    def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
        """Return z-scores [N, 4]."""
        assert available is not None
        return super().read(images[torch.arange(len(images)), available.int().argmax(dim=1)].unsqueeze(1))


class InTwoChannels(Balls):
    """Draws the ball in the second channel, and a ball of half the size in the first."""

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, 5] -> [B, 2, 20, 20, 20]."""
        half = z.clone()
        half[:, 0] = 0.5 * z[:, 0]
        return torch.cat([super().decode(half), super().decode(z)], dim=1)


def test_missing_channels_are_not_read() -> None:
    record, model = record_of(12), InTwoChannels()
    mean, available = torch.from_numpy(record.arrays["mean"]).float(), torch.ones(12, 2, dtype=torch.bool)
    available[::2, 0] = False
    with torch.no_grad():
        images = model.decode(mean)
    observed = {name: torch.ones(12, len(names), dtype=torch.bool) for name, names in SUPERVISION.items()}
    batch = Batch(
        images.masked_fill(~available[..., None, None, None], torch.nan),
        record.subject_id,
        targets={"vol": mean[:, :1], "loc": mean[:, 1:3]},
        observed=observed,
        available=available,
    )
    output = ModelOutput(Posterior(mean, torch.zeros_like(mean)), mean, images, {})
    model.encode = lambda *_: output.posterior  # type: ignore[method-assign]
    found = evaluate_model(
        model, [batch], {"val": lambda: [(batch, output)]}, [Interventions(CONTEXT)], InOneChannel()
    ).val.arrays
    offset = found["read"][1::2, 0] - 0.5 * mean[1::2, 0].numpy()
    assert found["read"][::2, 0] - mean[::2, 0].numpy() == pytest.approx(np.full(6, offset.mean()), abs=0.3)
    change = np.roll(mean[:, 0].numpy(), 1) - mean[:, 0].numpy()
    half = np.where(available[:, 0].numpy(), 0.5, 1.0)
    assert found["moved.vol"][:, 0] == pytest.approx(half * change, abs=0.1)


def of_targets(num: int, unseen: slice, feature: int) -> SplitRecord:
    """Return changes that follow the targets; a feature of loc is observed in some subjects only."""
    record = record_of(num)
    truth = record.arrays["mean"][:, :3]
    observed = np.ones((num, 2))
    observed[unseen, feature] = 0.0
    targets = truth.copy()
    targets[unseen, 1 + feature] = np.nan
    change = np.roll(truth, 1, axis=0) - truth
    change[:, 1] += np.random.default_rng(1).normal(size=num)
    moved = {f"moved.{name}": change for name in LAYOUT}
    arrays = {**moved, "read": truth, "asked": np.roll(targets, 1, axis=0) - targets, "observed.loc": observed}
    return replace(record, arrays={**record.arrays, **arrays})


def r2_of_loc_x(record: SplitRecord) -> float:
    asked, read = record.arrays["asked"][:, 1], record.arrays["moved.loc"][:, 1]
    return float(1.0 - np.mean((read - asked) ** 2) / np.var(asked))


def test_a_feature_that_few_patients_have_does_not_count_in_the_mean() -> None:
    """Of loc_y, one pair is known: its R2 is undefined, and that of loc is the R2 of loc_x."""
    record = of_targets(40, slice(2, None), 1)
    found = estimate([Interventions(CONTEXT)], record).estimates["intervention/loc_r2"]
    assert found.value == pytest.approx(r2_of_loc_x(record))
    assert found.n == 40
    assert found.low is not None


def test_features_that_enough_patients_have_are_averaged() -> None:
    record = of_targets(40, slice(20, None), 1)  # 19 pairs
    found = estimate([Interventions(CONTEXT)], record).estimates["intervention/loc_r2"]
    assert found.value == pytest.approx(0.5 * (r2_of_loc_x(record) + 1.0))


def test_the_reason_names_features_that_few_patients_have() -> None:
    record = of_targets(40, slice(5, None), 0)
    observed, asked = np.ones((40, 1)), record.arrays["asked"].copy()
    asked[3:, [0, 2]] = np.nan
    record = replace(record, arrays={**record.arrays, "asked": asked, "observed.vol": observed})
    found = estimate([Interventions(CONTEXT)], record).estimates
    assert found["intervention/vol_r2"].value is None
    assert found["intervention/vol_r2"].reason == (
        "half of its features must vary in 10 pairs of patients; radius is observed in 3"
    )
    assert found["intervention/loc_r2"].reason == (
        "half of its features must vary in 10 pairs of patients; loc_x is observed in 4; loc_y is observed in 3"
    )


def test_a_gate_says_why_there_are_no_interventions() -> None:
    model, metrics, record = Balls(), [Interventions(CONTEXT)], record_of(4)
    mean = torch.from_numpy(record.arrays["mean"]).float()
    with torch.no_grad():
        images = model.decode(mean)
    output = ModelOutput(Posterior(mean, torch.zeros_like(mean)), mean, images, {})
    gates = {"moves": Target(metric="intervention/vol_ratio", above=5.0)}
    for reader, patients, reason in ((None, (), SEVERAL_RANKS), (Callipers(), ("a",) * 4, ONE_PATIENT)):
        targets = {"vol": mean[:, :1], "loc": mean[:, 1:3]}
        observed = {name: torch.ones_like(values, dtype=torch.bool) for name, values in targets.items()}
        batch = Batch(images, record.subject_id, targets, observed, patient_id=patients)
        outputs = {"val": [(batch, output)].copy}
        found = evaluate_model(model, [batch], outputs, metrics, reader, no_reader=SEVERAL_RANKS)
        (gate,) = judge(found, gates, metrics, SUPERVISION).splits["val"].gates
        assert found.splits["val"].unmoved == reason
        assert gate.reason == f"4 validation subjects; {reason}"
