#!/usr/bin/env bash
# torch 2.13.0, Conv3d of a batch of one in fp32 on a CPU
#
# Behaviour: a batch of one volume leaves oneDNN for torch's own im2col where channels x depth x height is at most 20480,
#   a rule for images that leaves the last axis of a volume out. 32 channels of 24^3 (18432) fall under it, 32 of 32^3 not.
# Expected: one volume takes half the time of two, and the same kernel; micro-batches of one need the least memory.
# Seen: one volume of 24^3 takes 7 times as long as two (25 ms and 3.6 ms, forward, 2 threads), and im2col keeps 27 copies
#   of its input for the time of the operation. In bf16, which has no such rule, one volume takes oneDNN, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch
from torch.profiler import profile

torch.set_num_threads(2)


def convolve(num_volumes, side, dtype=torch.float32):
    layer = torch.nn.Conv3d(32, 32, 3, padding=1, dtype=dtype)
    volumes = torch.randn(num_volumes, 32, side, side, side, dtype=dtype)
    with torch.no_grad():
        layer(volumes)
        durations = []
        for _ in range(7):
            started = time.perf_counter()
            layer(volumes)
            durations.append(time.perf_counter() - started)
        with profile() as seen:
            layer(volumes)
    names = {event.key for event in seen.key_averages()}
    kernel = "oneDNN" if "aten::mkldnn_convolution" in names else "im2col" if "aten::slow_conv3d" in names else "other"
    print(f"{num_volumes} x 32 x {side}^3 {dtype}: {kernel}, {1000 * min(durations):.1f} ms")
    return kernel


found = [convolve(1, 24), convolve(2, 24), convolve(1, 32), convolve(1, 24, torch.bfloat16)]
assert found == ["im2col", "oneDNN", "oneDNN", "oneDNN"], f"changed: {found}"
PYTHON
