"""The memory against a plain list of rows, and its distances against those computed anew."""

import copy

import pytest
import torch
from torch import Tensor

from menvae.latent import LatentLayout
from menvae.statistics.pairwise import distances
from menvae.terms.row_memory import RowMemory

LAYOUT = LatentLayout({"vol": 2, "loc": 1, "residual": 3})


def rows(number: int, seed: int) -> Tensor:
    return torch.randn(number, 6, generator=torch.Generator().manual_seed(seed))


def filled(size: int, *batches: int) -> RowMemory:
    memory = RowMemory(size, LAYOUT, ["vol", "residual"])
    for seed, number in enumerate(batches):
        memory.push(rows(number, seed))
    return memory


HISTORIES = [(), (1,), (2,), (2, 2, 3), (2, 2, 3, 3, 1, 4), (3,) * 9, (9,), (2, 8, 3), (12, 1, 1)]


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_newest_first_as_in_a_list(history: tuple[int, ...]) -> None:
    expected: list[Tensor] = []
    for seed, number in enumerate(history):
        expected = [*rows(number, seed), *expected][:8]
    memory = filled(8, *history)
    assert int(memory.num_filled) == len(expected)
    assert torch.equal(memory.newest_first(), torch.stack(expected) if expected else torch.zeros(0, 6))


def test_a_memory_of_one_row_holds_the_first_of_the_newest_batch() -> None:
    memory = filled(1, 2, 3)
    assert torch.equal(memory.newest_first(), rows(3, seed=1)[:1])
    assert memory.joined(rows(1, seed=9)).num_rows == 1


@pytest.mark.parametrize("num_new", [1, 3, 8, 11])
@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_joined_are_the_batch_and_the_newest(history: tuple[int, ...], num_new: int) -> None:
    memory, new = filled(8, *history), rows(num_new, seed=99)
    joined = memory.joined(new)
    expected = torch.cat([new, memory.newest_first()[: max(0, 8 - num_new)]])
    assert joined.num_rows == len(expected)
    assert joined.age_border.shape == (1, num_new, len(expected))
    for block, (start, stop) in enumerate([(0, 2), (3, 6)]):
        matrix = torch.zeros_like(joined.border[0]) if joined.inner is None else joined.inner[block].clone()
        matrix[joined.slots], matrix[:, joined.slots] = joined.border[block], joined.border[block].T
        wanted = distances(expected[:, start:stop])
        torch.testing.assert_close(matrix.flatten().sort().values, wanted.flatten().sort().values)
        torch.testing.assert_close(matrix.sum(dim=1).sort().values, wanted.sum(dim=1).sort().values)


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_distances_after_loading_have_the_same_bits(history: tuple[int, ...]) -> None:
    memory, restored = filled(8, *history), RowMemory(8, LAYOUT, ["vol", "residual"])
    restored.load_state_dict(memory.state_dict())
    assert "_distances" not in memory.state_dict()
    for _ in range(3):
        assert torch.equal(memory._distances, restored._distances)
        new = rows(3, seed=77)
        for left, right in zip(vars(memory.joined(new)).values(), vars(restored.joined(new)).values(), strict=True):
            assert left is right is None or torch.equal(left, right)
        memory.push(new)
        restored.push(new)


def test_ages_count_steps() -> None:
    memory = filled(6, 2, 2, 1)
    joined = memory.joined(rows(1, seed=9))
    assert joined.age_border.flatten().tolist() == [9.0, 9.0, 4.0, 4.0, 1.0, 0.0]
    assert joined.inner_and_ages is not None
    assert joined.inner_and_ages[-1, 0, :5].tolist() == [0.0, 0.0, 1.0, 1.0, 4.0]


def test_looking_changes_nothing() -> None:
    memory = filled(8, 3, 3, 3)
    before = copy.deepcopy(memory)
    memory.joined(rows(4, seed=9).requires_grad_()).border.sum().backward()
    assert torch.equal(memory._distances, before._distances)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in memory.state_dict().items())


def test_no_memory_at_all() -> None:
    memory = filled(0, 3, 3)
    assert memory.joined(rows(5, seed=1)).num_rows == 5
    assert memory.newest_first().shape == (0, 6)
    RowMemory(0, LAYOUT, ["vol", "loc"]).load_state_dict(memory.state_dict())


def test_what_a_checkpoint_holds() -> None:
    """Steps are counted in integers: float32 would stop counting after 16 million."""
    state = filled(8, 3).state_dict()
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
    assert shapes == {
        "rows": ((8, 6), torch.float32),
        "steps": ((8,), torch.int64),
        "num_filled": ((), torch.int64),
        "next_slot": ((), torch.int64),
    }
