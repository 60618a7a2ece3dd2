"""Wrong lines that tests once let pass, put in one by one: each must turn a test red (`make wrong-lines`).

A line is looked for as it stands in the source. Where it is not found exactly once the code has changed, and the table
below with it. Tests run in a copy of the project, first as it is, then with each wrong line.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("conf", "launchers", "menvae", "pyproject.toml", "tests")


@dataclass(frozen=True)
class WrongLine:
    """A line of a file and what it is replaced with.

    Attributes:
        what: it does wrong.
        file: below the root.
        right: as it stands there, once.
        wrong: instead.
        tests: file of tests, or one test, that must fail.
    """

    what: str
    file: str
    right: str
    wrong: str
    tests: str


WRONG_LINES = (
    WrongLine(
        "R2 of subjects without the target too",
        "menvae/metrics/r2.py",
        "rows = observed[partition][:, column] > 0",
        "rows = slice(None)",
        "tests/evaluation/test_regression.py",
    ),
    WrongLine(
        "R2 of a partition is that of its best feature",
        "menvae/metrics/r2.py",
        'metrics[f"sem/{partition}_r2"] = float(np.mean(values)) if values else None',
        'metrics[f"sem/{partition}_r2"] = float(np.max(values)) if values else None',
        "tests/evaluation/test_regression.py",
    ),
    WrongLine(
        "constants of SSIM ten times too large",
        "menvae/metrics/ssim.py",
        "c1, c2 = (0.01 * span).square(), (0.03 * span).square()",
        "c1, c2 = (0.1 * span).square(), (0.3 * span).square()",
        "tests/evaluation/test_similarity.py",
    ),
    WrongLine(
        "PSNR doubled",
        "menvae/metrics/psnr.py",
        "return 10.0 * torch.log10(",
        "return 20.0 * torch.log10(",
        "tests/evaluation/test_similarity.py",
    ),
    WrongLine(
        "leak matrix fitted on the validation split",
        "menvae/evaluation/regression.py",
        ".fit(train[partition][seen], train_targets[name][seen])",
        ".fit(val[partition][scored], val_targets[name][scored])",
        "tests/evaluation/test_regression.py",
    ),
    WrongLine(
        "correlation of a partition with itself",
        "menvae/metrics/correlation.py",
        "correlation[slice(*layout.bounds(a)), slice(*layout.bounds(b))]",
        "correlation[slice(*layout.bounds(a)), slice(*layout.bounds(a))]",
        "tests/evaluation/test_independence.py",
    ),
    WrongLine(
        "distance correlation without its root",
        "menvae/metrics/dcor.py",
        "dcor = signed_root(u_distance_correlations_sqr([blocks[name] for name in names])).numpy()",
        "dcor = u_distance_correlations_sqr([blocks[name] for name in names]).numpy()",
        "tests/evaluation/test_independence.py",
    ),
    WrongLine(
        "any unit that varies is active",
        "menvae/metrics/posterior.py",
        "ACTIVE_VARIANCE = 0.01",
        "ACTIVE_VARIANCE = 1e-300",
        "tests/evaluation/test_latent_use.py",
    ),
    WrongLine(
        "physical units are z-scores",
        "menvae/evaluation/final.py",
        "normalizer.to_physical({name: float(values[row]) for name, values in columns.items()})",
        "{name: float(values[row]) for name, values in columns.items()}",
        "tests/evaluation/test_regression.py",
    ),
    WrongLine(
        "traversals that reach 10 standard deviations",
        "menvae/evaluation/final.py",
        "TRAVERSAL_STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)",
        "TRAVERSAL_STEPS = (-10.0, -2.0, -1.0, 0.0, 1.0, 2.0, 10.0)",
        "tests/evaluation/test_latent_use.py",
    ),
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        already_red = failures(copy, sorted({line.tests for line in WRONG_LINES}))
        if already_red:
            sys.exit("these tests fail without a wrong line:\n" + "\n".join(already_red))
        wanting = [line.what for line in WRONG_LINES if not killed(line, copy)]
    print(f"{len(WRONG_LINES) - len(wanting)} of {len(WRONG_LINES)} wrong lines turn a test red")
    return int(bool(wanting))


def killed(line: WrongLine, copy: Path) -> bool:
    """Put the line in, run its tests, print what they say, and take it out again."""
    path = copy / line.file
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = source.count(line.right)
    if found != 1:
        print(f"{line.what:<50}NOT PUT IN: {line.file} has {found} times {line.right}", flush=True)
        return False
    path.write_text(source.replace(line.right, line.wrong), encoding="utf-8")
    red = failures(copy, [line.tests])
    path.write_text(source, encoding="utf-8")
    verdict = f"killed by {len(red)}: {red[0].rpartition('::')[2]}" if red else f"SURVIVED {line.tests}"
    print(f"{line.what:<50}{verdict}", flush=True)
    return bool(red)


def failures(copy: Path, tests: list[str]) -> list[str]:
    """Return the ids of the tests that fail in the copy."""
    environment = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'launchers'}", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "--tb=no", "--no-header", "-rfE", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests], cwd=copy, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    red = [words[1] for line in lines if (words := line.split())[:1] in (["FAILED"], ["ERROR"])]
    if bool(red) != bool(done.returncode):  # no test, or a file that cannot be imported
        sys.exit(f"pytest {' '.join(tests)} ends with {done.returncode}:\n{done.stdout}{done.stderr}")
    return red


if __name__ == "__main__":
    sys.exit(main())
