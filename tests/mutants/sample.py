"""Mutation score of the code that computes losses and figures: `make mutants`, or with a budget and a seed
`MUTANTS=200 SEED=0 make mutants`; `MUTANTS=all` takes them all (more than an hour).

mutmut writes every mutant of every function that [tool.mutmut] in pyproject.toml names into a copy of the project in
mutants/, finds the tests that call each function, and forks once per mutant. Here a random sample of them is drawn,
because its score is known well enough after a few hundred: the 95 % interval is Wilson's. A mutant that no test calls
counts as a survivor. Afterwards `mutmut browse` shows the mutants; survivors.diff holds the survivors.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "mutants"
CHEAP = "menvae.schedules.constant.*"
"""Running these writes down all mutants, and which tests call what, without running the others."""
SURVIVED = {0: "survived", 5: "no test", 33: "no test"}
"""Exit codes of mutmut; any other is a kill: a failed test, a crash, or a test that does not end."""


def main() -> int:
    budget, seed = os.environ.get("MUTANTS", "200"), int(os.environ.get("SEED", "0"))
    shutil.rmtree(MUTANTS, ignore_errors=True)  # what mutmut knows of tests that have changed since is out of date
    mutmut("run", "--max-children", "1", CHEAP)
    names = sorted(exit_codes())
    drawn = names if budget == "all" else random.Random(seed).sample(names, min(int(budget), len(names)))
    print(f"{len(drawn)} of {len(names)} mutants, seed {seed}: mutants/output.txt says how far they are", flush=True)
    mutmut("run", "--max-children", os.environ.get("TEST_PROCESSES", "2"), *drawn)
    found = exit_codes()
    survivors = [name for name in sorted(drawn) if found[name] in SURVIVED]
    print(table(drawn, set(survivors)))
    diffs = [mutmut("show", name) for name in survivors]
    (MUTANTS / "survivors.diff").write_text("\n".join(diffs), encoding="utf-8")
    print("\n".join(diffs))
    return 0


def mutmut(*arguments: str) -> str:
    """Run mutmut in one thread per process: forks of a process with threads hang."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "launchers")}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    MUTANTS.mkdir(exist_ok=True)
    if arguments[0] == "run":
        with (MUTANTS / "output.txt").open("w", encoding="utf-8") as output:
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit("mutmut failed:\n" + (MUTANTS / "output.txt").read_text(encoding="utf-8")[-4000:])
        return ""
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def exit_codes() -> dict[str, int | None]:
    """Return the exit code of each mutant; None for one that has not run."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(MUTANTS.rglob("*.py.meta"))]
    return {name: code for file in files for name, code in file["exit_code_by_key"].items()}


def table(drawn: list[str], survivors: set[str]) -> str:
    """Return one line per folder and one for all: killed, survived, score and its 95 % interval."""
    killed, survived = Counter[str](), Counter[str]()
    for name in drawn:
        for folder in (name.split(".")[1], "all"):
            (survived if name in survivors else killed)[folder] += 1
    lines = [f"{'folder':<12}{'killed':>8}{'survived':>10}{'score':>8}  95 % interval"]
    for folder in [*sorted({*killed, *survived} - {"all"}), "all"]:
        total = killed[folder] + survived[folder]
        low, high = wilson(killed[folder], total)
        score = killed[folder] / total
        lines.append(f"{folder:<12}{killed[folder]:>8}{survived[folder]:>10}{score:>8.1%}  {low:.1%} to {high:.1%}")
    return "\n".join(lines)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share, weight = successes / total, z**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


if __name__ == "__main__":
    sys.exit(main())
