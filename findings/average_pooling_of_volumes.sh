#!/usr/bin/env bash
# torch 2.13.0, average pooling of channels-last volumes on a CPU
#
# Behaviour: avg_pool3d and adaptive_avg_pool3d of a channels-last volume return a contiguous one.
# Expected: channels-last, as from avg_pool2d, adaptive_avg_pool2d and max_pool3d. A network that was moved to
#   channels_last_3d for its faster convolutions leaves that layout at its first average pooling, and every layer behind
#   it computes on contiguous memory, without a word.
# Seen: channels-last from avg_pool2d, adaptive_avg_pool2d and max_pool3d; contiguous from avg_pool3d and
#   adaptive_avg_pool3d
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def keeps_layout(pool, size, *args):
    layout = LAYOUTS[len(size)]
    pooled = pool(torch.randn(size).contiguous(memory_format=layout), *args)
    kept = pooled.is_contiguous(memory_format=layout) and not pooled.is_contiguous()
    print(f"{pool.__name__}: {'channels-last' if kept else 'contiguous'}")
    return kept


image, volume = (2, 4, 8, 8), (2, 4, 8, 8, 8)
assert keeps_layout(functional.avg_pool2d, image, 2)
assert keeps_layout(functional.adaptive_avg_pool2d, image, 4)
assert keeps_layout(functional.max_pool3d, volume, 2)
assert not keeps_layout(functional.avg_pool3d, volume, 2), "changed: avg_pool3d keeps the layout"
assert not keeps_layout(functional.adaptive_avg_pool3d, volume, 4), "changed: adaptive_avg_pool3d keeps the layout"
PYTHON
