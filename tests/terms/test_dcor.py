from collections.abc import Callable

import numpy as np
import pytest
import torch
from late import Late
from torch import Tensor

from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.statistics.distance_correlation import u_distance_correlation_sqr
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput, Posterior

dcor = Late("dcor")

BLOCKS = {"vol": slice(0, 2), "loc": slice(2, 3), "residual": slice(3, 6)}
PAIRS = (("vol", "loc"), ("vol", "residual"), ("loc", "residual"))


def oracle(rows: Tensor, pairs: tuple[tuple[str, str], ...] = PAIRS) -> float:
    """Sum over pairs by the dcor package."""
    table = rows.detach().double().numpy()
    return sum(dcor.u_distance_correlation_sqr(table[:, BLOCKS[a]], table[:, BLOCKS[b]]) for a, b in pairs)


@pytest.fixture
def term(context: TermContext) -> Callable[..., Term]:
    return lambda **settings: build("term", {"name": "dcor", **settings}, context)


@pytest.fixture
def rows() -> Callable[[int, int], Tensor]:
    return lambda seed, number: torch.randn(number, 6, generator=torch.Generator().manual_seed(seed))


Rows = Callable[[int, int], Tensor]
MakeTerm = Callable[..., Term]
MakeOutput = Callable[..., ModelOutput]


def test_batch_alone_agrees_with_the_dcor_package(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    means = rows(0, 12)
    means[:, 2] += means[:, 0]
    values = term(buffer_size=0)(batch_of(), output_of(means))
    assert values["dcor"].item() == pytest.approx(oracle(means), abs=1e-6)
    assert values["dcor_rows"].item() == 12.0


def test_4_rows_are_enough(term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]) -> None:
    assert term()(batch_of(), output_of(rows(0, 4)))["dcor"].item() == pytest.approx(oracle(rows(0, 4)), abs=1e-6)


