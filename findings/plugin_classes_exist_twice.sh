#!/usr/bin/env bash
# hydra-core 1.3.8, discovery of plugins in the namespace package hydra_plugins
#
# Behaviour: discovery executes the modules of plugins itself, and a later import of the same module by other code runs
#   it again. Every class of a plugin module then exists twice under one qualified name: isinstance of the object that
#   Hydra made against the imported class is False.
# Expected: one module object per name, as sys.modules keeps it for every other import. A sweeper that recognises its own
#   launcher by its class never does, and silently takes the branch for foreign launchers.
# Seen: launcher: hydra_plugins.example.launcher.ExampleLauncher; isinstance: False
# In menvae: a sweeper imports the class of the launcher that it recognises inside a function, after discovery, and tests
#   run the sweepers on real sweeps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8
mkdir -p "$folder/hydra_plugins/example"
touch "$folder/hydra_plugins/example/__init__.py"
cat >"$folder/hydra_plugins/example/launcher.py" <<'PYTHON'
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


class ExampleLauncher(Launcher):
    def setup(self, **_):
        pass

    def launch(self, job_overrides, initial_job_idx):
        return []


@dataclass
class ExampleConf:
    _target_: str = "hydra_plugins.example.launcher.ExampleLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="example", node=ExampleConf)
PYTHON
cd "$folder"
PYTHONPATH="$folder" "$folder/venv/bin/python" - <<'PYTHON'
from hydra_plugins.example.launcher import ExampleLauncher  # before discovery, as an application does

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

(found,) = [one for one in Plugins.instance().discover(Launcher) if one.__name__ == "ExampleLauncher"]
launcher = found()
name = f"{found.__module__}.{found.__qualname__}"
print(f"launcher: {name}; isinstance: {isinstance(launcher, ExampleLauncher)}")
assert name == f"{ExampleLauncher.__module__}.{ExampleLauncher.__qualname__}"
assert not isinstance(launcher, ExampleLauncher), "changed: the class exists once"
PYTHON
