from collections.abc import Callable

import dcor
import pytest
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput

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
