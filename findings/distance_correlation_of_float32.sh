#!/usr/bin/env bash
# dcor 0.7, distance_correlation of float32 vectors with the default method
#
# Behaviour: of two vectors in float32 the default method (a fast one, AVL or merge sort) adds up products of values
#   that are not centred, in the precision of the input. With a mean that is large against the standard deviation the
#   result is wrong and can lie far above 1. The only warning is about speed (the compiled implementation takes only
#   float64).
# Expected: distance correlation lies in [0, 1] and does not change if a constant is added. method="naive" in float32
#   and the default in float64 give .6357 for each of these; a network's outputs are float32.
# Seen: standard deviation 1, float64 and float32: mean 0: 0.6357 0.6357; mean 1000: 0.6357 0.7416; mean 10000: 0.6357
#   9.8335
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dcor==0.7 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from dcor import distance_correlation

generator = np.random.default_rng(0)
x = generator.normal(size=200)
y = x + generator.normal(size=200)


def both(mean):
    of_float32 = (x + mean).astype(np.float32), (y + mean).astype(np.float32)
    naive = distance_correlation(*of_float32, method="naive")
    assert abs(naive - exact) < 1e-3, "the naive method is not exact in float32 either"
    return float(distance_correlation(x + mean, y + mean)), float(distance_correlation(*of_float32))


exact = distance_correlation(x, y, method="naive")
for mean, lost in ((0.0, 0.0), (1e3, 0.01), (1e4, 1.0)):
    of_float64, of_float32 = both(mean)
    print(f"mean {mean:g}: float64 {of_float64:.4f}, float32 {of_float32:.4f}")
    assert abs(of_float64 - exact) < 1e-5, "the default is not exact in float64 either"
    assert abs(of_float32 - exact) >= lost, "changed: float32 is exact"
PYTHON
