"""What is asked of an encoder."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
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


class EncoderConformance(PartConformance):
    """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z].

    Attributes:
        size: the box of most tests; 16 times coarser it is 2 deep, which is where bfloat16 breaks on CPU.
        other_sizes: boxes that are not cubes.
        refused_sizes: boxes that an encoder must either take, or refuse in words when it is built.
    """

    group = "encoder"
    size: ClassVar[Size] = (32, 16, 16)
    other_sizes: ClassVar[tuple[Size, ...]] = ((16, 32, 16), (16, 16, 48))
    refused_sizes: ClassVar[tuple[Size, ...]] = ((24, 16, 16), (16, 8, 16), (16, 16, 17))
    in_channels: ClassVar[int] = 2
    z_dim: ClassVar[int] = 6
    batch_size: ClassVar[int] = 3

    def build(self, case: Case, size: Size | None = None) -> nn.Module:
        """Return a seeded encoder."""
        torch.manual_seed(0)
        encoder: nn.Module = case.bound()(self.in_channels, size or self.size, self.z_dim)
        return encoder

    def inputs(self, size: Size | None = None) -> Tensor:
        """Return a batch of noise."""
        return torch.randn(self.batch_size, self.in_channels, *(size or self.size), generator=seeded())

    def test_gives_finite_float32_of_the_right_shape(self, case: Case) -> None:
        for size in (self.size, *self.other_sizes):
            for output in self.build(case, size)(self.inputs(size)):
                assert output.shape == (self.batch_size, self.z_dim)
                assert output.dtype == torch.float32
                assert torch.isfinite(output).all()

    def test_every_parameter_gets_a_gradient(self, case: Case) -> None:
        encoder = self.build(case)
        random_sum(*encoder(self.inputs())).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(encoder)

    @torch.no_grad()
    def test_rows_do_not_depend_on_each_other(self, case: Case) -> None:
        encoder = self.build(case).eval()
        inputs = self.inputs()
        others = inputs.clone()
        others[1:] = 7.0 * inputs[1:].flip(0) + 3.0
        for alone, changed in zip(encoder(inputs), encoder(others), strict=True):
            torch.testing.assert_close(changed[0], alone[0], rtol=1e-5, atol=1e-6)
            assert not torch.allclose(changed[1:], alone[1:], rtol=1e-3)

    @torch.no_grad()
    def test_memory_format_does_not_matter(self, case: Case) -> None:
        encoder = self.build(case).eval()
        expected = encoder(self.inputs())
        encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        found = encoder(self.inputs().contiguous(memory_format=torch.channels_last_3d))
        for ours, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)

    def test_bfloat16_is_finite_and_near_float32(self, case: Case) -> None:
        encoder = self.build(case)
        with torch.no_grad():
            expected = encoder(self.inputs())
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(self.inputs())
        for ours, reference in zip(found, expected, strict=True):
            assert relative_distance(ours, reference) < 0.1
        random_sum(*found).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(encoder)

    def test_box_it_cannot_take_is_refused_in_words(self, case: Case) -> None:
        for size in self.refused_sizes:
            words = refusal(partial(self.build, case, size))
            if words:
                assert "data.roi_size" in words
                assert any(str(side) in words for side in size)
            else:
                encoder = self.build(case, size)
                assert encoder(self.inputs(size))[0].shape == (self.batch_size, self.z_dim)

    def test_number_of_channels_is_free(self, case: Case) -> None:
        inputs = torch.randn(1, 1, *self.size, generator=seeded())
        mean, _ = case.bound()(1, self.size, self.z_dim)(inputs)
        assert mean.shape == (1, self.z_dim)
        with pytest.raises((RuntimeError, ValueError)):
            self.build(case)(inputs)
