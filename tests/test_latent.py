import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from menvae.errors import UserError
from menvae.latent import LatentLayout


def test_run6_bounds() -> None:
    layout = LatentLayout.from_config(128, {"vol": 24, "loc": 8, "shape": 12, "residual": None})
    assert [layout.bounds(name) for name in layout] == [(0, 24), (24, 32), (32, 44), (44, 128)]
    assert layout.z_dim == 128


def test_open_partition_may_stand_anywhere() -> None:
    layout = LatentLayout.from_config(10, {"vol": 3, "residual": None, "shape": 2})
    assert layout.sizes == {"vol": 3, "residual": 5, "shape": 2}
    assert layout.bounds("shape") == (8, 10)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_split_and_join_are_inverse(sizes: list[int]) -> None:
    layout = LatentLayout.from_config(sum(sizes), {f"p{index}": size for index, size in enumerate(sizes)})
    z = torch.arange(2.0 * sum(sizes)).reshape(2, -1)
    split = layout.split(z)
    assert [part.shape[1] for part in split.values()] == sizes
    assert torch.equal(torch.cat(list(split.values()), dim=1), z)
    assert torch.equal(layout.join(z, layout), z)


def test_join_keeps_the_given_order() -> None:
    layout = LatentLayout({"a": 1, "b": 2})
    assert layout.join(torch.tensor([[1.0, 2.0, 3.0]]), ["b", "a"]).tolist() == [[2.0, 3.0, 1.0]]


def test_select_is_a_view_of_its_columns() -> None:
    z = torch.zeros(2, 3, requires_grad=True)
    LatentLayout({"a": 1, "b": 2}).select(z, "b").sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 1.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("z_dim", "partitions", "words"),
    [
        (8, {}, "at least one partition"),
        (8, {"vol": 0, "rest": None}, "model.partitions.vol: 0"),
        (8, {"vol": -2, "rest": None}, "model.partitions.vol: -2"),
        (8, {"vol": None, "rest": None}, "vol and rest are null"),
        (8, {"vol": 3, "rest": 4}, "sum to 7, not to model.z_dim=8"),
        (8, {"vol": 3, "rest": 6}, "sum to 9, not to model.z_dim=8"),
        (8, {"vol": 8, "rest": None}, "leaves no dimension of model.z_dim=8 for rest"),
        (8, {"vol": 9, "rest": None}, "leaves no dimension of model.z_dim=8 for rest"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_words(z_dim: int, partitions: dict[str, int | None], words: str) -> None:
    with pytest.raises(UserError) as caught:
        LatentLayout.from_config(z_dim, partitions)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_partition_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'shape'"):
        LatentLayout({"vol": 1, "shape": 1}).bounds("shpae")


@pytest.mark.parametrize(
    ("partitions", "at_least", "words"),
    [
        ([], 1, "partitions [] are not allowed; choose one or more different ones"),
        (["a", "a"], 1, "partitions ['a', 'a'] are not allowed; choose one or more different ones"),
        (["a", "a"], 0, "partitions ['a', 'a'] are not allowed; choose different ones"),
        (["b"], 2, "partitions ['b'] are not allowed; choose two or more different ones"),
        (["c"], 1, "partition 'c' does not exist"),
    ],
)
def test_partitions_that_no_part_can_look_at(partitions: list[str], at_least: int, words: str) -> None:
    layout = LatentLayout({"a": 1, "b": 2})
    with pytest.raises(UserError) as caught:
        layout.chosen(partitions, at_least=at_least)
    assert str(caught.value).startswith(words)
    assert layout.chosen(["b", "a"], at_least=2) == ["b", "a"]
    assert layout.chosen([], at_least=0) == []
