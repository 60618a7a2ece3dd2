"""Targets fitted on the training subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from menvae.data.targets.declaration import Target, applicable, check_supervised
from menvae.data.targets.normalizer import RawTargets, TargetNormalizer, TargetSettings


def fit_targets(
    training: Sequence[RawTargets],
    settings: TargetSettings,
    supervision: Mapping[str, Sequence[str]],
    targets: Mapping[str, Target],
) -> TargetNormalizer:
    """Fit the targets of all partitions, and their regressors, on the training subjects.

    Args:
        training: raw targets of the training subjects.
        settings: keys of ``targets.*``.
        supervision: partition -> names of its targets.
        targets: targets that the source declares.

    Raises:
        UserError: if a target does not exist.
    """
    check_supervised(supervision, targets)
    settings = applicable(settings, targets)
    supervised = [name for names in supervision.values() for name in names]
    regressors = [name for names in settings.residualise.values() for name in names]
    return TargetNormalizer.fit(training, settings, list(dict.fromkeys([*supervised, *regressors])))
