"""Use of the latent space: spaces made by hand, closed forms, and a decoder that is linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import Floats, LinearDecoder, measured, metrics_for, recorded, rows, split
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch.distributions import Normal, kl_divergence

from menvae.evaluation.estimates import estimate
from menvae.evaluation.final import TRAVERSAL_STEPS, evaluate_model, traversals
from menvae.evaluation.gates import evaluate_gates
from menvae.gates import GateSettings
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.balanced_accuracy import BalancedAccuracy
from menvae.types import Posterior

SIZES = {"vol": 2, "residual": 4}


def with_variances(variances: list[float], num: int = 20) -> Floats:
    """Return latents whose population variances are these: half of them one deviation above, half below."""
    signs = np.where(np.arange(num) % 2, 1.0, -1.0)
    return 3.0 + signs[:, None] * np.sqrt(variances)


def test_units_are_active_whose_mean_varies_by_more_than_a_hundredth() -> None:
    mean = with_variances([1.0, 0.0099, 0.0101, 0.004, 1e-6, 0.0])
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, mean))
    assert found["diag/au_count"] == 2.0
    assert found["diag/au_frac"] == pytest.approx(2 / 6)
    assert (found["diag/au_count_vol"], found["diag/au_frac_vol"]) == (1.0, 0.5)
    assert (found["diag/au_count_residual"], found["diag/au_frac_residual"]) == (1.0, 0.25)
    assert found["diag/mu_var_mean"] == pytest.approx((1.0 + 0.0099 + 0.0101 + 0.004 + 1e-6) / 6, rel=1e-4)


def test_kl_is_that_of_torch_distributions() -> None:
    random = np.random.default_rng(0)
    mean, logvar = random.normal(size=(15, 6)), random.normal(-1.0, 1.0, size=(15, 6))
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, mean, logvar=logvar))
    q = Normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * logvar)))
    kl = kl_divergence(q, Normal(0.0, 1.0)).numpy()
    assert found["diag/kl_all_nats"] == pytest.approx(kl.sum(axis=1).mean(), rel=1e-5)
    assert found["diag/kl_vol_nats"] == pytest.approx(kl[:, :2].sum(axis=1).mean(), rel=1e-5)
    assert found["diag/kl_residual_nats"] == pytest.approx(kl[:, 2:].sum(axis=1).mean(), rel=1e-5)
    assert found["diag/logvar_mean"] == pytest.approx(logvar.mean(), rel=1e-5)


def test_z_std_is_that_of_the_mixture_of_all_posteriors() -> None:
    random = np.random.default_rng(1)
    mean, logvar = random.normal(2.0, 3.0, size=(12, 6)), random.normal(size=(12, 6))
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, mean, logvar=logvar))
    of_rows = stats.norm(mean, np.exp(0.5 * logvar))
    first, second = of_rows.moment(1).mean(axis=0), of_rows.moment(2).mean(axis=0)
    assert found["diag/z_std"] == pytest.approx(np.sqrt(second - first**2).mean(), rel=1e-5)


def test_a_posterior_that_is_the_prior_has_no_information() -> None:
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, np.zeros((5, 6)), logvar=np.zeros((5, 6))))
    assert {found[name] for name in found if name.startswith(("diag/kl", "diag/au"))} == {0.0}
    assert found["diag/z_std"] == 1.0


# --- decoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_errors_with_other_latents_are_those_of_a_linear_decoder(batch_size: int) -> None:
    model, random = LinearDecoder(SIZES, (2, 7, 8, 9)), np.random.default_rng(2)
    mean, train = random.normal(0.5, 1.0, size=(10, 6)), random.normal(-1.0, 1.0, size=(9, 6))
    images = model.drawn(mean) + random.normal(size=(10, 2, 7, 8, 9))
    found = measured(
        model, split(model, mean, inputs=images), ("a", "b"), batch_size=batch_size, training=[train[:2], train[2:]]
    )

    def error(z: Floats) -> Floats:
        return ((images - model.drawn(z)) ** 2).reshape(len(images), -1).mean(axis=1)

    others = np.concatenate([mean[[batch_size - 1]], mean[:-1]])  # of the batch's last, and then of the one before
    shuffled = error(others)[1:] if batch_size == 1 else error(others)
    expected = {
        "mu": error(mean).mean(),
        "sampled": error(mean).mean(),  # with a standard deviation of exp(-30)
        "mean_z": error(np.tile(train.mean(axis=0), (10, 1))).mean(),
        "z0": error(np.zeros((10, 6))).mean(),
        "shuffled": shuffled.mean(),
    }
    for name, value in expected.items():
        assert found[f"diag/recon_{name}_mse"] == pytest.approx(value, rel=1e-4)
    for name in ("mean_z", "shuffled", "z0"):
        assert found[f"diag/{name}_ratio"] == pytest.approx(expected[name] / expected["mu"], rel=1e-4)
        assert found[f"diag/{name}_ratio"] > 2.0
    assert found["diag/recon_delta_mu_vs_sampled"] == pytest.approx(0.0, abs=1e-6)


def test_error_of_sampled_latents_grows_by_what_noise_adds() -> None:
    model, random = LinearDecoder(SIZES), np.random.default_rng(3)
    mean, logvar = random.normal(size=(600, 6)), np.tile(np.log([1.0, 0.5, 2.0, 0.1, 0.3, 0.01]), (600, 1))
    found = measured(model, split(model, mean, logvar=logvar), batch_size=100)
    added = (np.exp(logvar[0]) @ model.basis.detach().double().numpy() ** 2).mean()
    assert found["diag/recon_mu_mse"] == pytest.approx(0.0, abs=1e-9)
    assert found["diag/recon_delta_mu_vs_sampled"] == pytest.approx(added, rel=0.1)


def test_a_blind_decoder_has_ratios_of_one() -> None:
    model, random = LinearDecoder(SIZES), np.random.default_rng(4)
    with torch.no_grad():
        model.basis.zero_()
    images = random.normal(size=(8, 1, 7, 8, 9))
    found = measured(model, split(model, random.normal(size=(8, 6)), inputs=images), training=[np.ones((4, 6))])
    ratios = [found[f"diag/{name}_ratio"] for name in ("mean_z", "shuffled", "z0")]
    assert ratios == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)


def test_without_training_latents_there_is_no_mean_to_decode() -> None:
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, np.ones((4, 6)), inputs=np.ones((4, 1, 7, 8, 9))))
    assert found["diag/mean_z_ratio"] is None
    assert found["diag/recon_mean_z_mse"] is None
    assert found["diag/z0_ratio"] is not None


def test_a_perfect_reconstruction_has_no_ratio() -> None:
    model = LinearDecoder(SIZES)
    found = measured(model, split(model, np.random.default_rng(0).normal(size=(6, 6))))
    assert found["diag/recon_mu_mse"] == 0.0
    assert found["diag/z0_ratio"] is None


class Identity(LinearDecoder):
    """Encodes what it is given: rows of as many columns as there are latent dimensions."""

    def encode(self, inputs: torch.Tensor, available: torch.Tensor | None = None) -> Posterior:
        return Posterior(inputs, torch.full_like(inputs, -60.0))


def test_the_final_evaluation_replaces_z_by_the_mean_of_the_training_split() -> None:
    model, random = Identity(SIZES, (6,)), np.random.default_rng(6)
    train, val = random.normal(4.0, 1.0, size=(7, 6)), random.normal(size=(5, 6))
    training = [rows(*split(model, train, inputs=train, first="t"), part)[0] for part in (slice(0, 5), slice(5, 7))]
    whole = split(model, val, inputs=val)
    evaluation = evaluate_model(model, training, {"val": lambda: [whole]}, metrics_for(model, whole[0], "abcdef"))
    expected = ((val - model.drawn(train.mean(axis=0, keepdims=True))) ** 2).mean()
    assert evaluation.metrics["diag/recon_mean_z_mse"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(evaluation.train.arrays["mean"], train, rtol=1e-6)
    np.testing.assert_allclose(evaluation.val.arrays["mean"], val, rtol=1e-6)


# --- traversals -------------------------------------------------------------------------------------------------------


def test_traversals_are_whole_standard_deviations_along_the_leading_direction() -> None:
    model, random = LinearDecoder(SIZES, (2, 3, 4, 5)), np.random.default_rng(7)
    mean = random.normal(size=(30, 6)) @ np.diag([0.5, 2.0, 0.1, 0.2, 3.0, 0.3]) + 1.0
    mean[:, 0] += 0.8 * mean[:, 1]
    drawn = traversals(model, mean)
    assert drawn.shape == (2, len(TRAVERSAL_STEPS), 3, 4, 5)
    for index, partition in enumerate(SIZES):
        bounds = slice(*model.layout.bounds(partition))
        analysis = PCA(n_components=1).fit(mean[:, bounds])
        score = analysis.transform(mean[:, bounds])
        sign = None
        for step, image in zip((-3, -2, -1, 0, 1, 2, 3), drawn[index], strict=True):
            z = np.tile(mean.mean(axis=0), (2, 1))
            z[:, bounds] += np.outer([step, -step], analysis.components_[0]) * score.std(ddof=1)
            either = np.abs(model.drawn(z)[:, 0] - image).reshape(2, -1).max(axis=1)  # the sign of a direction is free
            sign = int(either.argmin()) if sign is None else sign
            assert either[sign] < 1e-4


# --- classes ----------------------------------------------------------------------------------------------------------


def test_classes_are_judged_as_scikit_learn_judges() -> None:
    model, random = LinearDecoder(SIZES), np.random.default_rng(8)
    labels = random.integers(-1, 4, 40)
    logits = random.normal(size=(40, 4)) + 1.5 * np.eye(4)[np.maximum(labels, 0)]
    whole = split(model, random.normal(size=(40, 6)), labels=labels.astype(np.float64), logits=logits)
    found, known = measured(model, whole), labels >= 0
    predicted = logits.argmax(axis=1)[known]
    assert found["sem/class_accuracy"] == pytest.approx(accuracy_score(labels[known], predicted))
    assert found["sem/class_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels[known], predicted))
    assert found["sem/class_skill"] == pytest.approx(balanced_accuracy_score(labels[known], predicted, adjusted=True))
    assert 0.3 < found["sem/class_accuracy"] < 0.95


def test_a_guess_that_ignores_the_input_has_no_skill_and_misses_the_gate() -> None:
    labels = np.repeat([0.0, 1.0, 2.0], [60, 30, 10])
    metrics = [BalancedAccuracy(MetricContext(LatentLayout({"all": 6}), ("gamma",), labelled=True))]
    # a class that the split lacks is below chance: (0 - 1/3) / (1 - 1/3)
    for classes, skill, verdict in (
        (np.zeros(100), 0.0, "fail"),
        (np.full(100, 3.0), -0.5, "fail"),
        (labels, 1.0, "pass"),
    ):
        record = SplitRecord(tuple(f"row-{row}" for row in range(100)), {"labels": labels, "classes": classes})
        gates = GateSettings.from_config({}).targets
        (gate,) = evaluate_gates(estimate(metrics, record).estimates, gates, metrics, {}, 100).gates
        assert (gate.name, gate.value, gate.verdict) == ("class_skill", pytest.approx(skill), verdict)


def test_the_record_of_a_split_is_sorted_and_has_each_subject_once() -> None:
    model = LinearDecoder(SIZES)
    whole = split(model, np.arange(24.0).reshape(4, 6))
    record = recorded(model, rows(*whole, [2, 0, 3, 1, 0]), batch_size=2)
    assert record.subject_id == whole[0].subject_id
    np.testing.assert_array_equal(record.arrays["mean"], np.arange(24.0).reshape(4, 6))
