#!/usr/bin/env bash
# hydra-core 1.3.8 and hydra-submitit-launcher 1.2.0, an application that replaces Hydra's source of configuration files
#
# Behaviour: Hydra's registry of config sources compares classes by their bare name. A job of the submitit launcher
#   restores the registry of the process that launched it, and then registers all plugins again. So a subclass of
#   FileConfigSource that replaces it, as the registry allows in one process, makes every job fail, "file is already
#   registered with a different class", unless it is called FileConfigSource, too.
# Expected: a registry that is restored is not filled again; or classes are compared, and neither name is accepted.
# Seen: launched here: fine; in a job, called MyFiles: ValueError; the same class called FileConfigSource: fine
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 hydra-submitit-launcher==1.2.0 submitit==1.5.4 setuptools==80.9.0
cd "$folder"
mkdir conf
echo "a: 1" > conf/config.yaml
cat > application.py <<'PYTHON'
import sys

import hydra
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins


class MyFiles(FileConfigSource):
    """Reads files in another way."""


if "same_name" in sys.argv:
    sys.argv.remove("same_name")
    MyFiles.__name__ = FileConfigSource.__name__


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    print("a is", config.a)


if __name__ == "__main__":
    Plugins.instance()
    SourcesRegistry.instance().types["file"] = MyFiles
    main()
PYTHON
"$folder/venv/bin/python" application.py -m a=1 > here.txt
"$folder/venv/bin/python" application.py -m a=1 hydra/launcher=submitit_local > job.txt 2>&1 && failed=no || failed=yes
"$folder/venv/bin/python" application.py same_name -m a=1 hydra/launcher=submitit_local > named.txt 2>&1 && fine=yes || fine=no
grep -q "a is 1" here.txt
reason=$(grep -o "file is already registered with a different class" job.txt | head -1 || true)
echo "in a job, called MyFiles: failed=$failed, $reason; called FileConfigSource: fine=$fine"
[ "$failed" = yes ] && [ -n "$reason" ] && [ "$fine" = yes ] || { echo "changed"; tail -5 job.txt named.txt; exit 1; }
