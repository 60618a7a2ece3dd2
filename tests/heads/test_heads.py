import pytest
import torch

from menvae.errors import UserError
from menvae.registry import build


def test_structured_head_reads_each_target_from_its_own_block() -> None:
    head = build("head", {"name": "structured", "dropout": 0.0}, 12, 3)
    latents = torch.randn(5, 12, requires_grad=True)
    predictions = head(latents)
    for target in range(3):
        (gradient,) = torch.autograd.grad(predictions[:, target].sum(), latents, retain_graph=True)
        block = slice(4 * target, 4 * target + 4)
        assert gradient[:, block].any(dim=0).all()
        gradient[:, block] = 0.0
        assert not gradient.any()


def test_structured_head_is_a_perceptron_a_target() -> None:
    head = build("head", {"name": "structured"}, 24, 4)
    assert sum(p.numel() for p in head.parameters()) == 4 * ((6 * 48 + 48) + (48 + 1))


@pytest.mark.parametrize(("num_latents", "num_features", "better"), [(8, 3, 9), (1, 4, 4), (25, 4, 24)])
def test_structured_head_refuses_sizes_that_do_not_divide(num_latents: int, num_features: int, better: int) -> None:
    words = f"{num_latents} is not a multiple of {num_features}; use {better} inputs$"
    with pytest.raises(UserError, match=words):
        build("head", {"name": "structured"}, num_latents, num_features)


def test_identity_head_has_nothing_to_learn() -> None:
    head = build("head", {"name": "identity"}, 3, 3)
    latents = torch.randn(4, 3)
    assert head(latents) is latents
    assert not list(head.parameters())
    with pytest.raises(UserError, match="24 inputs and 4 outputs; their numbers must be equal"):
        build("head", {"name": "identity"}, 24, 4)


def test_linear_head_is_linear() -> None:
    head = build("head", {"name": "linear"}, 5, 2)
    a, b = torch.randn(3, 5), torch.randn(3, 5)
    assert not head(torch.zeros(1, 5)).any()
    torch.testing.assert_close(head(2.0 * a - b), 2.0 * head(a) - head(b))
    assert sum(p.numel() for p in head.parameters()) == 5 * 2 + 2
