#!/usr/bin/env bash
# optuna 5.0.0 with scikit-learn 1.9.1, FanovaImportanceEvaluator
#
# Behaviour: a parameter of unordered choices becomes one column for each choice, and its importance is the variance over
#   all combinations of these columns, also those with no choice or several, which no trial can have.
# Expected: on a full grid without noise, the share of variance that an exact analysis gives; renaming the values of a
#   parameter from numbers to words does not change it.
# Seen: the same 256 trials, once with a parameter of four numbers and once with the same four as words: .55 and .38; the
#   exact share is .50.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import itertools
import sys

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

optuna.logging.set_verbosity(optuna.logging.ERROR)
OF_CHOICE = (0.0, 0.9, 0.2, 0.7)
grid = list(itertools.product(np.linspace(0, 1, 8), np.linspace(0, 1, 8), range(4)))
values = np.array([x + 0.5 * y + OF_CHOICE[choice] for x, y, choice in grid])
exact = np.var(OF_CHOICE) / values.var()  # effects add up, so that this is its whole share


def importance(of_words):
    """Return the importance of the third parameter, as a word or as a number."""
    last = CategoricalDistribution(["a", "b", "c", "d"]) if of_words else FloatDistribution(0, 3)
    study = optuna.create_study()
    for (x, y, choice), value in zip(grid, values):
        given = "abcd"[choice] if of_words else float(choice)
        distributions = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1), "last": last}
        study.add_trial(
            optuna.trial.create_trial(params={"x": x, "y": y, "last": given}, distributions=distributions, value=value)
        )
    return FanovaImportanceEvaluator(seed=0).evaluate(study)["last"]


words, numbers = importance(True), importance(False)
print(f"exact share {exact:.3f}; fANOVA with numbers {numbers:.3f}, with words {words:.3f}")
sys.exit(0 if words < 0.85 * exact and numbers > 0.95 * exact else "the behaviour has changed")
PYTHON
