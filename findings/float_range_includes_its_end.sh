#!/usr/bin/env bash
# hydra-core 1.3.8, range(start, stop, step) of floating-point numbers in a sweep
#
# Behaviour: range(0,0.8,0.1) ends with 0.8 itself, range(0,0.7,0.1) with 0.6, range(0,0.9,0.3) with
#   0.8999999999999999. The step is added up in decimal.Decimal, but from the binary value of the float, so that the
#   sum can stay below stop and then be rounded to it.
# Expected: "r[i] = start + step*i where i >= 0 and r[i] < stop", as the docstring of range says: no point is stop. A
#   grid has one point more than was asked for, or not, depending on the digits.
# Seen: range(0,0.8,0.1): 0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7000000000000001 0.8
#   range(0,0.7,0.1): 0.0 0.1 0.2 0.3 0.4 0.5 0.6
#   range(0,0.9,0.3): 0.0 0.3 0.6 0.8999999999999999
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1
cat >"$folder/app.py" <<'PYTHON'
import hydra
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(name="config", node={"x": 1})


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def app(config):
    print("x:", repr(config.x))


app()
PYTHON
cd "$folder"
points() { "$folder/venv/bin/python" app.py --multirun "x=$1" | sed -n 's/^x: //p' | paste -sd ' '; }
check() {
  local found
  found=$(points "$1")
  echo "$1: $found"
  [ "$found" = "$2" ] || { echo "changed: $1"; exit 1; }
}
check "range(0,0.8,0.1)" "0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7000000000000001 0.8"
check "range(0,0.7,0.1)" "0.0 0.1 0.2 0.3 0.4 0.5 0.6"
check "range(0,0.9,0.3)" "0.0 0.3 0.6 0.8999999999999999"
