#!/usr/bin/env bash
# optuna 5.0.0, HyperbandPruner
#
# Behaviour: the number of brackets is the floor of a floating-point logarithm plus one. log(243, 3) is computed as
#   4.999999999999999, so budgets of 1 to 243 with a reduction factor of 3 have 5 brackets; 1 to 1000 with 10 has 3.
# Expected: 6 brackets, as in table 1 of Li et al. (2018), which has s_max = floor(log_3 of R) + 1 with exact logarithms,
#   and as 81 (5 brackets) and 729 (7) have.
# Seen: 243 has as many brackets as 81. The bracket that is missing is that of trials which nothing stops early.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def num_brackets(most, factor):
    """Count the brackets that trials of a study are given, by their first rungs."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=most, reduction_factor=factor)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    trial.report(0.0, 1)
    trial.should_prune()  # it creates the pruners of the brackets
    return len(pruner._pruners)


found = {(most, factor): num_brackets(most, factor) for most, factor in ((81, 3), (243, 3), (729, 3), (1000, 10))}
exact = {}
for most, factor in found:
    exact[most, factor] = next(power for power in range(100) if factor ** (power + 1) > most) + 1
    print(f"1 to {most}, factor {factor}: {found[most, factor]} brackets, {exact[most, factor]} by whole numbers")
as_stated = found[243, 3] == 5 and found[1000, 10] == 3 and found[81, 3] == exact[81, 3] and found[729, 3] == exact[729, 3]
sys.exit(0 if as_stated else "the behaviour has changed")
PYTHON
