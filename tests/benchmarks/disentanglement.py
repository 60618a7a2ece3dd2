"""What public packages say of codes whose disentanglement scores are known, beside menvae and the closed form.

The packages are installed in an environment of their own, .venv-metrics, which is kept. They score dimensions and
single factors, so that codes with groups may differ by definition; the others should agree with the closed form as far
as an estimator from bins or trees can. disent and disentanglement_lib are left out: they need discrete factors.

Then the time that all scores of menvae take for 1,000 subjects x 128 dimensions and for 64, in process-CPU seconds. The
exit status is 1 if menvae is off a closed form by more than 0.02 here, or takes more than 5 s.

    python tests/benchmarks/disentanglement.py
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np

ENVIRONMENT = Path(".venv-metrics")
INSTALLS = (
    ("latentverse==0.3.5", "reliably-metrics==0.1.0", "numba", "pandas", "scikit-learn", "numpy<2.4"),
    ("--no-deps", "--ignore-requires-python", "latte-metrics==0.0.1a6"),  # it allows Python 3.10 at most
)
NUM_ROWS = 1024
MOST_ERROR = 0.02
MOST_SECONDS = 5.0
NAMES = (
    "identity-1x1x1",
    "noise-1x1x1",
    "dead-first-1x1",
    "dead-last-1x1",
    "noise-first-1x1",
    "noise-last-1x1",
    "noise-group-first-2x1x3",
    "duplicated-2x2",
    "rotated-2x2",
    "dependent-0.8-1x1",
    "dependent-0.95-1x1",
    "noisy-1.0-1x1",
    "turned-45-1x1",
    "mixed-0.6-0.0",
    "copied",
    "merged-0.0",
)
SCORES = ("dci_disentanglement", "dci_completeness", "dci_informativeness", "mig", "sap", "irs", "factor_vae")


def latentverse(code: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    """Scores of latentverse."""
    run = importlib.import_module("latentverse").run_disentanglement
    scores = run(code, factors)["metrics"]
    dci = {f"dci_{name.lower()}": value for name, value in scores["DCI"].items()}
    return {**dci, "mig": scores["MIG"], "sap": scores["SAP"]}


def reliably(code: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    """Scores of reliably-metrics."""
    module = importlib.import_module("reliably.repr")
    dci = {f"dci_{name}": value for name, value in module.dci(code, factors, ci=None).extra.items()}
    others = {"mig": "mig", "sap": "sap", "irs": "irs", "factor_vae": "factorvae_metric"}
    return {
        **dci,
        **{name: getattr(module, function)(code, factors, ci=None).value for name, function in others.items()},
    }


def latte(code: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    """Scores of latte-metrics, mean over factors; ``dmig`` is its dependency-aware MIG.

    dmig has to know which dimension belongs to which factor; here the one of the largest correlation does.
    """
    information = importlib.import_module("latte.functional.disentanglement.mutual_info")
    sap = importlib.import_module("latte.functional.disentanglement.sap").sap
    with np.errstate(invalid="ignore"):  # dead dimensions
        correlations = np.nan_to_num(np.corrcoef(code.T, factors.T))[: code.shape[1], code.shape[1] :]
    own = np.abs(correlations).argmax(axis=0).tolist()
    scores = {"mig": information.mig(code, factors), "sap": sap(code, factors)}
    scores["dmig"] = information.dmig(code, factors, reg_dim=own)
    return {name: float(np.mean(values)) for name, values in scores.items()}


PACKAGES = {"latentverse": latentverse, "reliably": reliably, "latte": latte}


def attempted(package: str, code: np.ndarray, factors: np.ndarray) -> dict[str, float | str]:
    """Scores of a package, or its error."""
    try:
        return {name: float(value) for name, value in PACKAGES[package](code, factors).items()}
    except Exception as error:  # noqa: BLE001 - of the package; the others continue
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def score_inside(folder: Path) -> None:
    """Score all codes of a folder with all packages; runs in their environment."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found[path.stem] = {name: attempted(name, arrays["code"], arrays["factors"]) for name in PACKAGES}
    (folder / "scores.json").write_text(json.dumps(found))


