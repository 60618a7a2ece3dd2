from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.objective import Objective
from menvae.terms import Term
from menvae.types import Batch, ModelOutput, Posterior, Progress


class Fixed(Term):
    """A term that gives fixed multiples of the sum of the posterior means."""

    def __init__(self, factors: Mapping[str, float], requires: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.scalars, self.factors, self.requires = tuple(factors), dict(factors), requires
        self.calls = self.commits = 0
        self.epochs: list[float] = []
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        self.calls += 1
        assert not torch.is_autocast_enabled("cpu")
        values = {name: factor * output.posterior.mean.sum() for name, factor in self.factors.items()}
        return values | {f"{self.scalars[0]}_detail": torch.tensor(7.0)}

    def at(self, progress: Progress) -> None:
        assert self.calls == len(self.epochs)
        self.epochs.append(progress.epoch)

    def commit(self, output: ModelOutput) -> None:
        self.commits += 1

    def constants(self) -> Mapping[str, float]:
        return {f"floor_{self.scalars[0]}": 3.0}


BATCH = Batch(torch.zeros(2, 1, 1, 1, 1), ("a", "b"))
START = Progress(0.0, 10.0)


def output() -> ModelOutput:
    mean = torch.ones(2, 3, requires_grad=True)
    return ModelOutput(Posterior(mean, torch.zeros(2, 3)), mean, BATCH.inputs)


def test_total_is_the_weighted_sum_now() -> None:
    objective = Objective(
        {"a": Fixed({"kl": 1.0}), "b": Fixed({"vol": 2.0})},
        {"kl": 3.0, "vol": 0.5},
        {"vol": lambda progress: progress.epoch / progress.total_epochs},
    )
    report = objective(BATCH, output(), Progress(4.0, 10.0))
    assert report.total.item() == pytest.approx(3.0 * 6.0 + 0.5 * 0.4 * 12.0)
    assert report.scalars["vol"].weight == pytest.approx(0.2)
    assert report.scalars["vol"].raw.item() == 12.0
    assert report.scalars["vol"].weighted.item() == pytest.approx(2.4)
    assert {name: value.item() for name, value in report.diagnostics.items()} == {"kl_detail": 7.0, "vol_detail": 7.0}


def test_gradient_is_that_of_the_weighted_sum() -> None:
    made = output()
    Objective({"a": Fixed({"kl": 2.0})}, {"kl": 3.0}, {})(BATCH, made, START).total.backward()
    assert made.posterior.mean.grad is not None
    assert made.posterior.mean.grad.tolist() == [[6.0] * 3] * 2


def test_scalar_of_weight_0_is_never_computed_and_never_required() -> None:
    idle = Fixed({"aux": 1.0}, frozenset({"auxiliary_reconstruction"}))
    active = Fixed({"kl": 1.0}, frozenset({"reconstruction"}))
    objective = Objective({"idle": idle, "active": active}, {"aux": 0.0, "kl": 1.0}, {})
    objective(BATCH, output(), START)
    objective.commit(output())
    assert (idle.calls, idle.commits, active.calls, active.commits) == (0, 0, 1, 1)
    assert objective.requires == {"reconstruction"}
    assert objective.scalars == ["kl"]
    assert list(objective.state_dict()) == ["terms.active.seen"]


def test_term_of_several_scalars_drops_those_of_weight_0() -> None:
    objective = Objective({"a": Fixed({"mi": 1.0, "tc": 2.0})}, {"mi": 0.0, "tc": 1.0}, {})
    assert list(objective(BATCH, output(), START).scalars) == ["tc"]


def test_schedule_at_0_keeps_the_term_in_the_report() -> None:
    objective = Objective({"a": Fixed({"kl": 1.0})}, {"kl": 1.0}, {"kl": lambda _: 0.0})
    report = objective(BATCH, output(), START)
    assert report.scalars["kl"].raw.item() == 6.0
    assert report.total.item() == 0.0


def test_autocast_is_off_in_terms() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        Objective({"a": Fixed({"kl": 1.0})}, {"kl": 1.0}, {})(BATCH, output(), START)


def test_terms_learn_where_training_stands_and_are_validated_as_at_its_end() -> None:
    term = Fixed({"kl": 1.0})
    objective = Objective({"a": term}, {"kl": 1.0}, {})
    for epoch in (0.0, 2.5):
        objective(BATCH, output(), Progress(epoch, 10.0))
    objective.eval()(BATCH, output(), Progress(3.0, 10.0))
    assert term.epochs == [0.0, 2.5, 10.0]


def test_schedule_metrics_tell_weights_beta_and_constants() -> None:
    objective = Objective(
        {"a": Fixed({"recon": 1.0}), "b": Fixed({"kl": 1.0})},
        {"recon": 10.0, "kl": 5.0},
        {"kl": lambda progress: progress.epoch / 10.0},
    )
    assert objective.schedule_metrics(Progress(4.0, 10.0)) == {
        "sched/lambda_recon": 10.0,
        "sched/lambda_kl": 2.0,
        "sched/beta": pytest.approx(0.2),
        "sched/floor_recon": 3.0,
        "sched/floor_kl": 3.0,
    }


@pytest.mark.parametrize(
    ("terms", "weights", "schedules", "words"),
    [
        (
            {"a": ["kl"]},
            {"kl": 1.0, "kll": 1.0},
            [],
            "loss.lambda_kll: no term returns a scalar 'kll'; did you mean 'kl'?",
        ),
        (
            {"a": ["kl"]},
            {},
            [],
            "loss.terms.a needs a weight for each of its scalars (0 turns one off): +loss.lambda_kl=NUMBER",
        ),
        ({"a": ["kl"]}, {"kl": 1.0}, ["vol"], "loss.schedules.vol: no term returns a scalar 'vol'"),
        ({"a": ["kl"], "b": ["kl"]}, {"kl": 1.0}, [], "loss.terms.b: loss.terms.a already returns a scalar 'kl'"),
        ({"a": ["kl"]}, {"kl": -1.0}, [], "loss.lambda_kl: -1.0 is not allowed"),
        ({"a": ["kl"]}, {"kl": float("nan")}, [], "loss.lambda_kl: nan is not allowed"),
        ({"a": ["kl"]}, {"kl": 0.0}, [], "every lambda is 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    terms: dict[str, list[str]], weights: dict[str, float], schedules: list[str], words: str
) -> None:
    made = {key: Fixed(dict.fromkeys(scalars, 1.0)) for key, scalars in terms.items()}
    with pytest.raises(UserError) as caught:
        Objective(made, weights, {name: lambda _: 1.0 for name in schedules})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_infinite_weight_is_refused() -> None:
    with pytest.raises(UserError, match="inf is not allowed"):
        Objective({"a": Fixed({"kl": 1.0})}, {"kl": float("inf")}, {})
