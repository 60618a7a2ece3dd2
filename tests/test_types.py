import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils.data._utils.pin_memory import pin_memory

from menvae.types import Batch, Intensities, LossReport, Posterior, Progress, Scalar


def posterior(rows: int = 5, dims: int = 7) -> Posterior:
    return Posterior(torch.randn(rows, dims), 2.0 * torch.randn(rows, dims))


def test_kl_is_that_of_torch_distributions() -> None:
    q = posterior()
    expected = kl_divergence(Normal(q.mean.double(), (0.5 * q.logvar.double()).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl().double(), expected, rtol=1e-5, atol=1e-6)


def test_kl_is_float32_for_a_posterior_in_bfloat16() -> None:
    q = posterior()
    assert Posterior(q.mean.bfloat16(), q.logvar.bfloat16()).kl().dtype == torch.float32


def test_sample_has_the_moments_of_the_posterior_and_follows_its_generator() -> None:
    q = Posterior(torch.full((40000, 1), 3.0), torch.full((40000, 1), 2.0).log())
    z = q.sample(torch.Generator().manual_seed(1))
    assert abs(z.mean().item() - 3.0) < 4 * (2.0 / 40000) ** 0.5
    assert abs(z.var().item() - 2.0) < 4 * 2.0 * (2.0 / 40000) ** 0.5
    assert torch.equal(z, q.sample(torch.Generator().manual_seed(1)))
    assert not torch.equal(z, q.sample(torch.Generator().manual_seed(2)))


def test_sample_is_reparameterised() -> None:
    mean, logvar = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    z = Posterior(mean, logvar).sample(torch.Generator().manual_seed(0))
    z.sum().backward()
    assert mean.grad is not None
    assert logvar.grad is not None
    assert torch.equal(mean.grad, torch.ones(3, 2))
    torch.testing.assert_close(logvar.grad, 0.5 * z.detach())  # d/dlogvar of exp(logvar / 2) noise, at logvar 0


def test_batch_moves_as_a_whole() -> None:
    batch = Batch(torch.randn(2, 1, 2, 2, 2), ("a", "b"), {"vol": torch.zeros(2, 1)}, {"vol": torch.ones(2, 1) > 0})
    moved = batch.to(torch.device("meta"), torch.channels_last_3d)
    assert len(moved) == 2
    assert {moved.inputs.device.type, moved.targets["vol"].device.type, moved.observed["vol"].device.type} == {"meta"}
    assert moved.inputs.is_contiguous(memory_format=torch.channels_last_3d)
    assert moved.mask is None


def test_a_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)  # without a GPU it cannot be done
    numbers = Intensities(torch.zeros(1, 2), torch.ones(1, 2))
    batch = Batch(
        inputs=torch.ones(1, 2, 2, 2, 2, dtype=torch.int16),
        subject_id=("a",),
        targets={"vol": torch.zeros(1, 1)},
        observed={"vol": torch.ones(1, 1) > 0},
        mask=torch.zeros(1, 1, 2, 2, 2),
        labels=torch.zeros(1),
        time=torch.zeros(1),
        intensities=numbers,
    )
    tensors = [batch.inputs, batch.targets["vol"], batch.observed["vol"], batch.mask, batch.labels, batch.time]
    result = pin_memory(batch)
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in (*tensors, numbers.mean, numbers.sd)]
    assert result.inputs is not batch.inputs
    assert result.intensities.mean is not numbers.mean
    assert result.subject_id == ("a",)


def test_progress_knows_its_end() -> None:
    assert Progress(3.0, 20.0).finished == Progress(20.0, 20.0)


def test_report_logs_raw_values_detached() -> None:
    raw = torch.tensor(2.0, requires_grad=True)
    report = LossReport(3.0 * raw, {"kl": Scalar(raw, 3.0, 3.0 * raw)}, {"kl_raw": torch.tensor(5.0)})
    logged = report.logged()
    assert {name: value.item() for name, value in logged.items()} == {"loss": 6.0, "kl": 2.0, "kl_raw": 5.0}
    assert not any(value.requires_grad for value in logged.values())
