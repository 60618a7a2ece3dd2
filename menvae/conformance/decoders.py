"""What is asked of a decoder."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from menvae.conformance.suite import (
    Case,
    PartConformance,
    parameters_without_gradient,
    random_sum,
    refusal,
    relative_distance,
    seeded,
)

Size = tuple[int, int, int]


class DecoderConformance(PartConformance):
    """Z [B, Z] -> reconstruction [B, C, *output_size].

    Attributes:
        size: the box of most tests; 16 times coarser it is 2 deep, which is where bfloat16 breaks on CPU.
        other_sizes: boxes that are not cubes.
        refused_sizes: boxes that a decoder must either take, or refuse in words when it is built.
    """

    group = "decoder"
    size: ClassVar[Size] = (32, 16, 16)
    other_sizes: ClassVar[tuple[Size, ...]] = ((16, 32, 16), (16, 16, 48))
    refused_sizes: ClassVar[tuple[Size, ...]] = ((24, 16, 16), (16, 8, 16), (16, 16, 17))
    out_channels: ClassVar[int] = 2
    z_dim: ClassVar[int] = 5
    batch_size: ClassVar[int] = 3

    def build(self, case: Case, size: Size | None = None) -> nn.Module:
        """Return a seeded decoder."""
        torch.manual_seed(0)
        decoder: nn.Module = case.bound()(self.z_dim, self.out_channels, size or self.size)
        return decoder

    def latents(self) -> Tensor:
        """Return a batch of z."""
        return torch.randn(self.batch_size, self.z_dim, generator=seeded())

    def test_draws_the_size_it_declares(self, case: Case) -> None:
        for size in (self.size, *self.other_sizes):
            decoder = self.build(case, size)
            output = decoder(self.latents())
            assert output.shape[:2] == (self.batch_size, self.out_channels)
            assert tuple(output.shape[2:]) == decoder.output_size
            assert output.dtype == torch.float32
            assert torch.isfinite(output).all()

    def test_every_parameter_gets_a_gradient(self, case: Case) -> None:
        decoder = self.build(case)
        random_sum(decoder(self.latents())).backward()  # type: ignore[no-untyped-call]
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
        decoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        torch.testing.assert_close(decoder(self.latents()), expected, rtol=1e-3, atol=1e-4)

    def test_bfloat16_is_finite_and_near_float32(self, case: Case) -> None:
        decoder = self.build(case)
        with torch.no_grad():
            expected = decoder(self.latents())
        with torch.autocast("cpu", torch.bfloat16):
            found = decoder(self.latents())
        assert relative_distance(found, expected) < 0.1
        random_sum(found).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(decoder)

    def test_box_it_cannot_draw_is_refused_in_words(self, case: Case) -> None:
        for size in self.refused_sizes:
            words = refusal(partial(self.build, case, size))
            if words:
                assert "data.roi_size" in words
                assert any(str(side) in words for side in size)
            else:
                decoder = self.build(case, size)
                assert tuple(decoder(self.latents()).shape[2:]) == decoder.output_size