def prepared() -> Path:
    """Return the Python of the environment, with the packages installed."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "installed").exists():
        venv.create(ENVIRONMENT, with_pip=True)
        for packages in INSTALLS:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (ENVIRONMENT / "installed").touch()
    return python


def scores_of_menvae(codes: list[np.ndarray], factors: list[np.ndarray]) -> dict[str, float]:
    """All scores of menvae."""
    import menvae.statistics.disentanglement as d

    read, occupied = d.readings(codes, factors), d.occupancies(codes, factors)
    parts = {"dci": d.dci(read), "infomec": d.infomec(read)}
    scores = {f"{name}_{key}": value for name, part in parts.items() for key, value in part._asdict().items()}
    scores |= {f"dci_{key}": value for key, value in d.dci_es(read, occupied)._asdict().items()}
    scores |= {"mig": d.mig(read), "sap": d.sap(read), "irs": d.irs(occupied)}
    return {**scores, "factor_vae": d.factor_vae_score(occupied), "beta_vae": d.beta_vae_score(occupied)}


def compare() -> float:
    """Print all scores of all packages; return menvae's largest error."""
    from menvae.conformance.codes import codes

    chosen = {code.name: code for code in codes() if code.name in NAMES}
    folder = ENVIRONMENT / "codes"
    python = prepared()
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        arrays = {"code": np.hstack(chosen[name].codes), "factors": np.hstack(chosen[name].factors)}
        np.savez(folder / f"{name}.npz", **{key: array[:NUM_ROWS] for key, array in arrays.items()})
    subprocess.run([python, __file__, "--inside", folder], check=True)
    theirs, worst = json.loads((folder / "scores.json").read_text()), 0.0
    print(f"{'code':25}{'score':21}{'closed form':>12}{'menvae':>9}" + "".join(f"{name:>13}" for name in PACKAGES))
    for name in NAMES:
        code = chosen[name]
        ours = scores_of_menvae(list(code.codes), list(code.factors))
        worst = max(worst, *(abs(ours[key] - value) for key, value in code.expected.items()))
        for score in SCORES:
            cells = [found.get(score) for found in theirs[name].values()]
            shown = "".join(f"{'-' if cell is None else f'{cell:.3f}':>13}" for cell in cells)
            print(f"{name:25}{score:21}{code.expected[score]:12.3f}{ours[score]:9.3f}{shown}")
        for package, found in theirs[name].items():
            for key in found.keys() - set(SCORES):  # dmig, or an error
                print(f"{name:25}{package}: {key} {found[key]}")
    return worst


def cpu_seconds(num_rows: int) -> float:
    """Process-CPU seconds of all scores for 128 dimensions in 4 partitions."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(num_rows, size)) for size in (2, 3, 3)]
    codes = [rng.normal(size=(num_rows, size)) for size in (24, 8, 12, 84)]
    for code, block in zip(codes, factors, strict=False):
        code[:, : block.shape[1]] = block + 0.3 * rng.normal(size=block.shape)
    started = time.process_time()
    scores_of_menvae(codes, factors)
    return time.process_time() - started


def main() -> int:
    """Compare and time."""
    worst = compare()
    seconds = {num_rows: cpu_seconds(num_rows) for num_rows in (64, 64, 1000)}
    print(f"\nmenvae: largest error {worst:.4f}; CPU seconds of all scores, 128 dimensions:", end=" ")
    print(", ".join(f"{num_rows} subjects {value:.3f}" for num_rows, value in seconds.items()))
    return int(worst > MOST_ERROR or seconds[1000] > MOST_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        score_inside(Path(sys.argv[2]))
    else:
        sys.exit(main())
