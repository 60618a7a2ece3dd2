"""What benchmarks of variants share: taking turns in one run, medians, ratios, claims that hold or fail."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

Claim = tuple[str, bool]
"""In words what is claimed, and whether it holds."""


def cpu_ms(function: Callable[[], object], calls: int = 1) -> float:
    """Process-CPU time of a call, averaged over ``calls`` of them."""
    started = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - started) * 1000.0 / calls


def take_turns(
    variants: Mapping[str, Callable[[], object]], repeats: int, calls: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Return {variant: milliseconds of a call in each repeat}; all variants run once before they are measured."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for function in variants.values():
        function()
    for repeat in range(repeats):
        for name, function in variants.items():
            found[name].append(cpu_ms(function, (calls or {}).get(name, 1)))
        print(f"repeat {repeat + 1}/{repeats}", file=sys.stderr, flush=True)
    return found


def show(found: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """Print median, ratio and range of every variant, and return {variant: its median over that of the reference}."""
    base = statistics.median(found[reference])
    ratios = {name: statistics.median(values) / base for name, values in found.items()}
    width = max(len(name) for name in found) + 2
    for name, values in found.items():
        print(f"{name:<{width}}{statistics.median(values):9.3f} ms", end="")
        print(f"  (x {ratios[name]:.2f}; {min(values):.3f} to {max(values):.3f})")
    return ratios


def at_least(name: str, ratio: float, goal: float) -> Claim:
    """Return the claim that a ratio reaches its goal."""
    return f"{name}: {ratio:.4g} (goal at least {goal:g})", ratio >= goal


def at_most(name: str, ratio: float, goal: float) -> Claim:
    """Return the claim that a ratio does not exceed its goal."""
    return f"{name}: {ratio:.4g} (goal at most {goal:g})", ratio <= goal


def noted(name: str, ratio: float) -> None:
    """Print a ratio that has no goal, in the form of `judged`."""
    print(f"{'noted':<6} {name}: {ratio:.4g} (no goal)", flush=True)


def judged(claims: Sequence[Claim]) -> int:
    """Print the claims and return an exit status: 0 if all hold."""
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1
