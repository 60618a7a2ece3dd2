#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, NIfTI images whose xyzt_units are metres or micrometres
#
# Behaviour: nibabel's zooms and affine are the numbers of the header in whatever unit it names; SimpleITK converts
#   them to millimetres. Of one file with voxels of 1.5 and the unit micron, nibabel says 1.5 and SimpleITK 0.0015.
# Expected: a reader that knows the unit (nibabel parses it, get_xyzt_units) uses it in its affine, which its
#   documentation calls a map to millimetres. Volumes of the same file differ by a factor of 1e9.
# Seen: mm: 1.5 and 1.5; micron: 1.5 and 0.0015; meter: 1.5 and 1500.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import nibabel
import numpy as np
import SimpleITK


def spacings(unit):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype=np.float32), np.diag([1.5, 1.5, 1.5, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, "image.nii.gz")
    read = nibabel.load("image.nii.gz")
    assert float(read.header.get_zooms()[0]) == float(read.affine[0, 0])
    return float(read.affine[0, 0]), SimpleITK.ReadImage("image.nii.gz").GetSpacing()[0]


for unit, factor in (("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)):
    of_nibabel, of_simpleitk = spacings(unit)
    print(f"{unit}: nibabel {of_nibabel}, SimpleITK {of_simpleitk}")
    assert of_nibabel == 1.5, "changed: nibabel converts"
    assert math.isclose(of_simpleitk, 1.5 * factor, rel_tol=1e-6), "changed: SimpleITK does not convert"
PYTHON
