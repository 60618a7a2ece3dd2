#!/usr/bin/env bash
# submitit 1.5.4, slurm_exclusive=False and slurm_additional_parameters={"requeue": False}
#
# Behaviour: True becomes an option without a value (--exclusive), False becomes an option with the value "False":
#   "#SBATCH --exclusive=False", "#SBATCH --requeue=False". sbatch (22.05) refuses both, "Invalid --exclusive
#   specification" and "option '--requeue' doesn't allow an argument", so that no job can be submitted.
# Expected: exclusive is typed Optional[Union[bool, str]]: False leaves the option out, as None does. A configuration
#   that turns a flag off for one cluster breaks it; for requeue it takes "no-requeue": True.
# Seen: #SBATCH --exclusive=False and #SBATCH --requeue=False; with True: #SBATCH --exclusive and #SBATCH --requeue
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet submitit==1.5.4
mkdir "$folder/bin" # stand-ins for SLURM: only the script that submitit writes is looked at
for command in srun sbatch; do
  printf '#!/bin/sh\ncp "$1" "%s/submitted"\necho Submitted batch job 1\n' "$folder" >"$folder/bin/$command"
  chmod +x "$folder/bin/$command"
done
cd "$folder"
PATH="$folder/bin:$PATH" "$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import submitit


def written(value):
    executor = submitit.AutoExecutor(folder="logs", cluster="slurm")
    executor.update_parameters(slurm_exclusive=value, slurm_additional_parameters={"requeue": value})
    executor.submit(print)
    lines = Path("submitted").read_text().splitlines()
    return [line for line in lines if line.startswith(("#SBATCH --exclusive", "#SBATCH --requeue"))]


true, false = written(True), written(False)
print("True:", true, "; False:", false)
assert true == ["#SBATCH --exclusive", "#SBATCH --requeue"], true
assert false == ["#SBATCH --exclusive=False", "#SBATCH --requeue=False"], "changed: False is no value any more"
PYTHON
