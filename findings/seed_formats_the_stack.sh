#!/usr/bin/env bash
# torch 2.13.0, torch.manual_seed without a GPU
#
# Behaviour: where CUDA is not initialised, each call formats the whole Python stack, once for every kind of device that
#   might be initialised later, so that it takes tens of times as long as seeding the CPU's generator, and longer in
#   deeper code.
# Expected: a microsecond, as `torch.default_generator.manual_seed`, which gives the same numbers. A program that seeds
#   every step of a small network spends a tenth of its time there.
# Seen: 80 calls deep: manual_seed 1481 us, default_generator.manual_seed 7 us
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" - <<'PYTHON'
import time

import torch


def deep(levels, function):
    return deep(levels - 1, function) if levels else function(1)


def microseconds(function):
    times = []
    for _ in range(30):
        started = time.perf_counter()
        deep(80, function)
        times.append(1e6 * (time.perf_counter() - started))
    return min(times)


whole, generator = microseconds(torch.manual_seed), microseconds(torch.default_generator.manual_seed)
print(f"80 calls deep: manual_seed {whole:.0f} us, default_generator.manual_seed {generator:.0f} us")
torch.manual_seed(1)
first = torch.rand(3)
torch.default_generator.manual_seed(1)
assert torch.equal(first, torch.rand(3)), "the numbers differ"
assert whole > 10 * generator, "changed: manual_seed is as cheap as its generator"
PYTHON
