#!/usr/bin/env bash
# pyarrow 25.0.1 (and pandas 3.1.1 on top of it), reading a folder of Parquet files
#
# Behaviour: the columns of a folder are those of the file whose name sorts first. A column that only later files have
#   is dropped from all of them without a word; a column that only the first file has is filled with nulls.
# Expected: "The common schema of the full Dataset", as the docstring of Dataset.schema says, or an error, which a
#   column of another type gives. With one file a site, whether a cohort has ages depends on which site comes first.
# Seen: a without age, b with age: ['subject']; the same files named b and a: ['subject', 'age']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==25.0.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds

without_age = pd.DataFrame({"subject": ["s1", "s2"]})
with_age = pd.DataFrame({"subject": ["s3"], "age": [61.0]})


def columns(folder, **sites):
    Path(folder).mkdir()
    for name, table in sites.items():
        table.to_parquet(f"{folder}/{name}.parquet")
    found = list(pd.read_parquet(folder).columns)
    assert found == ds.dataset(folder).schema.names, "pandas and pyarrow differ"
    return found


dropped = columns("one", a=without_age, b=with_age)
kept = columns("two", a=with_age, b=without_age)
print("first file without age:", dropped, "; first file with age:", kept)
assert kept == ["subject", "age"], kept
assert dropped == ["subject"], "changed: the column of the later file is read, too"
PYTHON
