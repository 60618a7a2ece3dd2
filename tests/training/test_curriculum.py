import pytest

from menvae.training.curriculum import Curriculum
from menvae.types import Progress


@pytest.mark.parametrize(
    ("reference", "max_epochs", "epoch", "expected"),
    [(600.0, 600, 150.0, 150.0), (600.0, 20, 0.5, 15.0), (600.0, 1200, 300.0, 150.0), (20.0, 30, 30.0, 20.0)],
)
def test_schedules_stretch_to_the_run(reference: float, max_epochs: int, epoch: float, expected: float) -> None:
    progress = Curriculum(reference_epochs=reference).progress(epoch, max_epochs)
    assert progress.epoch == pytest.approx(expected)
    assert progress.total_epochs == reference


def test_without_scale_an_epoch_is_an_epoch() -> None:
    assert Curriculum(reference_epochs=600.0, scale=False).progress(7.5, 20) == Progress(7.5, 20)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("max_epochs", [1, 7, 20])
def test_run_ends_at_the_end_of_its_clock(scale: bool, max_epochs: int) -> None:
    progress = Curriculum(reference_epochs=600.0, scale=scale).progress(max_epochs, max_epochs)
    assert progress == progress.finished
