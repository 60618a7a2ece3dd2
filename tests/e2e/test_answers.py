"""A finished run is answered from its records: without torch, without data, and also without a cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import runs

HEAVY = ("torch", "mlflow", "monai", "numpy", "pandas", "scipy", "matplotlib", "nibabel", "sklearn")
PROGRAM = f"""
import json, sys
from menvae.apps.train import main
try:
    main()
finally:
    print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""
SHORT = ("trainer.max_epochs=1",)


def answered(output_dir: Path, *overrides: str, code: int = 0) -> tuple[str, str, list[str]]:
    """Return output, messages and heavy imports of ``menvae-train`` in a fresh process."""
    arguments = runs.command(output_dir, *SHORT, *overrides)[3:]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, **runs.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    *messages, heavy = done.stderr.splitlines()
    return done.stdout, "\n".join(line.partition(" ")[2] for line in messages), json.loads(heavy)


def test_finished_run(tmp_path: Path) -> None:
    first, _, heavy = answered(tmp_path)  # trains
    assert "torch" in heavy
    run = runs.only_run(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    again, messages, heavy = answered(tmp_path)
    assert heavy == []
    assert again == first
    assert messages == f"run {run} is already finished: nothing to train\nreport: {run}/report.html"

    shutil.rmtree(tmp_path / "cache")
    assert answered(tmp_path) == (again, messages, [])
    assert not (tmp_path / "cache").exists(), "nothing is prepared"
    assert answered(tmp_path, "gates.strict=true", code=3) == (again, messages, [])
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == files

    shutil.rmtree(tmp_path / ".answers")  # as after a run of an earlier version
    slow, messages_of_slow, heavy = answered(tmp_path)
    assert "torch" in heavy
    assert slow == again
    assert messages_of_slow.endswith(messages)
    assert answered(tmp_path) == (again, messages, []), "which left a record"


def test_another_table_is_another_run(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    rows = [f"{i % 7},{i % 5},{(i * i) % 11},{i % 3}" for i in range(60)]
    table.write_text("\n".join(["a,b,c,d", *rows]) + "\n")
    wanted = [
        *("experiment=lithology_vae", "data=table", f"data.path={table}", "data.columns=[a,b,c,d]"),
        *("trainer.max_epochs=1", "trainer.batch_size=16", "tracking.enabled=false", f"output_dir={tmp_path}"),
    ]

    def trained() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *wanted],
            env={**os.environ, **runs.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        heavy: list[str] = json.loads(done.stderr.splitlines()[-1])
        return heavy

    assert "torch" in trained()
    assert trained() == []
    content = table.read_text()
    table.write_text(content.replace("0,0,0,0", "0,0,0,1"))
    assert "torch" in trained()
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert trained() == []
    os.utime(table)  # the same content: the data are opened to see it, and the run is found
    assert "torch" in trained()
    assert len(list((tmp_path / "runs").iterdir())) == 2
