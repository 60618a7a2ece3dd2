"""References: their R2 on cohorts whose targets have closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import SIDE, SPACING_MM, Loader, cohort, taken
from torch import nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import spectral_norm

from menvae.encoders.product_of_experts import ProductOfExperts
from menvae.latent import LatentLayout
from menvae.references import fitting
from menvae.references.ceiling import CeilingReader, _shrinkage, read_ceiling
from menvae.references.cohort import ReferenceCohort
from menvae.references.floor import block_means, decomposition_cost, read_floor
from menvae.references.readings import Readings
from menvae.references.segmented import (
    crops,
    measurable,
    read_segmented,
    segmentation_loss,
    tumour_turns,
    without_small_parts,
)
from menvae.references.unet import UNet
from menvae.types import Batch


@pytest.fixture(scope="module")
def of_balls() -> ReferenceCohort:
    return cohort()


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """These cohorts need few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_STEPS", 168)
        yield


def r2(readings: Readings, of_balls: ReferenceCohort, split: str) -> dict[str, float]:
    """Return target -> R2."""
    rows = of_balls.splits[split].rows  # type: ignore[attr-defined]
    true, seen = (tensor.numpy() for tensor in of_balls.truth(rows))
    read = np.array([readings.values[split][subject] for subject in rows.subject_id])
    found = {}
    for column, name in enumerate(of_balls.targets):
        own = seen[:, column]
        if name in readings.targets:
            errors = true[own, column] - read[own, readings.targets.index(name)]
            found[name] = 1.0 - np.mean(errors**2) / np.var(true[own, column])
    return found


