"""Conformance suite of metrics."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.conformance.suite import Case, PartConformance, seeded
from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.metrics import ERRORS, NEEDS, OF_BATCHES, Metric, MetricContext, SplitRecord, measure
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Posterior

Values = Mapping[str, float | None]

_LAYOUT = LatentLayout({"vol": 3, "loc": 2, "residual": 3})
_SUPERVISION = {"vol": ["vol_total", "vol_ed"], "loc": ["loc_x"]}
VOLUMES = MetricContext(_LAYOUT, ("t1c", "t1n"), (8, 9, 10), _SUPERVISION, labelled=True, factors=_SUPERVISION)
ROWS = MetricContext(_LAYOUT, ("density", "gamma", "depth"), (), _SUPERVISION, labelled=True)
NUM_CLASSES = 3


@dataclass(frozen=True)
class SplitExample:
    """A split, the outputs of a model, and the reconstruction errors from foreign latents.

    Attributes:
        context: context of the split.
        batch: all N subjects.
        output: output of the model.
        errors: ``errors.<z>``, ``final_errors.<what>`` or ``tumour_errors.<what>`` -> [N]; ``read``, ``asked`` and
            ``moved.<partition>``, what a reader sees in interventions [N, F]; and ``factors.<group>`` [N, F], which are
            the targets.
    """

    context: MetricContext
    batch: Batch
    output: ModelOutput
    errors: Mapping[str, Tensor]

    @classmethod
    def make(cls, context: MetricContext, quality: float, num_subjects: int = 24, seed: int = 0) -> SplitExample:
        """Return an example on which every metric improves with ``quality``, from 0 to 1.

        At 0, reconstructions, predictions and classes are noise, and latents hardly vary, are fully dependent and do
        not affect the decoder. At 1, outputs are nearly correct, latents are independent, and the first ones of each
        partition are its targets.
        """
        generator = seeded(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(num_subjects, *shape, generator=generator)

        def mixed(right: Tensor) -> Tensor:
            return (0.02 + 0.98 * quality) * right + (1.0 - 0.9 * quality) * noise(*right.shape[1:])

        z_dim = context.layout.z_dim
        inputs = noise(len(context.channels), *context.size)
        targets = {name: noise(len(features)) for name, features in context.supervision.items()}
        labels = torch.arange(num_subjects) % NUM_CLASSES
        latents = noise(z_dim)
        for name, true in targets.items():
            start, _ = context.layout.bounds(name)
            latents[:, start : start + true.shape[1]] = true
        mean = quality * latents + (1.0 - quality) * 0.01 * noise(1).expand(-1, z_dim)
        posterior = Posterior(mean, 0.3 * noise(z_dim) - 2.0)
        predictions = {name: mixed(true) for name, true in targets.items()}
        logits = mixed(3.0 * torch.eye(NUM_CLASSES)[labels])
        batch = Batch(
            inputs,
            tuple(f"s{row:03d}" for row in range(num_subjects)),
            targets=targets,
            observed={name: torch.ones_like(true, dtype=torch.bool) for name, true in targets.items()},
            labels=labels,
        )
        own = 1.05 - quality + 0.1 * noise().abs()
        without = [f"without_{name}" for name in context.layout]
        names = [f"errors.{name}" for name in ERRORS]
        names += [f"final_errors.{name}" for name in ("mean_image", *without)]
        names += [f"tumour_errors.{name}" for name in without]
        others = {name: own * (1.0 + quality * (2.0 + noise().abs())) for name in names}
        errors = {
            **others,
            **{f"factors.{name}": targets[name] for name in context.factors},
            "errors.mu": own,
            "errors.sampled": own * (1.3 - 0.2 * quality),
            "tumour_errors.mu": torch.where(torch.arange(num_subjects) % 5 == 4, torch.nan, own),
        }
        output = ModelOutput(posterior, mean, mixed(inputs), predictions, {"logits": logits})
        truth = torch.cat(list(targets.values()), dim=1)
        asked = truth.roll(1, dims=0) - truth
        read = {
            "read": mixed(truth),
            "asked": torch.where(torch.rand(asked.shape, generator=generator) < 0.2, torch.nan, asked),
        }
        start = 0
        for name in context.layout:
            stop = start + len(context.supervision.get(name, ()))
            read[f"moved.{name}"] = (1.0 - 0.9 * quality) * 0.3 * noise(asked.shape[1])
            read[f"moved.{name}"][:, start:stop] += quality * asked[:, start:stop]
            start = stop
        return cls(context, batch, output, errors | read)

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, order: Tensor) -> SplitExample:
        """Return the subjects at ``order``."""
        names = tuple(self.batch.subject_id[row] for row in order.tolist())
        changed = self.mapped(lambda tensor: tensor[order])
        errors = {name: values[order] for name, values in self.errors.items()}
        return replace(changed, batch=replace(changed.batch, subject_id=names), errors=errors)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> SplitExample:
        """Return the example with ``change`` applied to every tensor of batch and output."""
        batch, output = self.batch, self.output
        return replace(
            self,
            batch=replace(
                batch,
                inputs=change(batch.inputs),
                targets={name: change(values) for name, values in batch.targets.items()},
                observed={name: change(values) for name, values in batch.observed.items()},
                labels=None if batch.labels is None else change(batch.labels),
                available=None if batch.available is None else change(batch.available),
            ),
            output=ModelOutput(
                Posterior(change(output.posterior.mean), change(output.posterior.logvar)),
                change(output.latent),
                change(output.reconstruction),
                {name: change(values) for name, values in output.predictions.items()},
                {name: change(values) for name, values in output.extras.items()},
            ),
        )

    def in_precision(self, dtype: torch.dtype) -> SplitExample:
        """Return the example with floating-point tensors in another precision."""
        return self.mapped(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def with_missing(self, garbage: float | None = None) -> SplitExample:
        """Return the example with some targets, channels and labels missing, their values replaced by ``garbage``.

        None keeps the values. Every subject keeps at least one channel.
        """
        generator, batch, output = seeded(5), self.batch, self.output
        available = torch.rand(batch.inputs.shape[:2], generator=generator) < 0.6
        available[:, 0] |= ~available.any(dim=1)
        observed = {name: torch.rand(true.shape, generator=generator) < 0.6 for name, true in batch.targets.items()}
        labelled = torch.rand(len(batch), generator=generator) < 0.6
        assert batch.labels is not None
        inputs, targets = batch.inputs, batch.targets
        if garbage is not None:
            inputs = inputs.masked_fill(~available.reshape(*available.shape, *[1] * len(self.context.size)), garbage)
            targets = {name: true.masked_fill(~observed[name], garbage) for name, true in targets.items()}
            logits = torch.where(labelled[:, None], output.extras["logits"], -output.extras["logits"])
            output = replace(output, extras={"logits": logits})
        labels = torch.where(labelled, batch.labels, -1)
        batch = replace(batch, inputs=inputs, targets=targets, observed=observed, labels=labels, available=available)
        return replace(self, batch=batch, output=output)


class _Blank(Model):
    """A model that decodes zeros; an example provides the errors instead."""

    def __init__(self, context: MetricContext) -> None:
        super().__init__()
        self.layout, self.supervision, self.shape = context.layout, context.supervision, context.size
        self.num_channels = len(context.channels)

    def decode(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), self.num_channels, *self.shape)


@torch.no_grad()
def recorded(metric: Metric, example: SplitExample, batch_size: int = 0, num_ranks: int = 1) -> SplitRecord:
    """Return the record of an example, as in a run.

    Args:
        metric: metric that observes the batches.
        example: the split.
        batch_size: size of all batches but the last; 0: the whole split.
        num_ranks: number of ranks that share the subjects; some subjects repeat, so that all ranks have equally many.
    """
    pieces = []
    for rank in range(num_ranks):
        rows = torch.arange(rank, len(example) + rank, num_ranks) % len(example)
        recorder = SplitRecorder(_Blank(example.context), [metric])
        recorder.on_validation_start(1)
        for part in torch.split(rows, batch_size or len(rows)):
            some = example.rows(part)
            recorder.on_validation_batch(some.batch, some.output)
        piece = recorder.record()
        place = {subject: row for row, subject in enumerate(example.batch.subject_id)}
        order = [place[subject] for subject in piece.subject_id]
        errors = {name: values.double().numpy()[order] for name, values in example.errors.items()}
        pieces.append(replace(piece, arrays={**piece.arrays, **errors}))
    return SplitRecord.joined(pieces)


def check_same(found: Values, expected: Values, tolerance: float = 1e-5) -> None:
    """Fail unless two results have the same keys and values."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if value is None:
            assert found[key] is None, key
        else:
            assert found[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key


class MetricConformance(PartConformance):
    """Batches, then the record of the whole split -> {key: value}.

    Attributes:
        references: {part: function of (example, metric)} that returns {key: value} of another implementation, for every
            key with a value. Required for built-in metrics and those in ``names``.
        contexts: contexts of the examples; a metric is tested in those in which it has a key.
    """

    group = "metric"
    references: ClassVar[Mapping[str, Callable[[SplitExample, Metric], Mapping[str, float]]]] = {}
    contexts: ClassVar[Sequence[MetricContext]] = (VOLUMES, ROWS)

    def built(self, case: Case) -> list[Metric]:
        """Return the metric built in every context that it applies to."""
        metrics = [case.bound()(context) for context in self.contexts]
        found = [metric for metric in metrics if metric.names()]
        assert found, "the metric has no key in any of `contexts`"
        return found

    def examples(self, metric: Metric) -> list[SplitExample]:
        """Return good and bad examples, with and without missing values."""
        whole = [
            SplitExample.make(metric.context, quality, seed=number) for number, quality in enumerate((0.0, 0.5, 1.0))
        ]
        return [*whole, whole[1].with_missing()]

    def values(self, metric: Metric, example: SplitExample, batch_size: int = 0, num_ranks: int = 1) -> Values:
        """Return the values of the metric on an example."""
        return measure([metric], recorded(metric, example, batch_size, num_ranks))

    def test_declares_what_it_is(self, case: Case) -> None:
        for metric in self.built(case):
            low, high = metric.range
            assert metric.direction in ("higher", "lower", None)
            assert isinstance(metric.unit, str)
            assert low < high
            assert metric.needs
            assert metric.needs <= NEEDS.keys()
            assert metric.min_subjects >= 1
            assert metric.absent
            assert metric.when in ("epoch", "final")
            names = metric.names()
            assert len(set(names)) == len(names)
            for name in names:
                assert re.fullmatch(r"\S.*\S\.", metric.meaning(name)), (
                    f"{name}: {metric.meaning(name)!r} is no sentence"
                )

    def test_gives_what_it_announces(self, case: Case) -> None:
        for metric in self.built(case):
            for example in self.examples(metric):
                values = self.values(metric, example)
                assert set(values) <= set(metric.names())
                assert any(value is not None for value in values.values())
                for key, value in values.items():
                    assert value is None or (isinstance(value, float) and math.isfinite(value)), key

    def test_values_are_in_its_range(self, case: Case) -> None:
        for metric in self.built(case):
            low, high = metric.range
            for example in self.examples(metric):
                for key, value in self.values(metric, example).items():
                    assert value is None or low - 1e-6 <= value <= high + 1e-6, key

    def test_better_values_lie_in_its_direction(self, case: Case) -> None:
        for metric in self.built(case):
            worse, better = (self.values(metric, SplitExample.make(metric.context, quality)) for quality in (0.0, 1.0))
            sign = {"higher": 1.0, "lower": -1.0, None: 0.0}[metric.direction]
            for key, value in better.items():
                before = worse[key]
                assert value is not None
                assert before is not None
                assert metric.direction is None or sign * value > sign * before, key

    def test_batches_do_not_matter(self, case: Case) -> None:
        for metric in self.built(case):
            for example in self.examples(metric):
                whole = self.values(metric, example)
                for batch_size in (1, 7):
                    check_same(self.values(metric, example, batch_size), whole)

    def test_ranks_do_not_matter(self, case: Case) -> None:
        for metric in self.built(case):
            for example in self.examples(metric):
                check_same(self.values(metric, example, 4, num_ranks=5), self.values(metric, example))

    def test_missing_values_count_nowhere(self, case: Case) -> None:
        for metric in self.built(case):
            example = SplitExample.make(metric.context, 0.5)
            expected = self.values(metric, example.with_missing())
            for garbage in (0.0, 1e6, math.nan):
                check_same(self.values(metric, example.with_missing(garbage)), expected)

    def test_half_precision_is_that_of_the_same_numbers(self, case: Case) -> None:
        for metric in self.built(case):
            for example in self.examples(metric):
                for dtype in (torch.bfloat16, torch.float16):
                    halved = example.in_precision(dtype)
                    exact = halved.in_precision(torch.float32)
                    check_same(self.values(metric, halved), self.values(metric, exact), 1e-4)

    def test_survives_pickling(self, case: Case) -> None:
        for metric in self.built(case):
            example = self.examples(metric)[1]
            copy = pickle.loads(pickle.dumps(metric))
            assert copy.names() == metric.names()
            assert self.values(copy, example) == self.values(metric, example)

    def test_few_subjects_give_none_and_no_error(self, case: Case) -> None:
        for metric in self.built(case):
            for num in range(1, 7):
                values = self.values(metric, SplitExample.make(metric.context, 0.5, num))
                assert num >= metric.min_subjects or set(values.values()) == {None}
                for key, value in values.items():
                    assert value is None or math.isfinite(value), key

    def test_reads_what_it_needs_and_nothing_else(self, case: Case) -> None:
        for metric in self.built(case):
            example = self.examples(metric)[-1]
            record = recorded(metric, example)
            observed = set(metric.observe(example.batch, example.output))
            assert bool(observed) == bool(metric.needs & OF_BATCHES)
            allowed = {*metric.needs, *observed, "available"}
            arrays = {name: rows for name, rows in record.arrays.items() if name.split(".", 1)[0] in allowed}
            before = {name: rows.copy() for name, rows in arrays.items()}
            assert measure([metric], SplitRecord(record.subject_id, arrays)) == measure([metric], record)
            assert all(np.array_equal(arrays[name], rows, equal_nan=True) for name, rows in before.items())
            for need in metric.needs - OF_BATCHES:
                without = {name: rows for name, rows in arrays.items() if name.split(".", 1)[0] != need}
                assert measure([metric], SplitRecord(record.subject_id, without)) == {}, need

    def test_value_is_that_of_another_implementation(self, case: Case) -> None:
        reference = self.references.get(case.part.name)
        if reference is None:
            if case.part.origin == "menvae" or self.names is not None:
                pytest.fail(f"add another implementation of '{case.part.name}' to `references`")
            pytest.skip(f"no reference implementation of '{case.part.name}' from {case.part.origin}")
        for metric in self.built(case):
            for example in self.examples(metric):
                found = {key: value for key, value in self.values(metric, example, 5).items() if value is not None}
                expected = reference(example, metric)
                assert found.keys() == expected.keys()
                for key, value in expected.items():
                    assert found[key] == pytest.approx(value, rel=2e-4, abs=2e-4), key


def as_arrays(example: SplitExample) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Return inputs, reconstruction, mean, logvar, labels and logits in double precision, for references."""
    output, batch = example.output, example.batch
    assert batch.labels is not None
    tensors = {
        "inputs": batch.inputs,
        "reconstruction": output.reconstruction,
        "mean": output.posterior.mean,
        "logvar": output.posterior.logvar,
        "labels": batch.labels,
        "logits": output.extras["logits"],
    }
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}
