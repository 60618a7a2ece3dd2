"""Conformance suite of terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from menvae.conformance.suite import Case, PartConformance, seeded
from menvae.latent import LatentLayout
from menvae.registry import configuration_folder
from menvae.terms import UNITS, Term, TermContext
from menvae.types import NUM_LABELS, Batch, ModelOutput, Posterior

FIELDS = frozenset(field.name for field in fields(Batch))
NO_GRADIENT = 1e-5
"""Gradient entries up to this size count as 0."""


@dataclass(frozen=True)
class Example:
    """A batch and a random model output whose tensors are leaves."""

    batch: Batch
    output: ModelOutput

    @classmethod
    def make(cls, layout: LatentLayout, seed: int = 0, num_rows: int = 6) -> Example:
        """Draw an example: inputs [B, 2, 4, 4, 4], 3 targets per partition, some of them not observed."""
        generator = seeded(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(num_rows, *shape, generator=generator)

        batch = Batch(
            inputs=noise(2, 4, 4, 4),
            subject_id=tuple(f"subject-{row}" for row in range(num_rows)),
            targets={name: noise(3) for name in layout},
            observed={name: noise(3) > -1.0 for name in layout},
            mask=torch.randint(0, 4, (num_rows, 1, 4, 4, 4), generator=generator, dtype=torch.uint8),
            labels=torch.arange(num_rows) % 2,
            time=torch.arange(float(num_rows)),
            patient_id=tuple(f"patient-{row // 2}" for row in range(num_rows)),
        )
        output = ModelOutput(
            Posterior(noise(layout.z_dim), 0.5 * noise(layout.z_dim)),
            noise(layout.z_dim),
            noise(2, 4, 4, 4),
            {name: noise(3) for name in layout},
            {
                "auxiliary_reconstruction": noise(2, 2, 2, 2),
                **{f"cycle.{name}": noise(size) for name, size in layout.sizes.items()},
                "logits": noise(3),
                "hidden": (noise(2, 4, 4, 4) > 0.0).float(),
                **{name: noise(NUM_LABELS, 4, 4, 4) for name in ("segmentation", "drawn_segmentation")},
            },
        )
        return cls(batch, output).mapped(lambda tensor: tensor.requires_grad_())

    def leaves(self) -> dict[str, Tensor]:
        """Return the tensors of the output by the names in `Term.requires`."""
        output = self.output
        return {
            "posterior.mean": output.posterior.mean,
            "posterior.logvar": output.posterior.logvar,
            "latent": output.latent,
            "reconstruction": output.reconstruction,
            **{f"predictions.{name}": tensor for name, tensor in output.predictions.items()},
            **output.extras,
        }

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Example:
        """Return the example with ``change`` applied to every tensor of the output."""
        return self.with_leaves({name: change(tensor) for name, tensor in self.leaves().items()})

    def with_leaves(self, leaves: Mapping[str, Tensor]) -> Example:
        """Return the example with other output tensors."""
        output = ModelOutput(
            Posterior(leaves["posterior.mean"], leaves["posterior.logvar"]),
            leaves["latent"],
            leaves["reconstruction"],
            {name: leaves[f"predictions.{name}"] for name in self.output.predictions},
            {name: leaves[name] for name in self.output.extras},
        )
        return Example(self.batch, output)

    def permuted(self, order: Tensor) -> Example:
        """Return the example with its rows at ``order``."""
        batch = replace(
            self.batch,
            inputs=self.batch.inputs[order],
            subject_id=tuple(self.batch.subject_id[row] for row in order.tolist()),
            patient_id=tuple(self.batch.patient_id[row] for row in order.tolist()),
            targets={name: tensor[order] for name, tensor in self.batch.targets.items()},
            observed={name: tensor[order] for name, tensor in self.batch.observed.items()},
            mask=None if self.batch.mask is None else self.batch.mask[order],
            labels=None if self.batch.labels is None else self.batch.labels[order],
            time=None if self.batch.time is None else self.batch.time[order],
            available=None if self.batch.available is None else self.batch.available[order],
        )
        return Example(batch, self.mapped(lambda tensor: tensor[order]).output)


class TermConformance(PartConformance):
    """(batch, output) -> named scalars; override `example` for a term that requires other extras."""

    group = "term"
    layout: ClassVar[LatentLayout] = LatentLayout({"vol": 3, "loc": 2, "shape": 3, "residual": 4})

    def build(self, case: Case) -> Term:
        """Return the term."""
        term: Term = case.bound()(TermContext(self.layout, num_input_values=128, num_training_subjects=20))
        return term

    def example(self, seed: int = 0) -> Example:
        """Return the example of a seed."""
        return Example.make(self.layout, seed)

    def experienced(self, case: Case) -> Term:
        """Return a term after three batches."""
        term = self.build(case)
        for seed in (1, 2, 3):
            term.commit(self.example(seed).output)
        return term

    def values(self, term: Term, example: Example) -> dict[str, Tensor]:
        """Return the scalars that weights apply to."""
        values = term(example.batch, example.output)
        return {name: values[name] for name in term.scalars}

    def total(self, term: Term, example: Example) -> Tensor:
        """Return the sum of these scalars."""
        return torch.stack(list(self.values(term, example).values())).sum()

    def test_gives_its_scalars_with_gradient_and_diagnostics_without(self, case: Case) -> None:
        term, example = self.build(case), self.example()
        values = term(example.batch, example.output)
        assert set(term.scalars) <= set(values)
        for name, value in values.items():
            assert value.shape == (), name
            assert torch.isfinite(value), name
            assert value.requires_grad == (name in term.scalars), name
        assert all(values[name].dtype == torch.float32 for name in term.scalars)

    def test_gives_float32_for_an_output_in_bfloat16(self, case: Case) -> None:
        term = self.build(case)
        values = self.values(term, self.example().mapped(lambda tensor: tensor.detach().bfloat16()))
        assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in values.values())

    def test_gradient_is_the_derivative(self, case: Case) -> None:
        term, example = self.experienced(case), self.example()
        names = list(example.leaves())

        def total(*tensors: Tensor) -> Tensor:
            return self.total(term, example.with_leaves(dict(zip(names, tensors, strict=True))))

        doubles = [tensor.detach().double().requires_grad_() for tensor in example.leaves().values()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.Tensor, "float", torch.Tensor.double
            )  # terms cast to float32, which is too coarse for gradcheck
            assert torch.autograd.gradcheck(total, doubles, fast_mode=True)

    def test_gradient_goes_where_it_says(self, case: Case) -> None:
        term, example = self.experienced(case), self.example()
        leaves = example.leaves()
        gradients = torch.autograd.grad(self.total(term, example), list(leaves.values()), allow_unused=True)
        reached = {name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}
        moved = {
            name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None and gradient.any()
        }
        assert moved, "the term has no gradient"
        assert term.requires <= moved, "the term requires outputs that it does not use"
        assert reached - {"posterior.mean", "posterior.logvar", "latent"} <= term.requires, (
            "the term uses outputs that it does not require"
        )

    def test_order_of_the_rows_does_not_matter(self, case: Case) -> None:
        term, example = self.experienced(case), self.example()
        permuted = example.permuted(torch.arange(len(example.batch)).flip(0))
        for name, value in self.values(term, permuted).items():
            torch.testing.assert_close(value, self.values(term, example)[name], rtol=1e-4, atol=1e-5)

    def test_has_no_parameters(self, case: Case) -> None:
        assert not list(self.build(case).parameters())

    def test_forward_remembers_nothing(self, case: Case) -> None:
        term, example = self.experienced(case), self.example()
        before = {name: tensor.clone() for name, tensor in term.state_dict().items()}
        for training in (True, False):
            term.train(training)(example.batch, example.output)
        after = term.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_checkpoint_holds_all_its_state(self, case: Case) -> None:
        term, restored, example = self.experienced(case), self.build(case), self.example()
        restored.load_state_dict(term.state_dict())
        for name, value in self.values(restored, example).items():
            assert torch.equal(value, self.values(term, example)[name])
        term.commit(example.output)
        restored.commit(example.output)
        assert all(torch.equal(tensor, restored.state_dict()[name]) for name, tensor in term.state_dict().items())
        assert not any(tensor.requires_grad for tensor in term.state_dict().values())

    def test_constants_are_numbers(self, case: Case) -> None:
        assert all(math.isfinite(value) for value in self.build(case).constants().values())

    def moved(self, term: Term, example: Example) -> set[str]:
        """Return the scalars that depend on the output; check that all values and gradients are finite."""
        leaves, found = list(example.leaves().values()), set()
        for name, value in self.values(term, example).items():
            assert torch.isfinite(value), name
            gradients = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
            largest = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
            assert math.isfinite(largest), name
            found |= {name} if largest > NO_GRADIENT else set()
        return found

    def test_declarations_are_legal(self, case: Case) -> None:
        term = self.build(case)
        assert term.unit in UNITS
        assert term.batch_requires <= FIELDS
        assert term.min_rows >= 1
        assert term.memory_size >= 0
        assert set(term.advised_weights) <= set(term.scalars)
        assert all(0.0 <= low <= high for low, high in term.advised_weights.values())

    def test_min_rows_is_the_smallest_batch_in_which_every_scalar_depends_on_the_output(self, case: Case) -> None:
        term, example = self.build(case), self.example()
        assert term.min_rows <= len(example.batch), "override `example` with more rows"
        for num_rows in {max(1, term.min_rows - 1), term.min_rows}:
            moved = self.moved(term, example.permuted(torch.arange(num_rows)))
            assert (moved == set(term.scalars)) == (num_rows >= term.min_rows), (num_rows, moved)

    def test_remembered_rows_count(self, case: Case) -> None:
        term, example = self.build(case), self.example()
        for seed in range(max(1, term.min_rows - 1)):
            term.commit(self.example(seed + 1).permuted(torch.arange(1)).output)
        moved = self.moved(term, example.permuted(torch.arange(1)))
        assert (moved == set(term.scalars)) == (max(1, term.memory_size) >= term.min_rows), moved

    def test_compares_visits_if_it_says_so(self, case: Case) -> None:
        term, example = self.experienced(case), self.example()
        strangers = Example(replace(example.batch, patient_id=example.batch.subject_id), example.output)
        expected, found = self.values(term, example), self.values(term, strangers)
        assert any(not torch.equal(found[name], expected[name]) for name in expected) == term.compares_visits
        assert "patient_id" in term.batch_requires or not term.compares_visits

    def test_remedies_meet_the_needs(self, case: Case) -> None:
        term = self.build(case)
        for need, override in term.remedies.items():
            assert need in {*FIELDS, *term.requires, *UNITS, "rows", "visits"}, need
            if not override.startswith("."):
                with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
                    compose("train", [override])  # rejects a key that does not exist
                continue
            changed = {str(key): value for key, value in OmegaConf.from_dotlist([override.removeprefix(".")]).items()}
            remedied = self.build(replace(case, settings={**case.settings, **changed}))
            assert need not in remedied.requires | remedied.batch_requires
            assert need not in UNITS or remedied.unit == need
            assert need != "rows" or max(1, remedied.memory_size) >= remedied.min_rows