def linear_cohort(of_balls: ReferenceCohort, *, missing: float = 0.0) -> ReferenceCohort:
    """Return images of 4 x 4 x 4 cubes of random brightness, whose weighted sums are the targets."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 5, generator=generator) / 8.0
    splits = {}
    for name, num in (("train", 192), ("val", 32), ("test", 32)):
        cubes = torch.randn(num, 1, 4, 4, 4, generator=generator)
        values = cubes.flatten(1) @ weights
        observed = torch.rand(values.shape, generator=generator) >= missing
        splits[name] = Loader(
            Batch(
                inputs=interpolate(cubes, scale_factor=SIDE // 4),
                subject_id=tuple(f"{name}-{number}" for number in range(num)),
                targets={"vol": (values * observed)[:, :2], "loc": (values * observed)[:, 2:]},
                observed={"vol": observed[:, :2], "loc": observed[:, 2:]},
            )
        )
    return replace(of_balls, train=splits["train"], splits=splits)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_floor_reads_targets_that_block_means_determine(of_balls: ReferenceCohort, missing: float) -> None:
    linear = linear_cohort(of_balls, missing=missing)
    readings = read_floor(linear)
    for split in ("val", "test"):
        assert min(r2(readings, linear, split).values()) > 0.98


def test_the_floor_survives_a_block_that_is_nearly_constant_in_training(of_balls: ReferenceCohort) -> None:
    """Standardised, 1 in a block whose deviation over the training subjects is 1e-4 would be read as 10,000."""
    linear = linear_cohort(of_balls)
    rows = {name: linear.splits[name].rows for name in linear.splits}  # type: ignore[attr-defined]
    block = (slice(None), slice(None), *(slice(SIDE // 4),) * 3)
    rows["train"].inputs[block] *= 1e-4
    splits = {name: Loader(batch) for name, batch in rows.items()}
    found = r2(read_floor(replace(linear, train=splits["train"], splits=splits)), linear, "val")
    assert min(found.values()) > 0.5


def test_floor_reads_a_target_that_nobody_has_as_its_mean(of_balls: ReferenceCohort) -> None:
    linear = linear_cohort(of_balls)
    rows = linear.splits["train"].rows  # type: ignore[attr-defined]
    hidden = replace(rows, observed={**rows.observed, "vol": torch.zeros_like(rows.observed["vol"])})
    readings = read_floor(replace(linear, splits={**linear.splits, "train": Loader(hidden)}))
    assert {tuple(z[:2]) for z in readings.values["val"].values()} == {(0.0, 0.0)}


def test_block_means_are_means_of_available_channels_only() -> None:
    images = torch.arange(2.0 * 2 * 16**3).reshape(2, 2, 16, 16, 16)
    available = torch.tensor([[True, True], [True, False]])
    columns = block_means(Batch(images, ("a", "b"), available=available))
    expected = images.reshape(2, 2, 8, 2, 8, 2, 8, 2).mean(dim=(3, 5, 7)).flatten(1)
    expected[1, 512:] = 0.0
    assert torch.allclose(columns[:, :1024], expected)
    assert columns[:, 1024:].tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert block_means(Batch(torch.ones(2, 7), ("a", "b"))).shape == (2, 7)  # a table: its columns


def test_the_floor_takes_a_decomposition_for_each_group_of_targets(of_balls: ReferenceCohort) -> None:
    table = replace(of_balls, num_channels=4000, size=(), num_observed=[2000])
    assert decomposition_cost(table) == 2000 * 4000 * 2000
    assert decomposition_cost(replace(table, num_observed=[2000, 500, 2])) == 4000 * (2000**2 + 500**2)
    assert decomposition_cost(replace(of_balls, num_observed=[600])) == 600 * 512 * 512  # 8 x 8 x 8 blocks


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_subjects_in_chunks_train_as_the_whole_batch(chunk_size: int) -> None:
    """The loss is no sum over subjects, and the network changes its buffers."""

    def trained(size: int | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(0)
        network = nn.Sequential(spectral_norm(nn.Conv3d(2, 3, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 8, 1))
        images = torch.randn(8, 2, 4, 4, 4)
        for _ in range(2):
            fitting.in_chunks(network, size, images).std().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None], [
            *network.buffers()
        ]

    for whole, parts in zip(trained(None), trained(chunk_size), strict=True):
        assert len(whole) == len(parts) > 1
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_last_batch_of_one_subject_is_left_out(of_balls: ReferenceCohort) -> None:
    rows = taken(of_balls.train.rows, torch.arange(9))  # type: ignore[attr-defined]
    nine = replace(of_balls, train=Loader(rows, size=4))
    network, sizes = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**3, 2), nn.BatchNorm1d(2)), []

    def loss(batch: Batch) -> torch.Tensor:
        sizes.append(len(batch))
        return network(batch.inputs).square().mean()  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_STEPS", 2)
        fitting.fit(network, loss, lambda: 1.0, nine, learning_rate=1e-3, least_fall=0.0, name="batch norm")
    assert sizes == [4, 4]


@pytest.mark.parametrize("compute", [read_ceiling, read_segmented])
def test_chunks_do_not_change_a_reference(
    compute: Callable[[ReferenceCohort], tuple[Readings, nn.Module]], of_balls: ReferenceCohort
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_STEPS", 12)
        patch.setattr(fitting, "FEWEST_STEPS", 12)
        (whole, network), (parts, other) = (compute(replace(of_balls, chunk_size=size)) for size in (None, 3))
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    assert whole.values.keys() == parts.values.keys()


def test_every_second_crop_has_tumour_whatever_the_batches() -> None:
    images, labels = torch.zeros(1, 1, 32, 32, 32), torch.zeros(1, 32, 32, 32, dtype=torch.long)
    labels[0, 0, 0, 0] = 3  # a crop of half the sides contains this corner by chance in one of 17 ** 3
    turns, generator = tumour_turns(), torch.Generator().manual_seed(0)
    found = [bool(crops(images, labels, generator, turns)[1].any()) for _ in range(6)]
    assert found == [True, False] * 3
    many = crops(images.expand(3, -1, -1, -1, -1), labels.expand(3, -1, -1, -1), generator, turns)[1]
    assert many.flatten(1).any(dim=1).tolist() == [True, False, True]
    assert not crops(images, labels, generator, turns)[1].any()  # the next batch goes on


@pytest.fixture(scope="module")
def ceiling(of_balls: ReferenceCohort) -> tuple[Readings, CeilingReader]:
    state = torch.get_rng_state()
    found = read_ceiling(of_balls)
    assert torch.equal(torch.get_rng_state(), state)  # a run that computes references goes on as without
    return found


def test_ceiling_beats_chance(of_balls: ReferenceCohort, ceiling: tuple[Readings, CeilingReader]) -> None:
    found = r2(ceiling[0], of_balls, "test")
    assert found["vol_total"] > 0.5
    assert min(found.values()) > 0.2


def test_the_frozen_reader_reads_as_the_ceiling(
    of_balls: ReferenceCohort, ceiling: tuple[Readings, CeilingReader]
) -> None:
    readings, reader = ceiling
    rows = of_balls.splits["val"].rows  # type: ignore[attr-defined]
    assert reader.targets == of_balls.targets
    read = reader.read(rows.inputs)
    assert not read.requires_grad
    assert np.allclose(read.numpy(), [readings.values["val"][name] for name in rows.subject_id], atol=1e-5)


def test_the_ceiling_does_not_read_missing_channels(of_balls: ReferenceCohort) -> None:
    expert = {"name": "resnet", "base_filters": 8}
    encoder = ProductOfExperts(2, (16, 16, 16), LatentLayout({"vol": 2}), expert=expert).eval()
    reader = CeilingReader(encoder, 2, ("radius",))
    images, available = torch.randn(3, 2, 16, 16, 16), torch.tensor([[True, False], [False, True], [True, True]])
    garbage = images.masked_fill(~available[..., None, None, None], torch.nan)
    assert torch.equal(reader.read(garbage, available), reader.read(images, available))
    assert not torch.allclose(reader.read(images, available)[:2], reader.read(images)[:2])


def test_readings_shrink_to_the_least_squared_error(of_balls: ReferenceCohort) -> None:
    """A reader that doubles the truth is halved, one that turns it around is silenced; half the error is left."""

    class Wrong(CeilingReader):
        def forward(self, inputs: torch.Tensor, available: torch.Tensor | None = None) -> torch.Tensor:
            start = next(row for row in range(len(rows)) if torch.equal(rows.inputs[row], inputs[0]))
            return true[start : start + len(inputs)] * torch.tensor([2.0, -1.0, 1.0, 0.5, 0.0])

    rows = of_balls.splits["val"].rows  # type: ignore[attr-defined]
    true, _ = of_balls.truth(rows)
    scale, error = _shrinkage(Wrong(nn.Identity(), 1, of_balls.targets), of_balls)  # type: ignore[arg-type]
    assert scale.tolist() == pytest.approx([0.5, 0.0, 1.0, 1.0, 0.0])  # factors reach 1 at most
    assert error == pytest.approx((0.0 + 1.0 + 0.0 + 0.25 + 1.0) / 5)


@pytest.fixture(scope="module")
def segmented(of_balls: ReferenceCohort) -> tuple[Readings, UNet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_STEPS", 480)
        return read_segmented(of_balls)


def test_visible_balls_are_segmented_and_measured(of_balls: ReferenceCohort, segmented: tuple[Readings, UNet]) -> None:
    readings, _ = segmented
    assert min(r2(readings, of_balls, "test").values()) > 0.9
    rows = of_balls.splits["test"].rows  # type: ignore[attr-defined]
    volumes = (rows.mask > 0).flatten(1).sum(dim=1).double() * SPACING_MM**3
    errors = []
    for subject, volume in zip(rows.subject_id, volumes.tolist(), strict=True):
        z_scores = dict(zip(readings.targets, readings.values["test"][subject], strict=True))
        read = of_balls.normalizer.to_physical(z_scores)["vol_total"]
        assert read is not None
        errors.append(abs(read - math.log(volume + 1.0)))
    assert np.mean(errors) < 0.15
    facts = readings.facts["segmentation"]
    assert facts["test"]["dice_of_whole_tumour"] > 0.9  # type: ignore[index]


def test_only_features_of_masks_are_measured(of_balls: ReferenceCohort) -> None:
    statistics = of_balls.normalizer.statistics
    other = replace(statistics["loc_y"], slopes={"age": 1.0})
    normalizer = replace(of_balls.normalizer, statistics={**statistics, "loc_y": other, "age": statistics["loc_x"]})
    supervision = {"loc": ["loc_x", "loc_y"], "patient": ["age"]}
    assert measurable(replace(of_balls, supervision=supervision, normalizer=normalizer)) == ("loc_x",)


def test_small_parts_are_dropped() -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[:4, :4, :4], mask[8:10, 8:10, 8:10], mask[11, 0, 0] = 3, 2, 1  # 64, 8 and 1 voxels
    kept = without_small_parts(mask)
    assert (kept[:10] == mask[:10]).all()
    assert kept[11, 0, 0] == 0


def test_segmentation_loss_is_cross_entropy_and_dice() -> None:
    labels = torch.tensor([0, 1, 1, 2]).reshape(1, 1, 2, 2)
    uniform = torch.zeros(1, 4, 1, 2, 2)
    # shares of 1/4 everywhere: Dice of labels 1, 2, 3 with 2, 1, 0 voxels
    dice = [(2 * 0.5 + 1) / (1 + 2 + 1), (2 * 0.25 + 1) / (1 + 1 + 1), (0 + 1) / (1 + 0 + 1)]
    expected = math.log(4.0) + 1.0 - sum(dice) / 3.0
    assert segmentation_loss(uniform, labels, torch.ones(4)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(16, 16, 16), (5, 9, 10)])
def test_unet_keeps_the_size_of_any_image(size: tuple[int, int, int]) -> None:
    assert UNet(2, 4)(torch.zeros(1, 2, *size)).shape == (1, 4, *size)
