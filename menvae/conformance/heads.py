"""Conformance suite of semantic heads."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn

from menvae.conformance.suite import (
    Case,
    PartConformance,
    parameters_without_gradient,
    random_sum,
    refusal,
    seeded,
)


class HeadConformance(PartConformance):
    """Latents of one partition [B, P] -> z-scored targets [B, F].

    Attributes:
        shapes: (P, F) to test; a head may reject all but the first with a UserError.
    """

    group = "head"
    shapes: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (6, 3), (3, 6), (1, 1))
    batch_size: ClassVar[int] = 8

    def build(self, case: Case, num_latents: int, num_features: int) -> nn.Module:
        """Return a seeded head."""
        torch.manual_seed(0)
        head: nn.Module = case.bound()(num_latents, num_features)
        return head

    def latents(self, num_latents: int) -> Tensor:
        """Return a batch of latents."""
        return torch.randn(self.batch_size, num_latents, generator=seeded())

    def test_predicts_every_feature(self, case: Case) -> None:
        for num_latents, num_features in self.shapes:
            words = refusal(functools.partial(self.build, case, num_latents, num_features))
            if words:
                assert (num_latents, num_features) != self.shapes[0]
                assert str(num_latents) in words
                assert str(num_features) in words
                continue
            output = self.build(case, num_latents, num_features)(self.latents(num_latents))
            assert output.shape == (self.batch_size, num_features)
            assert torch.isfinite(output).all()

    def test_every_parameter_and_every_latent_gets_a_gradient(self, case: Case) -> None:
        num_latents, num_features = self.shapes[0]
        head, latents = self.build(case, num_latents, num_features).eval(), self.latents(num_latents).requires_grad_()
        random_sum(head(latents)).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(head)
        assert latents.grad is not None
        assert latents.grad.any(dim=0).all()

    @torch.no_grad()
    def test_evaluation_is_deterministic_and_row_by_row(self, case: Case) -> None:
        num_latents, num_features = self.shapes[0]
        head, latents = self.build(case, num_latents, num_features).eval(), self.latents(num_latents)
        torch.testing.assert_close(head(latents), head(latents), rtol=0.0, atol=0.0)
        torch.testing.assert_close(head(latents)[:1], head(latents[:1]), rtol=1e-5, atol=1e-6)
