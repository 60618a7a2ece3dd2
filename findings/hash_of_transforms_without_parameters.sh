#!/usr/bin/env bash
# monai 1.6.1, monai.data.PersistentDataset with hash_transform=json_hashing
#
# Behaviour: json_hashing cannot serialise a transform, and PersistentDataset then hashes the names of the classes
#   instead, without a warning. A transform of the same class with other parameters finds the cached result of the old
#   ones.
# Expected: hash_transform is "a callable to compute hash from the transform information when caching. This may reduce
#   errors due to transforms changing during experiments", with pickle_hashing and json_hashing as the options:
#   parameters are part of the hash, or json_hashing is refused. pickle_hashing works as expected.
# Seen: smallest value of an image scaled to [0, 1] and then to [-1, 1]: json_hashing: 0.0 0.0; pickle_hashing: 0.0
#   -1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet monai==1.6.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from monai.data import PersistentDataset
from monai.data.utils import json_hashing, pickle_hashing
from monai.transforms import Compose, LoadImaged, ScaleIntensityd

np.save("image.npy", np.arange(8.0).reshape(2, 2, 2))


def minimum(hashing, lowest):
    transform = Compose([LoadImaged("image"), ScaleIntensityd("image", minv=lowest, maxv=1.0)])
    cache = f"cache-{hashing.__name__}"
    dataset = PersistentDataset([{"image": "image.npy"}], transform, cache, hash_transform=hashing)
    return float(dataset[0]["image"].min())


of_json, of_pickle = ([minimum(one, lowest) for lowest in (0.0, -1.0)] for one in (json_hashing, pickle_hashing))
print("json_hashing:", *of_json, "; pickle_hashing:", *of_pickle)
assert of_pickle == [0.0, -1.0], of_pickle
assert of_json == [0.0, 0.0], "changed: parameters are part of the hash"
PYTHON
