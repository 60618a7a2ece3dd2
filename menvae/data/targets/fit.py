"""A prepared cohort becomes something to learn from: splits, and targets fitted on the training subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings


def fit_targets(
    training: Sequence[PreparedSubject], settings: TargetSettings, supervision: Mapping[str, Sequence[str]]
) -> TargetNormalizer:
    """Fit the targets of all partitions, and the volumes that they are residualised by, on training subjects.

    Args:
        training: the training subjects.
        settings: keys of ``targets.*``.
        supervision: partition -> names of its targets.

    Raises:
        UserError: a feature that does not exist.
    """
    features = [name for names in supervision.values() for name in names]
    regressors = [name for names in settings.residualise.values() for name in names]
    wanted = list(dict.fromkeys([*features, *regressors]))
    return TargetNormalizer.fit([subject.features for subject in training], settings, wanted)
