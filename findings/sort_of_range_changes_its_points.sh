#!/usr/bin/env bash
# hydra-core 1.3.8, sort() of a range() in a sweep
#
# Behaviour: sort(range(0,10,3),reverse=true) is 7, 4, 1, -2 while range(0,10,3) is 0, 3, 6, 9; sort(range(10,0,-3))
#   is 3, 6, 9, 12. The ends of the range are exchanged, which is right only if a whole number of steps leads to stop.
# Expected: sort() changes the order of points and nothing else: 9, 6, 3, 0 and 1, 4, 7, 10. The grid that is trained
#   holds none of the points that were asked for, one of them outside the range, and looks like a plausible grid.
# Seen: range(0,10,3): 0 3 6 9; sort(range(0,10,3),reverse=true): 7 4 1 -2; sort(range(10,0,-3)): 3 6 9 12
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
check "range(0,10,3)" "0 3 6 9"
check "sort(range(0,10,3),reverse=true)" "7 4 1 -2"
check "sort(range(10,0,-3))" "3 6 9 12"
check "sort(range(0,10,2),reverse=true)" "8 6 4 2 0"
check "sort(0,3,6,9,reverse=true)" "9 6 3 0"
