import pytest
import torch
from torch import Tensor

from menvae.statistics.distance_correlation import (
    bordered_u_distance_correlations_sqr,
    partial_correlations,
    u_distance_correlations_sqr,
)
from menvae.statistics.pairwise import (
    Centring,
    LeaveOut,
    bordered_products,
    centred_products,
    distances,
    distances_of,
)

BOUNDS = ((0, 3), (3, 4), (4, 9))


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blocks_of(rows: Tensor) -> list[Tensor]:
    return [rows[:, start:stop] for start, stop in BOUNDS]


def bordered(new: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """Correlations of rows in which new ones stand in slots; what stood there before is rubbish."""
    inner = torch.stack([distances(block) for block in blocks_of(rows)])
    inner[:, slots], inner[:, :, slots] = 7.0, -7.0
    border = distances_of(new, rows.index_copy(0, slots, new.detach().double()), BOUNDS)
    return bordered_u_distance_correlations_sqr(border, inner, slots)


@pytest.mark.parametrize("slots", [[5], [0, 11], [11, 3, 4, 0]])
def test_border_gives_value_and_gradient_of_the_whole(slots: list[int]) -> None:
    rows, where = draws(12, 9), torch.tensor(slots)
    rows[:, 3] += rows[:, 0]
    weights = draws(3, 3, seed=2)
    new = draws(len(slots), 9, seed=1).requires_grad_()
    found = bordered(new, rows, where)
    expected = u_distance_correlations_sqr(blocks_of(rows.index_copy(0, where, new)))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    gradients = [torch.autograd.grad((weights * value).sum(), new)[0] for value in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=1e-12)


def test_gradient_of_the_border_is_the_derivative() -> None:
    rows, where = draws(9, 9), torch.tensor([7, 2])
    new = draws(2, 9, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: bordered(moved, rows, where), (new,))


def test_batch_alone_needs_no_inner_distances() -> None:
    rows = draws(8, 9).requires_grad_()
    found = bordered_u_distance_correlations_sqr(distances_of(rows, rows, BOUNDS), None, torch.arange(8))
    expected = u_distance_correlations_sqr(blocks_of(rows))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    gradients = [torch.autograd.grad(value[0].sum(), rows)[0] for value in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=1e-12)


def test_gradient_at_coincident_rows_is_finite() -> None:
    rows = draws(8, 9)
    new = rows[[1, 1]].clone().requires_grad_()  # each other, and a remembered one
    bordered(new, rows, torch.tensor([5, 6])).sum().backward()
    assert new.grad is not None
    assert torch.isfinite(new.grad).all()
    assert new.grad.any()


def test_distances_have_the_same_bits_in_any_company_and_direction() -> None:
    rows = draws(40, 84, seed=3).float()
    whole = distances_of(rows, rows, [(0, 84)])
    assert torch.equal(whole, whole.mT)
    assert torch.equal(distances_of(rows[[30, 2]], rows, [(0, 84)]), whole[:, [30, 2]])
    assert torch.equal(distances_of(rows, rows[5:9], [(0, 84)]), whole[:, :, 5:9])
    assert not torch.diagonal(whole[0]).any()


@pytest.mark.parametrize("centring", [Centring.unbiased(6), Centring.biased(6)], ids=["unbiased", "biased"])
def test_products_are_those_of_matrices_that_are_centred(centring: Centring) -> None:
    x, y = distances(draws(6, 2)), distances(draws(6, 3, seed=1))
    if centring == Centring.biased(6):
        middle = torch.eye(6, dtype=torch.float64) - 1.0 / 6.0
        expected = ((middle @ x @ middle) * (middle @ y @ middle)).sum() / 25.0
    else:
        centred = []
        for matrix in (x, y):
            rows = matrix.sum(dim=1)
            u = matrix - (rows[:, None] + rows) / 4.0 + rows.sum() / 20.0
            centred.append(u - torch.diag(torch.diagonal(u)))
        expected = (centred[0] * centred[1]).sum() / 18.0
    found, mean_squares = centred_products(torch.stack([x, y]), centring)
    assert found[0, 1].item() == pytest.approx(expected.item(), abs=1e-13)
    assert mean_squares.tolist() == pytest.approx([x.square().mean().item(), y.square().mean().item()])


@pytest.mark.parametrize("left_out", [[], [0], [11, 3, 7]])
def test_rows_left_out_are_as_if_they_had_never_been_there(left_out: list[int]) -> None:
    generator = torch.Generator().manual_seed(4)
    blocks = [100.0 + torch.randn(12, columns, generator=generator) for columns in (1, 3, 5)]
    kept = [row for row in range(12) if row not in left_out]
    expected = centred_products(torch.stack([distances(block[kept]) for block in blocks]), Centring.unbiased(len(kept)))
    found = LeaveOut(torch.stack([distances(block) for block in blocks]))(torch.tensor(left_out, dtype=torch.int64))
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)


def test_autocast_does_not_touch_value_or_gradient() -> None:
    rows, where = draws(20, 9) + 10.0, torch.tensor([3])
    results = []
    for enabled in (False, True):
        new = draws(1, 9, seed=1).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = bordered(new, rows, where)[0, 2]
            value.backward()
        results.append((value.detach(), new.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows is undefined"):
        Centring.biased(1)
    with pytest.raises(ValueError, match="3 rows is undefined"):
        bordered_products(draws(1, 1, 3), None, torch.arange(1), Centring.unbiased(3))


@pytest.mark.parametrize("seed", range(3))
def test_partial_distance_correlations_agree_with_the_dcor_package(seed: int) -> None:
    import dcor

    given = draws(15, 1, seed=seed)
    x, y = draws(15, 3, seed=seed + 10) + given, draws(15, 2, seed=seed + 20) - given.square()
    found = partial_correlations(u_distance_correlations_sqr([x, y, given]))
    expected = dcor.partial_distance_correlation(x.numpy(), y.numpy(), given.numpy())
    assert found.shape == (2, 2)
    assert found[0, 1].item() == pytest.approx(expected, abs=1e-9)


def test_partial_correlation_of_what_the_given_determines_is_0() -> None:
    given = draws(9, 1)
    found = partial_correlations(u_distance_correlations_sqr([2.0 * given, draws(9, 2, seed=1), given]))
    assert found[0].tolist() == [0.0, 0.0]
