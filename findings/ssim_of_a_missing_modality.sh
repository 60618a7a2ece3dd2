#!/usr/bin/env bash
# scikit-image 0.26.0, skimage.metrics.structural_similarity and peak_signal_noise_ratio
#
# Behaviour: of a channel that is constant (a modality that a subject lacks, stored as zeros) with its own range as
#   data_range=0, a perfect reconstruction has SSIM nan and PSNR nan, an imperfect one SSIM 0.0 and PSNR -inf. There is no
#   error, only a RuntimeWarning of NumPy about the division.
# Expected: an error that names data_range, or SSIM 1 and PSNR inf for a perfect reconstruction. One such subject turns the
#   mean over a cohort into nan or -inf.
# Seen: perfect: nan nan; one voxel wrong: 0.0 -inf
# In menvae: channels that a subject lacks are left out of val_epoch/ssim_* and psnr_*, and so is what is not finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-image==0.26.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

absent = np.zeros((9, 9, 9))
wrong = absent.copy()
wrong[4, 4, 4] = 1.0


def both(image):
    return (
        float(structural_similarity(absent, image, data_range=0.0)),
        float(peak_signal_noise_ratio(absent, image, data_range=0.0)),
    )


perfect, imperfect = both(absent), both(wrong)
print("perfect:", *perfect, "; one voxel wrong:", *imperfect)
assert math.isnan(perfect[0]) and math.isnan(perfect[1]), "changed: the perfect reconstruction has a value"
assert imperfect == (0.0, -math.inf), "changed: the imperfect reconstruction has another value"
PYTHON
