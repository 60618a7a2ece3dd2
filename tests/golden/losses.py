"""Five real training steps of every experiment: each scalar, each gradient norm, and the validation after them.

`tolerance` holds on another CPU; on the machine that wrote the values, ``python tests/golden --check losses`` compares
every digit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golden.internals import (
    Experiment,
    LossReport,
    ModelOutput,
    PhantomSource,
    Progress,
    Side,
    Stepper,
    Update,
    prepare,
)
from shrunk import Losses, composed, names, of_rows, trainer_of

FOLDER = Path(__file__).parent / "losses"
TENSORS = Path(__file__).parent / "state_dicts.json"
"""Experiment -> digest of name, type and shape of each tensor of its checkpoint; those of the default in full."""
DEFAULT = "default"
HALF = "semivae_run6_bf16"
EXPERIMENTS = (DEFAULT, *names("experiment"), HALF)
"""All are trained in float32, where another CPU changes little; one is trained in its own bfloat16 as well."""
NUM_STEPS = 5

_FIRST, _LATER = 2e-4, 2e-3
"""Relative tolerances of the first step, and of later ones and the validation.

Another CPU adds float32 numbers in another order. Measured between AVX2 and kernels without vectors (PyTorch, oneDNN,
NumPy), the first step moved by at most 5e-5 and later ones, after updates by Adam, by at most 4e-4; four to five times
that is allowed. A wrong constant, schedule or seed moves them by 1e-2 or more.
"""
_SENSITIVE = {
    "semivae_exponential": (_FIRST, 8e-3),  # a CPU with AVX-512 moves the gradient norm (5e-3)
    "exp1_baseline": (_FIRST, 0.05),  # the KL weight is 0 at first: Adam enlarges gradients near 0 to full steps (1e-2)
    HALF: (0.3, 0.3),  # roundings of 2^-8 differ by kernel (8e-2); in float32 it is the experiment of that name
}

Row = dict[str, float | None]
Golden = dict[str, Row]
"""``step 1`` ... ``step 5`` and ``validation`` -> name -> value."""

_NETWORK = ("encoder.base_filters=8", "decoder.base_filters=16", "auxiliary_decoder.base_filters=16")
_EPOCH = ("trainer.max_epochs=1", "trainer.batch_size=4")
_BOX = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "data.val_fraction=0.13", "data.test_fraction=0.0")
NUM_SUBJECTS = 23
_VOLUMES = ("data=phantom", f"data.num_subjects={NUM_SUBJECTS}", *_BOX, *_NETWORK, *_EPOCH)
_VISITS = ("data.num_patients=12", "data.visits=[2,2]", *_BOX, *_NETWORK, *_EPOCH)
_SPLITS = ("data.num_rows=250", "data.val_fraction=0.12", "data.test_fraction=0.08")
_STEPS = ("trainer.max_epochs=1", "trainer.batch_size=40")
_ROWS = (*_SPLITS, "data.num_holes=25", "data.num_classes=4", *_STEPS)
_FEATURES = (*_SPLITS, "data.columns=['feature_{0..19}']", *_STEPS)
_OF_PARTS = {
    "semivae_experts": ("encoder.expert.base_filters=8",),
    "semivae_modality_decoders": ("decoder.each.base_filters=16",),
}
"""What else is shrunk."""


def shrunk(name: str) -> list[str]:
    """Return the overrides of an experiment whose one epoch has `NUM_STEPS` steps.

    The curriculum is stretched over them, so that they meet its beginning, its ramps and its end.
    """
    chosen = [] if name == DEFAULT else [f"experiment={name.removesuffix('_bf16')}"]
    precision = "trainer.precision=bf16" if name == HALF else "trainer.precision=fp32"
    configuration = composed(*chosen)
    tiny = _VOLUMES
    if of_rows(configuration):
        tiny = _ROWS if "num_holes" in configuration.data else _FEATURES
    elif configuration.data.pairs:
        tiny = _VISITS
    return [*chosen, *tiny, *_OF_PARTS.get(name, ()), precision]


class NormRecorder:
    """An update that keeps the gradient norm of every optimiser step of the one inside it."""

    def __init__(self, inner: Update) -> None:
        self.inner = inner
        self.norms: list[float] = []

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        return self.inner(_Watched(stepper, self.norms))


class _Watched:
    def __init__(self, inner: Stepper, norms: list[float]) -> None:
        self.inner, self.norms = inner, norms

    @property
    def progress(self) -> Progress:
        return self.inner.progress

    @property
    def step(self) -> int:
        return self.inner.step

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        return self.inner.evaluate()

    def descend(self, total: Any, only: Side | None = None) -> float:
        norm = self.inner.descend(total, only)
        self.norms.append(norm)
        return norm


def fill_cache(cache: Path) -> None:
    """Prepare the cohort of most experiments; what is there already stays."""
    prepare(PhantomSource(num_subjects=NUM_SUBJECTS, roi_size=(16, 16, 16), spacing_mm=(10.0, 10.0, 10.0)), cache)


def measured(name: str, output_dir: Path) -> tuple[Golden, list[str]]:
    """Train an experiment, and return its values and, a line each, name, type and shape of its checkpoint's tensors."""
    experiment = Experiment.from_config(composed(*shrunk(name), f"output_dir={output_dir}"))
    update = NormRecorder(experiment.parts["update"]())
    trainer = trainer_of(experiment, output_dir, update)
    losses = Losses()
    trainer.fit(losses)
    assert len(losses.steps) == len(update.norms) == NUM_STEPS
    found: Golden = {
        f"step {number}": {**row, "gradient_norm": norm}
        for number, (row, norm) in enumerate(zip(losses.steps, update.norms, strict=True), start=1)
    }
    found["validation"] = {key: value for key, value in losses.metrics.items() if key.startswith("val_epoch/")}
    tensors = {"model": trainer.model.state_dict(), "objective": trainer.objective.state_dict()}
    return found, [
        f"{kind}.{key} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for kind, state in tensors.items()
        for key, value in state.items()
    ]