def test_3_rows_give_0_even_if_all_means_are_0(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    means = torch.zeros(3, 6, requires_grad=True)
    value = term()(batch_of(), output_of(means))["dcor"]
    value.backward()
    assert value.item() == 0.0
    assert means.grad is not None
    assert not means.grad.any()


def test_only_the_chosen_partitions_are_paired(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    means = rows(0, 12)
    values = term(buffer_size=0, partitions=["residual", "loc"])(batch_of(), output_of(means))
    assert values["dcor"].item() == pytest.approx(oracle(means, (("loc", "residual"),)), abs=1e-6)


def test_buffer_is_first_in_first_out(term: MakeTerm, rows: Rows, output_of: MakeOutput) -> None:
    dcor_term = term(buffer_size=5)
    assert int(dcor_term.state_dict()["memory.num_filled"]) == 0
    for seed, filled in ((1, 2), (2, 4), (3, 5), (4, 5)):
        dcor_term.commit(output_of(rows(seed, 2)))
        assert int(dcor_term.state_dict()["memory.num_filled"]) == filled
    expected = torch.cat([rows(4, 2), rows(3, 2), rows(2, 2)[:1]])
    assert torch.equal(dcor_term.memory.newest_first(), expected)


def test_buffer_size_counts_the_batch_too(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    dcor_term = term(buffer_size=10)
    for seed in (1, 2, 3, 4):
        dcor_term.commit(output_of(rows(seed, 4)))
    values = dcor_term(batch_of(), output_of(rows(5, 4)))
    expected = torch.cat([rows(5, 4), rows(4, 4), rows(3, 4)[:2]])
    assert values["dcor_rows"].item() == 10.0
    assert values["dcor"].item() == pytest.approx(oracle(expected), abs=1e-6)


def test_only_what_was_filled_is_used(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    dcor_term = term()  # 256 in all
    dcor_term.commit(output_of(rows(1, 3)))
    values = dcor_term(batch_of(), output_of(rows(2, 3)))
    assert values["dcor_rows"].item() == 6.0
    assert values["dcor"].item() == pytest.approx(oracle(torch.cat([rows(2, 3), rows(1, 3)])), abs=1e-6)


def test_batch_larger_than_the_buffer_is_used_whole(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    dcor_term = term(buffer_size=5)
    dcor_term.commit(output_of(rows(1, 8)))
    assert torch.equal(dcor_term.memory.newest_first(), rows(1, 8)[:5])
    values = dcor_term(batch_of(), output_of(rows(2, 8)))
    assert values["dcor"].item() == pytest.approx(oracle(rows(2, 8)), abs=1e-6)


def test_gradient_reaches_the_newest_rows_only_and_is_that_of_the_joint_estimate(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    dcor_term = term(buffer_size=9)
    remembered = rows(1, 6).requires_grad_()
    dcor_term.commit(output_of(remembered))
    newest = rows(2, 3).requires_grad_()
    dcor_term(batch_of(), output_of(newest))["dcor"].backward()
    assert remembered.grad is None
    assert newest.grad is not None
    step = 1e-3
    for row, column in ((0, 0), (1, 2), (2, 5)):  # against central differences of the dcor package
        values = []
        for sign in (1.0, -1.0):
            moved = torch.cat([rows(2, 3), rows(1, 6)]).double()
            moved[row, column] += sign * step
            values.append(oracle(moved))
        assert newest.grad[row, column].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


def test_fewer_than_4_rows_give_0_that_still_has_a_gradient(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    means = rows(0, 3).requires_grad_()
    value = term()(batch_of(), output_of(means))["dcor"]
    value.backward()
    assert value.item() == 0.0
    assert means.grad is not None
    assert not means.grad.any()


def test_memory_but_not_its_distances_is_part_of_checkpoints(term: MakeTerm) -> None:
    state = term(buffer_size=7).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "memory.rows": (7, 6),
        "memory.steps": (7,),
        "memory.num_filled": (),
        "memory.next_slot": (),
    }
    assert state["memory.rows"].dtype == torch.float32


def test_partitions_that_make_no_pair_are_refused(term: MakeTerm) -> None:
    for partitions in (["vol"], [], ["vol", "vol"]):
        with pytest.raises(UserError, match="two or more different"):
            term(partitions=partitions)
    with pytest.raises(UserError, match="did you mean 'vol'"):
        term(partitions=["volx", "loc"])


WIDE = LatentLayout({"vol": 24, "residual": 84})


def term_after(means: Tensor, layout: LatentLayout = WIDE, **settings: object) -> Term:
    """A term that remembers these means, two a step."""
    term: Term = build("term", {"name": "dcor", **settings}, TermContext(layout, 1, 1))
    for pair in means.split(2):
        term.commit(output_around(pair))
    return term


def output_around(means: Tensor) -> ModelOutput:
    return ModelOutput(Posterior(means, torch.zeros_like(means)), means, means)


@pytest.mark.parametrize("seed", range(3))
def test_drift_of_independent_partitions_is_told_from_dependence(seed: int, batch_of: Callable[..., Batch]) -> None:
    noise = torch.randn(256, 108, generator=torch.Generator().manual_seed(seed))
    means = noise + torch.linspace(0.0, 1.0, 256).unsqueeze(1)  # 1 sd in all dimensions while the memory fills
    values = term_after(means[:-2])(batch_of(), output_around(means[-2:]))
    assert values["dcor_rows"].item() == 256.0
    assert values["dcor"].sqrt().item() == pytest.approx(0.45, abs=0.05)
    assert values["dcor_age_partialled"].abs().item() < 0.02  # of the square; by chance alone 0.006

    means[:, 24] += 4.0 * means[:, 0]  # what depends at any age still does
    values = term_after(means[:-2])(batch_of(), output_around(means[-2:]))
    assert values["dcor_age_partialled"].item() > 0.1


def test_age_partialled_value_is_that_of_the_dcor_package(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    dcor_term = term(buffer_size=20)
    for seed in range(7):
        dcor_term.commit(output_of(rows(seed, 3) + 0.3 * seed))
    table = torch.cat([rows(7, 3) + 2.1, *(rows(seed, 3) + 0.3 * seed for seed in range(6, 0, -1))])[:20].double()
    ages = np.repeat(np.arange(7.0), 3)[:20]
    given_age = dcor.u_complementary_projection(dcor.u_centered(np.subtract.outer(ages, ages) ** 2))
    left = {}
    for name, block in BLOCKS.items():
        columns = table[:, block].numpy()
        left[name] = given_age(dcor.u_centered(np.linalg.norm(columns[:, None] - columns, axis=2)))
    expected = sum(
        dcor.u_product(left[a], left[b]) / np.sqrt(dcor.u_product(left[a], left[a]) * dcor.u_product(left[b], left[b]))
        for a, b in PAIRS
    )
    values = dcor_term(batch_of(), output_of(table[:3].float()))
    assert values["dcor_age_partialled"].item() == pytest.approx(expected, abs=1e-6)
    assert not values["dcor_age_partialled"].requires_grad


def test_rows_of_one_age_have_nothing_to_partial_out(
    term: MakeTerm, rows: Rows, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    values = term()(batch_of(), output_of(rows(0, 9)))
    assert values["dcor_age_partialled"].item() == values["dcor"].item()
    assert "dcor_age_partialled" not in term(buffer_size=0)(batch_of(), output_of(rows(0, 9)))


NARROW = LatentLayout({"vol": 3, "residual": 2})


def mean_gradient(buffer_size: int, shared: float, batch_of: Callable[..., Batch], **settings: object) -> float:
    """Norm of a batch row's gradient, over draws whose dimensions share a factor to some degree."""
    norms = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(buffer_size, 5, generator=generator)
        means = (1.0 - shared) ** 0.5 * means + shared**0.5 * torch.randn(buffer_size, 1, generator=generator)
        newest = means[-8:].clone().requires_grad_()
        term = term_after(means[:-8], NARROW, buffer_size=buffer_size, **settings)
        term(batch_of(), output_around(newest))["dcor"].backward()
        assert newest.grad is not None
        norms.append(newest.grad.norm(dim=1).mean().item())
    return float(np.mean(norms))


def test_gradient_of_all_rows_does_not_depend_on_the_buffer_size(batch_of: Callable[..., Batch]) -> None:
    """Of dependent partitions it is the same; of independent ones it is noise, which falls as 1 / sqrt(rows)."""
    sizes = (32, 64, 128, 256, 512)
    plain = [mean_gradient(size, 0.5, batch_of) for size in sizes]
    dependent = [mean_gradient(size, 0.5, batch_of, gradient_scale="all_rows") for size in sizes]
    independent = [mean_gradient(size, 0.0, batch_of, gradient_scale="all_rows") for size in sizes]
    assert plain[0] / plain[-1] == pytest.approx(16.0, rel=0.35)
    assert max(dependent) / min(dependent) < 1.35
    assert independent[0] / independent[-1] == pytest.approx(4.0, rel=0.35)


def test_gradient_of_all_rows_is_that_of_weights_that_made_them_all(
    batch_of: Callable[..., Batch],
) -> None:
    """Means x w with one weight a dimension: the batches' scaled gradients average to that of the statistic of all."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 108, generator=generator) + torch.randn(64, 1, generator=generator)
    weights = torch.linspace(0.5, 2.0, 108).requires_grad_()
    term = term_after((inputs * weights).detach(), buffer_size=64, gradient_scale="all_rows")
    gradients, values = [], []
    for _ in range(32):
        means = (
            inputs[2 * len(gradients) : 2 * len(gradients) + 2] * weights
        )  # the oldest, which give way to themselves
        value = term(batch_of(), output_around(means))["dcor"]
        gradients.append(torch.autograd.grad(value, weights)[0])
        values.append(value.item())
        term.commit(output_around(means.detach()))
    means = inputs * weights
    statistic = u_distance_correlation_sqr(means[:, :24], means[:, 24:])
    expected = torch.autograd.grad(statistic, weights)[0]
    assert values == pytest.approx([statistic.item()] * 32, abs=1e-6)  # not scaled
    torch.testing.assert_close(torch.stack(gradients).mean(dim=0), expected.float(), rtol=1e-4, atol=1e-6)
