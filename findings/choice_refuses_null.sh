#!/usr/bin/env bash
# hydra-core 1.3.8, choice() with null in a sweep
#
# Behaviour: x=null,1 sweeps over None and 1, but x=choice(null,1) is a TypeError, and so are sort(null,1),
#   shuffle(null,1) and tag(name,null,1). x=choice(None,1), the nearest that is accepted, sweeps over the text "None"
#   and 1.
# Expected: choice(a,b) is the explicit form of a,b and takes the same values. A sweep with and without a part (a
#   scheduler, a weight, a limit) works until it gets a tag or an order; with None, a text goes where null was meant.
# Seen: null,1: None 1; choice(null,1): refused; choice(None,1): 'None' 1
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
points() {
  if "$folder/venv/bin/python" app.py --multirun "x=$1" >out 2>err; then
    sed -n 's/^x: //p' out | paste -sd ' '
  else
    grep -o "NoneType is incompatible" err || cat err
  fi
}
for sweep in "null,1" "choice(null,1)" "choice(None,1)"; do echo "$sweep: $(points "$sweep")"; done
[ "$(points "null,1")" = "None 1" ] || { echo "changed: null,1"; exit 1; }
for sweep in "choice(null,1)" "sort(null,1)" "shuffle(null,1)" "tag(name,null,1)"; do
  [ "$(points "$sweep")" = "NoneType is incompatible" ] || { echo "changed: $sweep"; exit 1; }
done
[ "$(points "choice(None,1)")" = "'None' 1" ] || { echo "changed: choice(None,1)"; exit 1; }
