#!/usr/bin/env bash
# torch 2.13.0, weight gradient of torch.nn.Conv3d under CPU autocast to bfloat16
#
# Behaviour: of a 3x3x3 convolution with padding 1 whose input is 2 deep, of any height and width, part of the weight
#   gradient is never computed: often nan or 1e36, else plausible numbers that are wrong. The output is right, and so
#   is the gradient for inputs that are 1, 3 or 4 deep. (On a CPU with AVX-512 and bfloat16; others may take another
#   kernel.)
# Expected: an error of the size of bfloat16's rounding, below 1 %, for every size. 2x2x2 is the last feature map of
#   common encoders of volumes of 64^3, and slabs of two slices occur: the network trains wrongly, or ends in nan, in
#   bfloat16 only.
# Seen: largest error over the largest gradient in float32: depth 2: [1.2, 3.4e+33, nan, nan]; depth 4: [0.0042,
#   0.0039, 0.0043, 0.0039]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.manual_seed(0)


def error(depth):
    x, convolution = torch.randn(4, 64, depth, 2, 2), torch.nn.Conv3d(64, 64, 3, padding=1)
    weights = convolution.weight.numel()
    used = [torch.full((weights,), float("nan"), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    del used  # memory that a network has used before
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = convolution(x)
        gradients.append(torch.autograd.grad(y.float().square().sum(), convolution.weight)[0])
    exact, found = gradients
    return ((found - exact).abs().max() / exact.abs().max()).item()


of_two, of_four = [error(2) for _ in range(4)], [error(4) for _ in range(4)]
print("depth 2:", [f"{one:.2g}" for one in of_two], "; depth 4:", [f"{one:.2g}" for one in of_four])
assert all(one < 0.02 for one in of_four), "depth 4 is not right either"
assert any(not one < 0.1 for one in of_two), "changed: the gradient of depth 2 is right"
PYTHON
