"""The curriculum of SemiVAE Run 6 (specification, section 5) as ``loss=semivae_run6`` composes it."""

from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf

from menvae.experiment import Loss
from menvae.latent import LatentLayout
from menvae.objective import Objective
from menvae.terms import TermContext
from menvae.training.curriculum import Curriculum
from menvae.types import Progress

TABLE = {
    "recon": (1.0, [(0, 1.0), (600, 1.0)]),
    "vol": (20.0, [(0, 0.0), (30, 0.0), (50, 0.5), (70, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "loc": (12.0, [(0, 0.0), (80, 0.0), (100, 0.5), (120, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "shape": (15.0, [(0, 0.0), (120, 0.0), (145, 0.5), (170, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "dcor": (5.0, [(0, 0.0), (150, 0.0), (175, 0.5), (200, 1.0), (400, 1.0), (600, 1.0)]),
    "kl": (
        1.0,
        [
            *[(0, 0.0), (15, 0.5), (30, 1.0), (59, 1.0), (60, 0.0), (75, 0.5), (90, 1.0), (120, 0.0), (135, 0.5)],
            *[(180, 0.0), (195, 0.5), (210, 1.0), (239, 1.0), (240, 1.0), (241, 1.0), (300, 1.0), (600, 1.0)],
        ],
    ),
    "aux_recon": (0.5, [(0, 1.0), (600, 1.0)]),
}
"""{scalar: (weight, [(epoch, expected factor)])}, from the formulas of the specification."""


@pytest.fixture
def objective(compose_train: Callable[..., DictConfig]) -> Objective:
    config = OmegaConf.to_container(compose_train("experiment=semivae_run6").loss, resolve=True)
    assert isinstance(config, dict)
    layout = LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 84})
    return Loss.from_config({str(key): value for key, value in config.items()}).build(TermContext(layout, 1, 1))


@pytest.mark.parametrize("scalar", TABLE)
def test_weight(objective: Objective, scalar: str) -> None:
    weight, factors = TABLE[scalar]
    for epoch, factor in factors:
        assert objective.weight(scalar, Progress(epoch, 600)) == pytest.approx(weight * factor, abs=1e-9), epoch


def test_every_scalar_is_in_the_table(objective: Objective) -> None:
    assert set(objective.scalars) == set(TABLE)


@pytest.mark.parametrize("max_epochs", [20, 600, 1200])
def test_curriculum_scales_with_the_length_of_the_run(objective: Objective, max_epochs: int) -> None:
    curriculum = Curriculum(reference_epochs=600.0)
    for scalar, (weight, factors) in TABLE.items():
        for epoch, factor in factors:
            progress = curriculum.progress(epoch * max_epochs / 600.0, max_epochs)
            assert objective.weight(scalar, progress) == pytest.approx(weight * factor, abs=1e-6), (scalar, epoch)


def test_free_bits_floor_is_told(objective: Objective) -> None:
    assert objective.schedule_metrics(Progress(30, 600))["sched/expected_kl_floor"] == pytest.approx(84 * 0.2)
