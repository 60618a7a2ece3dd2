#!/usr/bin/env bash
# torch 2.13.0, torch.use_deterministic_algorithms
#
# Behaviour: the call, which sets one flag, imports torch._inductor, torch._dynamo and sympy, in a program that compiles
#   nothing; so does the first step of any torch.optim optimiser import torch._dynamo. On a small machine that takes as
#   long as the import of torch itself.
# Expected: setting a flag of eager kernels imports nothing; the compiler reads the flag when it is used.
# Seen: after import torch: []; after use_deterministic_algorithms: ['sympy', 'torch._dynamo', 'torch._inductor']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch


def compiler():
    return sorted({"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules))


before, started = compiler(), time.perf_counter()
torch.use_deterministic_algorithms(True)
seconds, after = time.perf_counter() - started, compiler()
print(f"after import torch: {before}; after use_deterministic_algorithms, {seconds:.1f} s later: {after}")
assert "torch._inductor" not in before, "changed: import torch imports the compiler"
assert {"sympy", "torch._inductor"} <= set(after), "changed: the flag imports nothing"
PYTHON
