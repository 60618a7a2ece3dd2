"""Conformance suites of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from menvae.conformance.suite import Case, PartConformance, parameters_without_gradient, random_sum, seeded
from menvae.latent import LatentLayout
from menvae.models import Blueprint, Model
from menvae.registry import bind
from menvae.types import Batch


class ModelConformance(PartConformance):
    """Batch -> ModelOutput.

    Attributes:
        size: (D, H, W) of the box.
        parts_given: parts in the blueprint, {configuration key: (group, configuration)}.
        num_classes: number of classes; 0 without labels.
    """

    group = "model"
    size: ClassVar[tuple[int, ...]] = (16, 16, 16)
    parts_given: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
        "encoder": ("encoder", {"name": "resnet", "base_filters": 8}),
        "decoder": ("decoder", {"name": "sbd", "base_filters": 16}),
        "auxiliary_decoder": ("decoder", {"name": "auxiliary", "base_filters": 16}),
    }
    in_channels: ClassVar[int] = 2
    batch_size: ClassVar[int] = 4
    num_classes: ClassVar[int] = 0

    def supervision(self, case: Case) -> Mapping[str, Sequence[str]]:
        """Return {partition: names of its targets} of a case."""
        supervision: Mapping[str, Sequence[str]] = case.bound().settings.get("supervision", {})
        return supervision

    def provided(self, case: Case) -> frozenset[str]:
        """Return the names of all outputs that the model can provide."""
        provided: frozenset[str] = case.part.factory.provides(self.supervision(case))  # type: ignore[attr-defined]
        return provided

    def build(self, case: Case, needs: frozenset[str] | None = None) -> Model:
        """Return a seeded model that provides ``needs`` (None: all its outputs)."""
        torch.manual_seed(0)
        parts = {key: bind(group, config) for key, (group, config) in self.parts_given.items()}
        model: Model = case.bound()(
            Blueprint(
                self.in_channels, self.size, parts, self.provided(case) if needs is None else needs, self.num_classes
            )
        )
        return model

    def batch(self, case: Case) -> Batch:
        """Return a batch of noise with every target observed."""
        generator = seeded()
        sizes = {name: len(features) for name, features in self.supervision(case).items()}
        return Batch(
            inputs=torch.randn(self.batch_size, self.in_channels, *self.size, generator=generator),
            subject_id=tuple(f"subject-{row}" for row in range(self.batch_size)),
            targets={name: torch.randn(self.batch_size, size, generator=generator) for name, size in sizes.items()},
            observed={name: torch.ones(self.batch_size, size, dtype=torch.bool) for name, size in sizes.items()},
        )

    def test_keys_that_experiments_read(self, case: Case) -> None:
        assert {"z_dim", "partitions"} <= set(case.part.tunables)

    def test_output_keeps_its_contract(self, case: Case) -> None:
        model, batch, settings = self.build(case), self.batch(case), case.bound().settings
        output = model(batch)
        layout = LatentLayout.from_config(settings["z_dim"], settings["partitions"])
        assert dict(model.layout.sizes) == dict(layout.sizes)
        for tensor in (output.posterior.mean, output.posterior.logvar, output.latent):
            assert tensor.shape == (self.batch_size, layout.z_dim)
        assert output.reconstruction.shape == batch.inputs.shape
        for name, features in model.supervision.items():
            assert output.predictions[name].shape == (self.batch_size, len(features))
        everything = [*output.predictions.values(), *output.extras.values(), output.reconstruction, output.latent]
        assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in everything)

    def test_gives_what_it_says_it_provides(self, case: Case) -> None:
        output = self.build(case)(self.batch(case))
        given = {"reconstruction", *output.extras, *(f"predictions.{name}" for name in output.predictions)}
        assert given == self.provided(case)

    def test_leaves_out_what_nobody_needs(self, case: Case) -> None:
        whole, bare = self.build(case), self.build(case, frozenset())
        output = bare(self.batch(case))
        assert not output.predictions
        assert not output.extras
        assert _num_parameters(bare) <= _num_parameters(whole)

    @torch.no_grad()
    def test_evaluation_is_deterministic_and_decodes_the_mean(self, case: Case) -> None:
        model, batch = self.build(case).eval(), self.batch(case)
        output, again = model(batch), model(batch)
        torch.testing.assert_close(output.latent, output.posterior.mean, rtol=0.0, atol=0.0)
        torch.testing.assert_close(output.reconstruction, again.reconstruction, rtol=0.0, atol=0.0)
        torch.testing.assert_close(model.encode(batch.inputs).mean, output.posterior.mean)
        torch.testing.assert_close(model.decode(output.latent), output.reconstruction)

    @torch.no_grad()
    def test_what_is_missing_does_not_matter(self, case: Case) -> None:
        model, batch = self.build(case).eval(), self.batch(case)
        available = torch.ones(batch.inputs.shape[:2], dtype=torch.bool)
        available[0, -1] = False
        garbage = batch.inputs.masked_fill(~available.reshape(*available.shape, *(1,) * len(self.size)), torch.nan)
        ours = model(replace(batch, inputs=garbage, available=available))
        reference = model(replace(batch, available=available))
        torch.testing.assert_close(ours.posterior.mean, reference.posterior.mean)
        torch.testing.assert_close(ours.posterior.mean, model.encode(garbage, available).mean)
        assert not torch.allclose(ours.posterior.mean[0], model(batch).posterior.mean[0])

    @torch.no_grad()
    def test_training_decodes_a_sample(self, case: Case) -> None:
        model, batch = self.build(case).train(), self.batch(case)
        assert not torch.equal(model(batch).latent, model(batch).latent)

    def test_every_parameter_gets_a_gradient(self, case: Case) -> None:
        model = self.build(case)
        output = model(self.batch(case))
        random_sum(*self._everything(output.reconstruction, output.predictions, output.extras)).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(model)

    def test_posterior_depends_on_the_encoder_and_on_nothing_else(self, case: Case) -> None:
        model = self.build(case)
        posterior = model.encode(self.batch(case).inputs)
        random_sum(posterior.mean, posterior.logvar).backward()  # type: ignore[no-untyped-call]
        reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
        assert reached == {id(parameter) for parameter in model.encoder_parameters()}
        assert len(reached) < len(list(model.parameters()))

    def test_heads_reach_only_their_own_slice(self, case: Case) -> None:
        model = self.build(case)
        output = model(self.batch(case))
        for name, prediction in output.predictions.items():
            (gradient,) = torch.autograd.grad(
                random_sum(prediction), output.posterior.mean, retain_graph=True, allow_unused=True
            )
            if gradient is None:  # it reads another mean, computed from detached features
                continue
            start, stop = model.layout.bounds(name)
            assert gradient[:, start:stop].any()
            gradient[:, start:stop] = 0.0
            assert not gradient.any(), f"the head of {name} depends on other partitions"

    def test_bfloat16_is_finite_and_handed_over_in_float32(self, case: Case) -> None:
        model = self.build(case)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(self.batch(case))
        everything = self._everything(output.reconstruction, output.predictions, output.extras)
        everything += [output.posterior.mean, output.posterior.logvar]
        assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in everything)
        random_sum(*everything).backward()  # type: ignore[no-untyped-call]
        assert not parameters_without_gradient(model)

    @staticmethod
    def _everything(
        reconstruction: Tensor, predictions: Mapping[str, Tensor], extras: Mapping[str, Tensor]
    ) -> list[Tensor]:
        return [reconstruction, *predictions.values(), *extras.values()]


class RowModelConformance(ModelConformance):
    """Suite of models of the rows of a table."""

    size: ClassVar[tuple[int, ...]] = ()
    parts_given: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
        "encoder": ("encoder", {"name": "mlp"}),
        "decoder": ("decoder", {"name": "mlp"}),
        "auxiliary_decoder": ("decoder", {"name": "mlp"}),
    }
    in_channels: ClassVar[int] = 6
    batch_size: ClassVar[int] = 32
    num_classes: ClassVar[int] = 3


def _num_parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
