"""What a CUDA graph takes and returns; `tests/benchmarks/on_gpu.py` captures one."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig
from runs import TINY

from menvae.composition.experiment import Experiment
from menvae.training.graphs import ReplayedModel, inputs_of, with_inputs
from menvae.types import Batch


def _batch(available: bool) -> Batch:
    return Batch(
        inputs=torch.randn(2, 4, 16, 16, 16),
        subject_id=("a", "b"),
        targets={"vol": torch.randn(2, 4), "loc": torch.randn(2, 3)},
        observed={"vol": torch.ones(2, 4, dtype=torch.bool), "loc": torch.ones(2, 3, dtype=torch.bool)},
        mask=torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8),
        available=torch.ones(2, 4, dtype=torch.bool) if available else None,
    )


def test_batch_and_its_tensors():
    for available in (True, False):
        batch = _batch(available)
        tensors = inputs_of(batch)
        assert len(tensors) == 6 + available
        doubled = with_inputs(batch, [value + value for value in tensors])
        assert torch.equal(doubled.targets["loc"], 2 * batch.targets["loc"])
        assert (doubled.available is None) == (not available)
        assert doubled.subject_id == batch.subject_id


def test_evaluation_and_uneven_batches_run_the_model_itself(compose_train: Callable[..., DictConfig]):
    model, _ = Experiment.from_config(compose_train(*TINY)).build(8)
    replayed, batch = ReplayedModel(model, 4, "fp32"), _batch(available=False)
    torch.manual_seed(0)
    expected = model.train()(batch)
    torch.manual_seed(0)
    assert torch.equal(replayed(batch).reconstruction, expected.reconstruction)  # 2 rows, not 4
    assert torch.equal(replayed(batch).latent, replayed(batch).latent) is False
    model.eval()
    assert torch.equal(replayed(batch).latent, replayed(batch).posterior.mean)
