"""Conformance suites of encoders."""

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
    refusal,
    relative_distance,
    seeded,
)
from menvae.encoders import Encoder, detached
from menvae.layers import set_memory_format


class EncoderConformance(VolumeConformance):
    """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z]."""

    group = "encoder"

    def build(self, case: Case, size: Size | None = None) -> Encoder:
        """Return a seeded encoder."""
        torch.manual_seed(0)
        encoder: Encoder = case.bound()(self.num_channels, size or self.size, self.layout)
        return encoder

    def inputs(self, size: Size | None = None) -> Tensor:
        """Return a batch of noise."""
        return torch.randn(self.batch_size, self.num_channels, *(size or self.size), generator=seeded())

    def outputs(self, encoder: Encoder, inputs: Tensor, available: Tensor | None = None) -> list[Tensor]:
        """Return mean, log variance and what the encoder offers beside them."""
        features = encoder.features(inputs, available)
        return [*encoder.posterior(features), *(features[name] for name in sorted(encoder.offers))]

    def check_shapes(self, module: nn.Module, size: Size) -> None:
        """Check mean and log variance of each row."""
        for output in module(self.inputs(size)):
            assert output.shape == (self.batch_size, self.layout.z_dim)
            assert output.dtype == torch.float32
            assert torch.isfinite(output).all()

    def test_every_parameter_gets_a_gradient(self, case: Case) -> None:
        encoder = self.build(case)
        random_sum(*self.outputs(encoder, self.inputs())).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(encoder)

    def test_is_an_encoder(self, case: Case) -> None:
        assert isinstance(self.build(case), Encoder)

    @torch.no_grad()
    def test_a_step_updates_buffers_from_features_of_its_rows(self, case: Case) -> None:
        encoder = self.build(case)
        features = encoder.features(self.inputs())
        read = {name: features[name] for name in encoder.commits}
        assert all(len(values) == self.batch_size for values in read.values())  # of micro-batches, they are joined
        encoder.commit(read)
        assert all(torch.isfinite(values).all() for values in self.outputs(encoder, self.inputs()))

    @torch.no_grad()
    def test_isolation_changes_no_value(self, case: Case) -> None:
        encoder = self.build(case).eval()
        features = encoder.features(self.inputs())
        for isolated in (False, True):
            found = encoder.posterior(features, isolated=isolated)
            for ours, reference in zip(found, encoder(self.inputs()), strict=True):
                torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)

    def test_isolated_partitions_share_nothing_but_features(self, case: Case) -> None:
        encoder = self.build(case)
        features = detached(encoder.features(self.inputs()))
        leaves = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        moved = torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.int)
        for name in self.layout:
            mean = self.layout.select(encoder.posterior(features, isolated=True)[0], name)
            gradients = torch.autograd.grad(random_sum(mean), leaves, allow_unused=True)
            moved += torch.cat(
                [
                    (torch.zeros_like(x) if g is None else g).flatten() != 0.0
                    for x, g in zip(leaves, gradients, strict=True)
                ]
            )
        assert moved.any()
        assert (moved <= 1).all()

    def test_what_is_missing_does_not_matter(self, case: Case) -> None:
        encoder, inputs = self.build(case).eval(), self.inputs()
        available = torch.ones(inputs.shape[:2], dtype=torch.bool)
        available[0, 0] = available[1, -1] = False
        garbage = inputs.masked_fill(~available.reshape(*available.shape, *(1,) * len(self.size)), torch.nan)
        expected, found = self.outputs(encoder, inputs, available), self.outputs(encoder, garbage, available)
        for ours, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(expected[0][:2], encoder(inputs)[0][:2], rtol=1e-3)
        random_sum(*found).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(encoder)

    @torch.no_grad()
    def test_nothing_missing_is_no_mask(self, case: Case) -> None:
        encoder, inputs = self.build(case).eval(), self.inputs()
        everything = encoder(inputs, torch.ones(inputs.shape[:2], dtype=torch.bool))
        for ours, reference in zip(everything, encoder(inputs), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)

    def test_checkpoint_round_trip(self, case: Case) -> None:
        encoder, restored = self.build(case).eval(), self.build(case).eval()
        for parameter in restored.parameters():
            nn.init.normal_(parameter)
        restored.load_state_dict(encoder.state_dict())
        for ours, reference in zip(restored(self.inputs()), encoder(self.inputs()), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)

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
        set_memory_format(encoder, torch.channels_last_3d)
        found = encoder(self.inputs().contiguous(memory_format=torch.channels_last_3d))
        for ours, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)], ids=str)
    def test_half_precision_is_finite_and_near_float32(self, case: Case, dtype: torch.dtype, tolerance: float) -> None:
        encoder = self.build(case)
        with torch.no_grad():
            expected = self.outputs(encoder, self.inputs())
        with torch.autocast("cpu", dtype):
            found = self.outputs(encoder, self.inputs())
        for ours, reference in zip(found, expected, strict=True):
            assert relative_distance(ours, reference) < tolerance
        random_sum(*found).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(encoder)

    def test_number_of_channels_is_free_or_refused_in_words(self, case: Case) -> None:
        inputs = torch.randn(1, 1, *self.size, generator=seeded())
        words = refusal(lambda: case.bound()(1, self.size, self.layout))
        assert not words or "data.modalities" in words
        if not words:
            mean, _ = case.bound()(1, self.size, self.layout)(inputs)
            assert mean.shape == (1, self.layout.z_dim)
        with pytest.raises((RuntimeError, ValueError)):
            self.build(case)(inputs)


class RowEncoderConformance(RowConformance, EncoderConformance):
    """Rows [B, F] -> mean [B, Z], logvar [B, Z]."""

    def test_memory_format_does_not_matter(self, case: Case) -> None:
        """Rows have only one memory format; setting it on the weights must be harmless."""
        encoder = self.build(case)
        set_memory_format(encoder, torch.channels_last_3d)
        encoder(self.inputs())

    def test_number_of_channels_is_free_or_refused_in_words(self, case: Case) -> None:
        """Any number must work; a full batch is used because batch normalisation fails on a single row."""
        inputs = torch.randn(self.batch_size, 1, generator=seeded())
        mean, _ = case.bound()(1, self.size, self.layout)(inputs)
        assert mean.shape == (self.batch_size, self.layout.z_dim)
        with pytest.raises((RuntimeError, ValueError)):
            self.build(case)(inputs)
