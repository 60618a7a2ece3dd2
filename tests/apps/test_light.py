"""Help, composing and completion: fast, and without anything heavy."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "monai",
    "mlflow",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "nibabel",
    "skimage",
    "pydantic",
    "rich",
)
PROGRAM = f"""
import importlib, json, sys
application = importlib.import_module("menvae.apps." + sys.argv.pop(1))
try:
    application.main()
finally:
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "arguments", "environment", "expected"),
    [
        ("train", ["--help"], {}, "menvae-train -m seed=1..3"),
        ("train", ["--cfg", "job"], {}, "max_epochs: 15"),
        ("train", ["--cfg", "job", "experiment=semivae_run6", "model.z_dim=64"], {}, "z_dim: 64"),
        ("train", ["--info", "defaults-tree"], {}, "experiment"),
        ("train", ["-sc", "query=bash"], {"COMP_LINE": "menvae-train encoder=", "COMP_POINT": "21"}, "encoder=resnet"),
        ("train", ["-sc", "query=bash"], {"COMP_LINE": "menvae-train model.z", "COMP_POINT": "20"}, "model.z_dim="),
        ("compare", ["--help"], {}, "menvae-compare sort=max_dcor"),
        ("compare", ["--cfg", "job"], {}, "html: ${output_dir}/comparison/index.html"),
        ("sweep", ["--help"], {}, "menvae-sweep plan"),
        ("parts", ["--help"], {}, "menvae-parts"),
        ("encode", ["--help"], {}, "menvae-encode run="),
        ("evaluate", ["--help"], {}, "menvae-evaluate run="),
        ("encode", ["--cfg", "job", "run=a", "data.root=b"], {}, "root: b"),
        ("grow", ["--help"], {}, "menvae-grow source=table source.path="),
        ("grow", ["--cfg", "job", "source=run", "run=a", "data.root=b"], {}, "root: b"),
        ("encode", ["-sc", "query=bash"], {"COMP_LINE": "menvae-encode over", "COMP_POINT": "18"}, "overwrite="),
        ("bench", ["--help"], {}, "menvae-bench sizes=[32]"),
        ("plan_resources", ["--help"], {}, "menvae-plan-resources memory_gb=16 hours=8"),
        ("plan_resources", ["--cfg", "job", "trainer.batch_size=4"], {}, "memory_gb: null"),
        ("prepare", ["--help"], {}, "menvae-prepare data=brats data.root="),
        ("prepare", ["--cfg", "job"], {}, "thumbnails: 60"),
        ("prepare", ["-sc", "query=bash"], {"COMP_LINE": "menvae-prepare data=", "COMP_POINT": "20"}, "data=brats"),
        ("compare", ["-sc", "query=bash"], {"COMP_LINE": "menvae-compare base", "COMP_POINT": "19"}, "baseline="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_imports_nothing_heavy_and_answers_fast(
    tmp_path: Path, command: str, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command, *arguments],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    print(f"menvae-{command} {' '.join(arguments)}: {seconds:.2f} s")
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == []
    assert seconds < 3.0 * (1.0 + os.getloadavg()[0] / (os.cpu_count() or 1)), "3 s on an idle core"
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (
            "train",
            ["Examples", "data=brats data.root=", "--cfg job", "report.html", "mlflow ui", "decoder:", "Exit codes"],
        ),
        (
            "compare",
            [
                *("Examples", "index.html", "Exit codes", "output_dir", "tracking.uri", "tracking.experiment", "html"),
                *("sweep", "ignore", "front", "baseline", "sort"),
            ],
        ),
        (
            "prepare",
            [
                *("Examples", "quality.html", "quality.csv", "targets.csv", "Exit codes", "data.on_error=skip"),
                *("output_dir", "num_workers", "thumbnails", "targets.*"),
            ],
        ),
        (
            "encode",
            [
                *("Examples", "Parquet", "Exit codes", "fusion=concatenate", "fusion=ensemble", "data.root="),
                *("split", "checkpoint", "draws, seed", "output, overwrite", "device", "batch_size", "num_workers"),
            ],
        ),
    ],
    ids=["train", "compare", "prepare", "encode"],
)
def test_help_fits_two_screens_and_says_what_a_newcomer_needs(tmp_path: Path, command: str, wanted: list[str]) -> None:
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM, command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert len(text.splitlines()) < 60
    written = [line for line in text.splitlines() if not re.match(r"[\w/]+: ", line)]  # Hydra lists a group on a line
    assert max(map(len, written)) <= 120
    for needed in wanted:
        assert needed in text


@pytest.mark.parametrize(
    "module",
    [
        *("menvae.apps.compare", "menvae.comparison.compare", "menvae.comparison.swept_keys"),
        *("menvae.comparison.page", "menvae.comparison.table", "menvae.comparison.tracked_runs"),
        *("menvae.apps.sweep", "menvae.sweeps.status"),
    ],
)
def test_comparing_and_asking_for_a_status_import_no_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
