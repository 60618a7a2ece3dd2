#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, NIfTI images whose sform and qform differ
#
# Behaviour: nibabel takes the sform whatever its code. SimpleITK takes it only if its code is 1 (scanner) or the
#   qform has code 0; of an image that is aligned to another one (2), in Talairach (3), MNI (4) or a template's (5)
#   space and keeps its scanner's qform, it takes the qform.
# Expected: one rule: NIfTI allows both transformations and leaves the choice to the reader, but all codes above 0 are
#   valid alike. A registered image and its mask agree in one library and lie far apart in the other, and only some
#   files do: the same matrices with another code agree.
# Seen: origin in RAS+ by sform_code (nibabel, SimpleITK), sform at 1, 2, 3 and qform at 10, 20, 30:
#   1: 1 2 3, 1 2 3; 2: 1 2 3, 10 20 30; 3: 1 2 3, 10 20 30; 4: 1 2 3, 10 20 30; without a qform 2: 1 2 3, 1 2 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import nibabel
import numpy as np
import SimpleITK

sform, qform = np.eye(4), np.eye(4)
sform[:3, 3], qform[:3, 3] = (1, 2, 3), (10, 20, 30)


def origins(sform_code, qform_code=1):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype=np.float32), None)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    nibabel.save(image, "image.nii.gz")
    left, posterior, superior = SimpleITK.ReadImage("image.nii.gz").GetOrigin()  # LPS+
    return nibabel.load("image.nii.gz").affine[:3, 3].tolist(), [-left, -posterior, superior]


for code in (1, 2, 3, 4):
    print(f"sform_code {code}: nibabel", *origins(code)[0], "SimpleITK", *origins(code)[1])
assert origins(1) == ([1, 2, 3], [1, 2, 3]), origins(1)
assert origins(2, qform_code=0) == ([1, 2, 3], [1, 2, 3]), origins(2, qform_code=0)
for code in (2, 3, 4, 5):
    assert origins(code) == ([1, 2, 3], [10, 20, 30]), f"changed: sform_code {code}: {origins(code)}"
PYTHON