def digest(tensors: list[str]) -> str:
    """Return what stands for the names, types and shapes of a checkpoint's tensors."""
    return hashlib.sha256("\n".join(tensors).encode()).hexdigest()[:16]


def stored(name: str) -> Golden:
    """Return what is committed."""
    golden: Golden = json.loads((FOLDER / f"{name}.json").read_text())
    return golden


def tolerance(name: str, row: str) -> float:
    """Return the relative tolerance of a row of an experiment on any CPU."""
    first, later = _SENSITIVE.get(name, (_FIRST, _LATER))
    return first if row == "step 1" else later


def differences(name: str, expected: Golden, found: Golden, *, exact: bool = False) -> list[str]:
    """Return a table of the values that differ by more than `tolerance`, or, if ``exact``, in any digit."""
    lines = []
    for row, key, before, after in _pairs(expected, found):
        if not _close(before, after, 0.0 if exact else tolerance(name, row)):
            numbers = isinstance(before, float) and isinstance(after, float) and before
            relative = f"{abs(after - before) / abs(before):.1e}" if numbers else ""
            lines.append(f"{name:28} {row:10} {key:34} {before!s:>24} {after!s:>24} {relative:>9}")
    return (
        [f"{'experiment':28} {'row':10} {'value':34} {'stored':>24} {'now':>24} {'relative':>9}", *lines]
        if lines
        else []
    )


def _pairs(expected: Golden, found: Golden) -> Iterator[tuple[str, str, Any, Any]]:
    for row in {**expected, **found}:
        before, after = expected.get(row, {}), found.get(row, {})
        for key in {**before, **after}:
            yield row, key, before.get(key, "absent"), after.get(key, "absent")


def _close(before: object, after: object, largest: float) -> bool:
    if not isinstance(before, float) or not isinstance(after, float):
        return before == after
    return math.isclose(before, after, rel_tol=largest, abs_tol=largest * 1e-2)
