"""Judges a control by the evaluation and the default gates of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from catalogue import INPUT_CHECK, Control, Sizes
from drawn_cohort import Subjects
from exact_models import ExactModel
from omegaconf import OmegaConf
from twins import input_check_passes

from menvae.evaluation.final import Outputs, evaluate_model, judge
from menvae.evaluation.gates import JudgedGates, Verdict
from menvae.gates import GateSettings, Target
from menvae.metrics import MetricContext, build_metrics
from menvae.types import Batch, ModelOutput

CONF = Path(__file__).parents[2] / "conf"
FULL: Sizes = (600, 200, 200)


@dataclass(frozen=True)
class Result:
    """Verdicts of all gates about a control, and of the input check if it must refuse the cohort.

    Attributes:
        control: what was judged.
        verdicts: gate -> its verdict on validation and on test.
    """

    control: Control
    verdicts: Mapping[str, tuple[Verdict, ...]]

    def gates(self, *some: Verdict) -> list[str]:
        """Return the gates whose worse verdict of the two splits is one of these."""
        return [name for name, found in self.verdicts.items() if _worst(found) in some]

    @property
    def missed(self) -> list[str]:
        """The gates that should have failed on both splits, and did not."""
        refused = ("fail", "not computed")
        must_fail = self.control.must_fail
        return [name for name, found in self.verdicts.items() if name in must_fail and not set(found) <= set(refused)]

    @property
    def verdict(self) -> str:
        """``passes`` and ``refused``, or what is wrong."""
        if self.control.must_fail:
            return f"not refused by {', '.join(self.missed)}" if self.missed else "refused"
        failed = self.gates("fail", "not computed", "undecided")
        return f"wrongly refused by {', '.join(failed)}" if failed else "passes"

    @property
    def is_right(self) -> bool:
        """Whether the gates judged as they must."""
        return self.verdict in ("passes", "refused")


def default_gates() -> Mapping[str, Target]:
    """Return the gates of ``conf/train.yaml``."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    assert isinstance(config, dict)
    return GateSettings.from_config(config["gates"]).targets


@torch.no_grad()
def judged(control: Control, sizes: Sizes = FULL) -> Result:
    """Evaluate a control on validation and test as a run is.

    Args:
        control: what to judge.
        sizes: number of patients of train, val and test.
    """
    model, splits = control.build(sizes)
    targets = default_gates()
    size = tuple(splits["train"].images.shape[2:])
    every = build_metrics({}, MetricContext(model.layout, ("image",), size, model.supervision))
    wanted = {target.metric for target in targets.values()}
    metrics = [metric for metric in every if wanted & set(metric.names())]
    outputs: dict[str, Outputs] = {name: partial(_outputs, model, splits[name]) for name in ("val", "test")}
    evaluation = evaluate_model(model, splits["train"].batches(), outputs, metrics)
    verdicts = _verdicts(judge(evaluation, targets, metrics, model.supervision))
    if unknown := control.must_fail - verdicts.keys() - {INPUT_CHECK}:
        raise ValueError(f"{control.name}: no gate {', '.join(sorted(unknown))}")
    if INPUT_CHECK in control.must_fail:
        verdicts[INPUT_CHECK] = ("pass" if input_check_passes() else "fail",)
    return Result(control, verdicts)


def _outputs(model: ExactModel, subjects: Subjects) -> Iterable[tuple[Batch, ModelOutput]]:
    return ((batch, model(batch)) for batch in subjects.batches())


def _verdicts(gates: JudgedGates) -> dict[str, tuple[Verdict, ...]]:
    tables = [{gate.name: gate.verdict for gate in table.gates} for table in gates.splits.values()]
    return {name: tuple(table[name] for table in tables) for name in tables[0]}


def _worst(verdicts: tuple[Verdict, ...]) -> Verdict:
    order: tuple[Verdict, ...] = ("fail", "not computed", "undecided", "pass")
    return min(verdicts, key=order.index)
