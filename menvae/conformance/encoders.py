"""What is asked of an encoder."""

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


class EncoderConformance(VolumeConformance):
    """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z]."""

    group = "encoder"

    def build(self, case: Case, size: Size | None = None) -> nn.Module:
        """Return a seeded encoder."""
        torch.manual_seed(0)
        encoder: nn.Module = case.bound()(self.num_channels, size or self.size, self.z_dim)
        return encoder

    def inputs(self, size: Size | None = None) -> Tensor:
        """Return a batch of noise."""
        return torch.randn(self.batch_size, self.num_channels, *(size or self.size), generator=seeded())

    def check_shapes(self, module: nn.Module, size: Size) -> None:
        """Mean and log variance of each row."""
        for output in module(self.inputs(size)):
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
        alone, changed = encoder(inputs), encoder(others)
        for ours, reference in zip(changed, alone, strict=True):
            torch.testing.assert_close(ours[0], reference[0], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(changed[0][1:], alone[0][1:], rtol=1e-3)  # a log variance may start as a constant

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

    def test_number_of_channels_is_free(self, case: Case) -> None:
        inputs = torch.randn(1, 1, *self.size, generator=seeded())
        mean, _ = case.bound()(1, self.size, self.z_dim)(inputs)
        assert mean.shape == (1, self.z_dim)
        with pytest.raises((RuntimeError, ValueError)):
            self.build(case)(inputs)


class RowEncoderConformance(RowConformance, EncoderConformance):
    """Rows [B, F] -> mean [B, Z], logvar [B, Z]."""

    def test_memory_format_does_not_matter(self, case: Case) -> None:
        """Rows have one only; the weights must bear being asked."""
        self.build(case).to(memory_format=torch.channels_last_3d)(self.inputs())  # type: ignore[call-overload]

    def test_number_of_channels_is_free(self, case: Case) -> None:
        inputs = torch.randn(self.batch_size, 1, generator=seeded())
        mean, _ = case.bound()(1, self.size, self.z_dim)(inputs)
        assert mean.shape == (self.batch_size, self.z_dim)
        with pytest.raises((RuntimeError, ValueError)):
            self.build(case)(inputs)
