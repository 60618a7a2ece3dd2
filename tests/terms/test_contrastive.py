"""InfoNCE between visits: against a double loop, closed forms, invariances, and where the gradient goes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.terms import TermContext
from menvae.terms.contrastive import Contrastive
from menvae.types import Batch, ModelOutput, Posterior

LAYOUT = LatentLayout({"vol": 2, "residual": 3})
CONTEXT = TermContext(LAYOUT, 8, 100)
PATIENTS = ("a", "b", "a", "c", "a", "b", "d", "e", "e", "a")


def output_of(mean: Tensor) -> ModelOutput:
    return ModelOutput(Posterior(mean, torch.zeros_like(mean)), mean, mean)


def batch_of(patients: tuple[str, ...], subjects: tuple[str, ...] | None = None) -> Batch:
    names = subjects or tuple(f"{patient}-{row}" for row, patient in enumerate(patients))
    return Batch(torch.zeros(len(patients), 1), names, patient_id=patients)


def values(mean: Tensor, batch: Batch, **settings: object) -> tuple[Tensor, float]:
    found = Contrastive(CONTEXT, **settings)(batch, output_of(mean))
    return found["contrastive"], float(found["contrastive_pairs"])


def random_means(seed: int = 0, rows: int = len(PATIENTS)) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def by_hand(mean: Tensor, batch: Batch, temperature: float) -> float:
    """Return Oord et al. 2018, eq. 4, for every pair of visits, with loops."""
    z = mean.double().numpy()
    of_rows = []
    for i, (patient, subject) in enumerate(zip(batch.patient_id, batch.subject_id, strict=True)):
        of_visits = []
        for p, other in enumerate(batch.subject_id):
            if batch.patient_id[p] == patient and other != subject:
                scores = [
                    np.exp(z[i] @ z[a] / np.linalg.norm(z[i]) / np.linalg.norm(z[a]) / temperature)
                    for a in range(len(z))
                    if batch.patient_id[a] != patient or a == p
                ]
                own = np.exp(z[i] @ z[p] / np.linalg.norm(z[i]) / np.linalg.norm(z[p]) / temperature)
                of_visits.append(-np.log(own / sum(scores)))
        if of_visits:
            of_rows.append(np.mean(of_visits))
    return float(np.mean(of_rows))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_is_the_double_loop(temperature: float, seed: int) -> None:
    mean, batch = random_means(seed), batch_of(PATIENTS)
    found, pairs = values(mean, batch, temperature=temperature)
    assert float(found) == pytest.approx(by_hand(mean[:, 2:], batch, temperature), rel=1e-5)
    assert pairs == 6 + 1 + 1  # of the four visits of a, and two each of b and e


def test_partitions_are_a_choice() -> None:
    mean, batch = random_means(), batch_of(PATIENTS)
    assert float(values(mean, batch, partitions=None)[0]) == pytest.approx(by_hand(mean, batch, 0.1), rel=1e-5)
    of_vol = values(mean, batch, partitions=["vol"])[0]
    assert float(of_vol) == pytest.approx(by_hand(mean[:, :2], batch, 0.1), rel=1e-5)
    with pytest.raises(UserError, match="partition 'nobody'"):
        Contrastive(CONTEXT, partitions=["nobody"])


def test_two_visits_of_each_patient_are_nt_xent() -> None:
    """Chen et al. 2020, eq. 1: a cross-entropy over all other rows."""
    mean, temperature = random_means(rows=8), 0.3
    z = torch.nn.functional.normalize(mean[:, 2:].double(), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]))
    found, _ = values(mean, batch_of(("a", "a", "b", "b", "c", "c", "d", "d")), temperature=temperature)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_chance_and_perfection() -> None:
    alike = torch.ones(6, 5)
    batch = batch_of(("a", "a", "b", "b", "c", "c"))
    assert float(values(alike, batch)[0]) == pytest.approx(math.log(1 + 4), rel=1e-6)
    apart = torch.eye(3).repeat_interleave(2, dim=0)
    apart = torch.cat([torch.zeros(6, 2), apart], dim=1)
    assert float(values(apart, batch)[0]) == pytest.approx(math.log1p(4 * math.exp(-10.0)), rel=1e-3)


def test_scale_of_the_means_and_rotations_do_not_count() -> None:
    mean, batch = random_means(), batch_of(PATIENTS)
    expected = values(mean, batch)[0]
    factors = torch.linspace(0.1, 50.0, len(mean)).unsqueeze(1)
    torch.testing.assert_close(values(factors * mean, batch)[0], expected, rtol=1e-4, atol=1e-6)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))
    turned = torch.cat([mean[:, :2], mean[:, 2:] @ rotation], dim=1)
    torch.testing.assert_close(values(turned, batch)[0], expected, rtol=1e-4, atol=1e-6)


def test_names_of_patients_do_not_count() -> None:
    mean = random_means()
    renamed = batch_of(tuple({"a": "zoe", "b": "", "c": "ü", "d": "x" * 200, "e": "a"}[name] for name in PATIENTS))
    assert torch.equal(values(mean, renamed)[0], values(mean, batch_of(PATIENTS))[0])


def test_a_subject_twice_is_no_pair() -> None:
    mean = random_means(rows=5)
    mean[1] = mean[0]
    once = batch_of(("a", "a", "b", "c", "c"), ("a-0", "a-0", "b-0", "c-0", "c-1"))
    found, pairs = values(mean, once)
    assert pairs == 1.0
    assert float(found) == pytest.approx(by_hand(mean[:, 2:], once, 0.1), rel=1e-5)


@pytest.mark.parametrize("patients", [("a", "b", "c", "d"), ("a",)])
def test_without_a_pair_it_is_0(patients: tuple[str, ...]) -> None:
    mean = random_means(rows=len(patients)).requires_grad_()
    found, pairs = values(mean, batch_of(patients))
    assert (found.item(), pairs) == (0.0, 0.0)
    (gradient,) = torch.autograd.grad(found, mean)
    assert not gradient.any()


def test_without_strangers_it_is_0() -> None:
    mean = random_means(rows=3).requires_grad_()
    found, pairs = values(mean, batch_of(("a", "a", "a")))
    assert (found.item(), pairs) == (0.0, 3.0)
    (gradient,) = torch.autograd.grad(found, mean)
    assert not gradient.any()  # and is finite


def test_gradient_draws_visits_together_and_leaves_other_partitions_alone() -> None:
    mean, batch = random_means().requires_grad_(), batch_of(PATIENTS)
    before = values(mean, batch)[0]
    (gradient,) = torch.autograd.grad(before, mean)
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].any(dim=1).all()  # strangers too
    with torch.no_grad():
        assert values(mean - 0.05 * gradient, batch)[0] < before
    (of_means,) = torch.autograd.grad(values(mean, batch)[0], mean)
    radial = (of_means[:, 2:] * mean[:, 2:]).sum(dim=1)
    torch.testing.assert_close(radial, torch.zeros_like(radial), rtol=0.0, atol=1e-6)


def test_float32_whatever_comes_in() -> None:
    mean = 1000.0 * random_means().bfloat16()
    found, _ = values(mean, batch_of(PATIENTS), temperature=0.01)
    assert found.dtype == torch.float32
    assert torch.isfinite(found)


def test_gradcheck() -> None:
    batch = batch_of(PATIENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        mean = random_means().double().requires_grad_()
        assert torch.autograd.gradcheck(lambda rows: values(rows, batch)[0], mean)


def test_patients_stay_with_their_rows_on_the_way_to_a_device() -> None:
    batch = replace(batch_of(PATIENTS), time=torch.arange(10.0))
    assert batch.to(torch.device("cpu")).patient_id == PATIENTS
