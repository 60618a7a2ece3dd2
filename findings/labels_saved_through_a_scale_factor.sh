#!/usr/bin/env bash
# nibabel 5.4.2, saving an edited segmentation with the header of the old one
#
# Behaviour: Nifti1Image(mask.get_fdata(), mask.affine, mask.header) keeps the integer type of the header, but scales
#   the values of a floating-point array to the whole range of that type, although each of them fits as it is. Labels
#   1, 2, 4 of a uint8 mask come back as 1.0039, 1.9922, 4.0000002, and the 1 of a mask of 0 and 1 as 1.00000006.
# Expected: whole numbers that fit the type of the file are stored as they are, with a slope of 1, as those of an
#   integer array are. No voxel equals its label any more, and a cast to integer turns label 2 into 1.
# Seen: labels 0, 1, 2, 4: [0.0, 1.003921627998352, 1.9921569805592299, 4.000000236555934], as integers [0, 1, 4]
#   labels 0, 1: [0.0, 1.0000000591389835]; from an integer array: [0.0, 1.0, 2.0, 4.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import nibabel
import numpy as np


def saved_again(labels, convert=lambda voxels: voxels):
    voxels = np.array(labels, dtype=np.uint8).reshape(-1, 1, 1)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), "mask.nii.gz")
    mask = nibabel.load("mask.nii.gz")
    edited = convert(mask.get_fdata())
    nibabel.save(nibabel.Nifti1Image(edited, mask.affine, mask.header), "edited.nii.gz")
    return nibabel.load("edited.nii.gz").get_fdata()


edited, whole, integers = (
    saved_again([0, 1, 2, 4]),
    saved_again([0, 1]),
    saved_again([0, 1, 2, 4], lambda voxels: voxels.astype(np.int16)),
)
print("0, 1, 2, 4:", np.unique(edited).tolist(), "as integers:", np.unique(edited.astype(int)).tolist())
print("0, 1:", np.unique(whole).tolist(), "; from an integer array:", np.unique(integers).tolist())
assert np.unique(integers).tolist() == [0, 1, 2, 4], integers
assert not np.isin(edited, [1, 2, 4]).any() and not (whole == 1).any(), "changed: labels are stored as they are"
assert np.unique(edited.astype(int)).tolist() == [0, 1, 4], "changed: label 2 is not read as 1"
PYTHON
