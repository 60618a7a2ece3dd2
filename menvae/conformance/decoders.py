"""Conformance suites of decoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from menvae.conformance.suite import (
    Case,
    RowConformance,
    Size,
    VolumeConformance,
    parameters_without_gradient,
    random_sum,
    relative_distance,
    seeded,
)
from menvae.decoders import Decoder
from menvae.layers import set_memory_format


class DecoderConformance(VolumeConformance):
    """Z [B, Z] -> reconstruction [B, C, *output_size]."""

    group = "decoder"

    def build(self, case: Case, size: Size | None = None) -> Decoder:
        """Return a seeded decoder."""
        torch.manual_seed(0)
        decoder: Decoder = case.bound()(self.layout, self.num_channels, size or self.size)
        return decoder

    def latents(self) -> Tensor:
        """Return a batch of z."""
        return torch.randn(self.batch_size, self.layout.z_dim, generator=seeded())

    def check_shapes(self, module: nn.Module, size: Size) -> None:
        """Check that the output has the size that the decoder declares."""
        output = module(self.latents())
        assert output.shape[:2] == (self.batch_size, self.num_channels)
        assert tuple(output.shape[2:]) == module.output_size
        assert output.dtype == torch.float32
        assert torch.isfinite(output).all()

    @torch.no_grad()
    def test_declares_what_it_draws(self, case: Case) -> None:
        decoder = self.build(case)
        assert isinstance(decoder, Decoder)
        assert isinstance(decoder.output_size, tuple)
        if any(isinstance(module, Decoder) and module.draws_from_coordinates for module in decoder.modules()):
            drawn = decoder.eval()(torch.zeros(1, self.layout.z_dim))
            assert (drawn.flatten(2).std(dim=2) > 0.0).all(), "the image at z = 0 must not be uniform"

    def test_every_parameter_gets_a_gradient(self, case: Case) -> None:
        decoder = self.build(case)
        reconstruction, offered = decoder.draw(self.latents())
        assert set(offered) == set(decoder.offers)
        random_sum(reconstruction, *offered.values()).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(decoder)

    def test_every_latent_matters(self, case: Case) -> None:
        latents = self.latents().requires_grad_()
        random_sum(self.build(case)(latents)).backward()  # type: ignore[no-untyped-call]
        assert latents.grad is not None
        assert (latents.grad != 0.0).all()

    @torch.no_grad()
    def test_rows_do_not_depend_on_each_other(self, case: Case) -> None:
        decoder = self.build(case).eval()
        others = self.latents()
        others[1:] = others[1:].flip(0) - 2.0
        alone, changed = decoder(self.latents()), decoder(others)
        torch.testing.assert_close(changed[0], alone[0], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(changed[1:], alone[1:], rtol=1e-3)

    @torch.no_grad()
    def test_memory_format_does_not_matter(self, case: Case) -> None:
        decoder = self.build(case).eval()
        expected = decoder(self.latents())
        set_memory_format(decoder, torch.channels_last_3d)
        torch.testing.assert_close(decoder(self.latents()), expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)], ids=str)
    def test_half_precision_is_finite_and_near_float32(self, case: Case, dtype: torch.dtype, tolerance: float) -> None:
        decoder = self.build(case)
        with torch.no_grad():
            expected = decoder(self.latents())
        with torch.autocast("cpu", dtype):
            found = decoder(self.latents())
        assert relative_distance(found, expected) < tolerance
        random_sum(found).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(decoder)


class RowDecoderConformance(RowConformance, DecoderConformance):
    """Z [B, Z] -> rows [B, F]."""
