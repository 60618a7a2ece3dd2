#!/usr/bin/env bash
# torch 2.13.0, torch.nn.GroupNorm of a float32 volume in torch.channels_last_3d on CPU
#
# Behaviour: in channels_last_3d the variance of a group is computed as E[x^2] - E[x]^2 in float32, which cancels
#   where the mean is large against the standard deviation. The same tensor in contiguous format is normalised
#   exactly.
# Expected: a memory format changes speed, not results. The larger the mean, the more of the variance is lost;
#   channels_last of 2D images loses it as well. There is no warning, and no nan.
# Seen: largest error against float64 (values of the result lie in about [-5, 5]):
#   mean 100, standard deviation 1: contiguous 8.3e-06, channels_last_3d 1.6e-01
#   mean 1000, standard deviation 1: contiguous 4.0e-05, channels_last_3d 1.4e+03
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import group_norm

noise = torch.randn(2, 8, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def errors(mean):
    x = noise + mean
    exact = group_norm(x.double(), 4)
    formats = (torch.contiguous_format, torch.channels_last_3d)
    return [(group_norm(x.contiguous(memory_format=one), 4) - exact).abs().max().item() for one in formats]


for mean, lost in ((100.0, 0.01), (1000.0, 1.0)):
    contiguous, channels_last = errors(mean)
    print(f"mean {mean:g}: contiguous {contiguous:.1e}, channels_last_3d {channels_last:.1e}")
    assert contiguous < 1e-3, "contiguous is not exact either"
    assert channels_last > lost, "changed: channels_last_3d keeps its variance"
PYTHON
