"""Codes with closed-form disentanglement scores: controls for metrics that compare code groups with factor groups.

Each code is built from base variables that are exactly uncorrelated and of variance 1 in the sample, so that second
moments are those of the population and only the leave-one-out correction, of the order D / N, differs. Expected values
are derived from the population by hand: the docstring of each family derives its R2, and `Truth` turns them into scores
with plain formulas, written again here so that they cannot share a mistake with `menvae.statistics.disentanglement`.

Notation: factors v of variance 1, code groups z; r is a correlation, c and s are cosine and sine of an angle.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = Sequence[Sequence[float]]

NUM_ROWS = 4096
"""Subjects of each code: enough for an error below 0.01."""

_RESOLUTION_SQR = 0.01


@dataclass(frozen=True)
class Truth:
    """Population values of a code of S code groups and G factor groups.

    Attributes:
        semipartial: R2 [S][G][factors of the group] of the part of a factor that the own group of s does not explain.
        joint: R2 [G][factors of the group] from the whole code, linear.
        shares: share [S][G] of the factor-driven part of z_s that factor group g determines.
        occupied: directions of z_s that depend on factors [S].
        quadratic: as ``joint``, with squares and products; None: the same.
        tie: difference below which shares count as equal.
    """

    semipartial: Sequence[Table]
    joint: Table
    shares: Table
    occupied: Sequence[float]
    quadratic: Table | None = None
    tie: float = 1e-6

    def scores(self) -> dict[str, float]:
        """Return every score by its name."""
        num_groups = len(self.joint)
        importance = [[_mean(cell) for cell in row] for row in self.semipartial]
        known = [[_mean([_information(value) for value in cell]) for cell in row] for row in self.semipartial]
        linear = [_mean(cell) for cell in self.joint]
        best = linear if self.quadratic is None else [_mean(cell) for cell in self.quadratic]
        num_factors, directions = sum(len(cell) for cell in self.joint), sum(self.occupied)
        robust = sum(size * max(row) for size, row in zip(self.occupied, self.shares, strict=True))
        return {
            "dci_disentanglement": _weighted(importance, _ordered),
            "dci_completeness": _mean([_ordered(column, num_groups) for column in zip(*importance, strict=True)]),
            "dci_informativeness": _mean(linear),
            "dci_explicitness": _mean([a / b if b else 0.0 for a, b in zip(linear, best, strict=True)]),
            "dci_size": min(1.0, num_factors / directions) if directions else 0.0,
            "mig": _mean([_gap(column) for column in zip(*known, strict=True)]),
            "sap": _mean([_gap(column) for column in zip(*importance, strict=True)]),
            "infomec_modularity": _weighted(known, _dominant),
            "infomec_explicitness": _mean([_mean([_information(value) for value in cell]) for cell in self.joint]),
            "infomec_compactness": _mean([_dominant(column, num_groups) for column in zip(*known, strict=True)]),
            "irs": robust / directions if directions else 0.0,
            "factor_vae": self._votes() / num_groups,
            "beta_vae": self._different() / num_groups,
        }

    def _different(self) -> int:
        """Number of factor groups that affect code groups differently; who equals an equal is equal."""
        classes: list[list[tuple[float, ...]]] = []
        for point in zip(*self.shares, strict=True):
            equal = [some for some in classes if any(_distance(point, other) <= self.tie for other in some)]
            joined = [point, *(other for some in equal for other in some)]
            classes = [joined, *(some for some in classes if some not in equal)]
        return len(classes)

    def _votes(self) -> float:
        """Sum over code groups of the votes of the factor group that votes most for it."""
        votes = []
        for of_group in zip(*self.shares, strict=True):
            best = max(of_group)
            ties = [value > 0 and value >= best - self.tie for value in of_group]
            votes.append([float(tie) / max(1, sum(ties)) for tie in ties])
        best_of_codes: list[float] = [max(of_code) for of_code in zip(*votes, strict=True)]
        return max(1.0, sum(best_of_codes))


@dataclass(frozen=True)
class Code:
    """A code, the factors behind it, and what each score must be.

    Attributes:
        name: unique name.
        codes: S code groups [N, D_s].
        factors: G factor groups [N, F_g].
        expected: score -> closed-form value.
    """

    name: str
    codes: tuple[Floats, ...] = field(repr=False)
    factors: tuple[Floats, ...] = field(repr=False)
    expected: Mapping[str, float]

    def __str__(self) -> str:
        return self.name


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def _information(r2: float) -> float:
    """Normalised information at a resolution of a tenth of a standard deviation: ln(1 - R2/1.01) / ln(0.01/1.01)."""
    e = _RESOLUTION_SQR
    return math.log(1 - r2 / (1 + e)) / math.log(e / (1 + e))


def _gap(values: Sequence[float]) -> float:
    first, second = sorted((*values, 0.0), reverse=True)[:2]
    return first - second


def _ordered(values: Sequence[float], num_groups: int) -> float:
    """1 - entropy to the base of the number of factor groups, at least 0."""
    total = sum(values)
    if not total:
        return 0.0
    return max(0.0, 1 + sum(x / total * math.log(x / total, num_groups) for x in values if x > 0))


def _dominant(values: Sequence[float], num_groups: int) -> float:
    total = sum(values)
    return max(0.0, (max(values) / total * num_groups - 1) / (num_groups - 1)) if total else 0.0


def _weighted(rows: Table, score: Callable[[Sequence[float], int], float]) -> float:
    total = sum(map(sum, rows))
    return sum(sum(row) * score(row, len(row)) for row in rows) / total if total else 0.0


def _ideal(sizes: Sequence[int], num_silent: int = 0, r2: float = 1.0, shares: Table | None = None) -> Truth:
    """Code group g determines factor group g with a given R2 per factor; further code groups depend on nothing."""
    each = range(len(sizes))
    matrix = [[[r2 * (s == g)] * sizes[g] for g in each] for s in range(len(sizes) + num_silent)]
    own = shares or [[float(s == g) for g in each] for s in each]
    return Truth(
        matrix,
        [[r2] * size for size in sizes],
        [*own, *[[0.0] * len(sizes)] * num_silent],
        [r2 * size for size in sizes] + [0.0] * num_silent,
    )


@functools.cache
def base(num_columns: int) -> Floats:
    """Return Gaussian variables [N, K], uncorrelated and of mean 0 and variance 1 in the sample."""
    return _exact(np.random.default_rng(num_columns).normal(size=(NUM_ROWS, num_columns)))


def _exact(columns: Floats) -> Floats:
    """Orthonormalise columns from left to right, each with its sign kept."""
    left, right = np.linalg.qr(columns - columns.mean(axis=0))
    return np.asarray(left * np.sign(np.diag(right)) * math.sqrt(len(columns)), dtype=np.float64)


def _blocks(columns: Floats, sizes: Sequence[int]) -> list[Floats]:
    return np.split(columns[:, : sum(sizes)], np.cumsum(sizes)[:-1], axis=1)


def _rotation(size: int, seed: int) -> Floats:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0], dtype=np.float64)


def _turned(first: Floats, second: Floats, radians: float) -> tuple[Floats, Floats]:
    c, s = math.cos(radians), math.sin(radians)
    return c * first + s * second, c * second - s * first


_SIZES = ((1, 1), (1, 1, 1), (2, 2), (2, 1, 3), (1, 1, 1, 1), (3, 3, 3))


def _code(name: str, codes: Sequence[Floats], factors: Sequence[Floats], truth: Truth) -> Code:
    return Code(name, tuple(codes), tuple(factors), truth.scores())


def _named(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def identity() -> Iterator[Code]:
    """z_g = v_g of independent groups: every score is 1."""
    for sizes in _SIZES:
        v = _blocks(base(9), sizes)
        yield _code(f"identity-{_named(sizes)}", v, v, _ideal(sizes))


def noise() -> Iterator[Code]:
    """Codes independent of all factors: every R2 and share is 0, so scores are 0, or 1/G (chance) for accuracies."""
    for sizes in _SIZES:
        v = _blocks(base(18), sizes)
        z = _blocks(base(18)[:, 9:], sizes)
        yield _code(f"noise-{_named(sizes)}", z, v, _ideal(sizes, r2=0.0, shares=[[0.0] * len(sizes)] * len(sizes)))


def extra_dimensions() -> Iterator[Code]:
    """The identity with dead or noise dimensions, first or last in each code group, and as code groups: still 1."""
    for sizes in ((1, 1), (2, 1, 3)):
        v = _blocks(base(24), sizes)
        for kind in ("dead", "noise"):
            extra = np.full((NUM_ROWS, 4), 2.5) if kind == "dead" else base(24)[:, 10:14]
            others = [extra[:, index % 4 :] for index in range(len(v))]
            first = [np.hstack(pair) for pair in zip(others, v, strict=True)]
            last = [np.hstack(pair) for pair in zip(v, others, strict=True)]
            places = {"first": (first, 0), "last": (last, 0), "group-last": ([*v, extra], 1)}
            for place, (z, num_silent) in places.items():
                yield _code(f"{kind}-{place}-{_named(sizes)}", z, v, _ideal(sizes, num_silent))
            yield replace_code(_code(f"{kind}-group-first-{_named(sizes)}", [*v, extra], v, _ideal(sizes, 1)), -1)


def replace_code(code: Code, shift: int) -> Code:
    """Return a code with its code groups moved by some places; scores do not depend on their order."""
    return Code(code.name, (*code.codes[shift:], *code.codes[:shift]), code.factors, code.expected)


def same_information() -> Iterator[Code]:
    """z_g is an invertible function of v_g, linear, and may repeat dimensions: every score is 1."""
    for sizes in ((2, 2), (2, 1, 3), (3, 3, 3)):
        v, name = _blocks(base(9), sizes), _named(sizes)
        truth = _ideal(sizes)
        yield _code(f"duplicated-{name}", [np.hstack([block, block]) for block in v], v, truth)
        yield _code(f"repeated-{name}", [np.hstack([block, 3 * block, -block[:, :1]]) for block in v], v, truth)
        turned = [block @ _rotation(block.shape[1], 1) for block in v]
        yield _code(f"rotated-{name}", turned, v, truth)
        yield _code(
            f"sheared-{name}", [block @ (np.eye(n) + np.tri(n)) for block, n in zip(v, sizes, strict=True)], v, truth
        )
        yield _code(f"reversed-{name}", [block[:, ::-1] for block in v], v, truth)
        yield replace_code(_code(f"permuted-{name}", v, v, truth), 1)
        yield _code(f"tiny-{name}", [1e-3 * block for block in v], v, truth)
        yield _code(f"unequal-{name}", [block * 10.0 ** np.arange(block.shape[1]) + 50.0 for block in v], v, truth)


def noisy() -> Iterator[Code]:
    """z_g = v_g + n sqrt(q) with v, n independent: R2 = 1 / (1 + q) of each factor, or -ln(1 - R2) / 2 nats.

    Shares are 0 or 1, and T_g = R2 F_g directions are occupied.
    """
    for sizes in ((1, 1), (2, 1, 3)):
        v, n = _blocks(base(18), sizes), _blocks(base(18)[:, 9:], sizes)
        for q in (0.01, 0.1, 0.5, 1.0, 3.0):
            z = [block + math.sqrt(q) * other for block, other in zip(v, n, strict=True)]
            yield _code(f"noisy-{q}-{_named(sizes)}", z, v, _ideal(sizes, r2=1 / (1 + q)))


def correlated(num_factors: int, r: float) -> Floats:
    """Return factors of variance 1 [N, F], any two of correlation r."""
    covariance = np.full((num_factors, num_factors), r) + (1 - r) * np.eye(num_factors)
    return np.asarray(base(12)[:, :num_factors] @ np.linalg.cholesky(covariance).T, dtype=np.float64)


def dependent() -> Iterator[Code]:
    """z_g = v_g of dependent factors, any two of correlation r: every score is 1.

    z_s depends on v_g only through its own v_s, so every semipartial R2 is 0 off the diagonal. Its own factor group
    determines all of z_s, shares_ss = 1, and another one less (`_foreign_shares`). The last two codes are also turned
    within groups, and have noise dimensions, a noise group, other units and another order.
    """
    for r in (-0.4, 0.2, 0.5, 0.8, 0.95):
        for sizes in ((1, 1), (1, 1, 1), (2, 2), (2, 1, 3)):
            if r < 0 and sizes != (1, 1):  # not positive definite
                continue
            v = _blocks(correlated(sum(sizes), r), sizes)
            yield _code(f"dependent-{r}-{_named(sizes)}", v, v, _ideal(sizes, shares=_foreign_shares(sizes, r)))
    for r in (0.3, 0.7):
        v, noise = _blocks(correlated(6, r), (2, 1, 3)), base(12)[:, 6:]
        z = [np.hstack([noise[:, :2], block @ (7.0 * _rotation(block.shape[1], 2)) - 3.0]) for block in v]
        truth = _ideal((2, 1, 3), 1, shares=_foreign_shares((2, 1, 3), r))
        yield replace_code(_code(f"dependent-turned-noise-{r}", [*z, noise[:, 2:]], v, truth), 2)


def _foreign_shares(sizes: Sequence[int], r: float) -> list[list[float]]:
    """Shares of groups of m and n factors, any two of correlation r: only their sums are correlated.

    Var(sum of m factors) = m (1 + (m-1) r), Cov of the sums = m n r. The squared canonical correlation is thus
    m n r^2 / ((1 + (m-1) r) (1 + (n-1) r)), in one of the m directions of z_s.
    """
    return [
        [1.0 if s == g else n * r * r / ((1 + (m - 1) * r) * (1 + (n - 1) * r)) for g, n in enumerate(sizes)]
        for s, m in enumerate(sizes)
    ]


def dependent_noisy() -> Iterator[Code]:
    """z_g = v_g + n sqrt(q), corr(v_1, v_2) = r: semipartial R2 = 1 / (1 + q) of the own factor, 0 of the other.

    From both code groups, R2 of v_1 is k' M^-1 k with k = (1, r) and M = [[1 + q, r], [r, 1 + q]]:
    ((1 + q)(1 + r^2) - 2 r^2) / ((1 + q)^2 - r^2). Factors determine 1 / (1 + q) of z_1 and v_2 alone r^2 / (1 + q).
    """
    for r in (0.5, 0.8):
        for q in (0.1, 1.0):
            v = correlated(2, r)
            z = v + math.sqrt(q) * base(12)[:, 4:6]
            own = 1 / (1 + q)
            joint = ((1 + q) * (1 + r**2) - 2 * r**2) / ((1 + q) ** 2 - r**2)
            truth = Truth([[[own], [0.0]], [[0.0], [own]]], [[joint], [joint]], [[1.0, r**2], [r**2, 1.0]], [own, own])
            yield _code(f"dependent-noisy-{r}-{q}", _blocks(z, (1, 1)), _blocks(v, (1, 1)), truth)


def turned_across() -> Iterator[Code]:
    """z_1 = c v_1 + s v_2, z_2 = c v_2 - s v_1: R2 is c^2 on the diagonal and s^2 off it, shares are the same.

    The same holds for groups of several factors that are turned pair by pair.
    """
    for sizes in ((1, 1), (3, 3)):
        v = _blocks(base(9), sizes)
        for degrees in (10, 20, 30, 40, 45):
            c, s = math.cos(math.radians(degrees)) ** 2, math.sin(math.radians(degrees)) ** 2
            if degrees == 45:
                c = s = 0.5
            num = sizes[0]
            cells = [[[c] * num, [s] * num], [[s] * num, [c] * num]]
            truth = Truth(cells, [[1.0] * num] * 2, [[c, s], [s, c]], [num, num])
            yield _code(f"turned-{degrees}-{_named(sizes)}", _turned(v[0], v[1], math.radians(degrees)), v, truth)


def mixed() -> Iterator[Code]:
    """z_1 = v_1 + b v_2 and z_2 = v_2, corr(v_1, v_2) = r, |b| < 1.

    Var(z_1) = D = 1 + b^2 + 2br, so R2(v_1 | z_1) = (1 + br)^2 / D. The part of v_2 that v_1 does not explain,
    u = v_2 - r v_1, has Cov(u, z_1) = b (1 - r^2), which gives the semipartial R2 b^2 (1 - r^2)^2 / D; with v_2 as own
    factor it would be (1 - r^2)^2 / D, more, so v_1 is the own one. Shares of z_1 are (1 + br)^2 / D and
    (b + r)^2 / D, of z_2 they are r^2 and 1. All is determined.
    """
    for r in (0.0, 0.5, 0.8):
        for b in (-0.3, 0.3, 0.6):
            v = correlated(2, r)
            size = 1 + b * b + 2 * b * r
            z = [v[:, :1] + b * v[:, 1:], v[:, 1:]]
            truth = Truth(
                [[[(1 + b * r) ** 2 / size], [(b * (1 - r * r)) ** 2 / size]], [[0.0], [1.0]]],
                [[1.0], [1.0]],
                [[(1 + b * r) ** 2 / size, (b + r) ** 2 / size], [r * r, 1.0]],
                [1.0, 1.0],
            )
            yield _code(f"mixed-{b}-{r}", z, _blocks(v, (1, 1)), truth)


def merged() -> Iterator[Code]:
    """z_1 = (v_1, v_2), z_2 is noise, corr(v_1, v_2) = r: R2 is 1 of the own factor and 1 - r^2 of the other.

    z_1 has two directions, and v_1, of one dimension, determines one of them, as does v_2: shares are 1/2 for every r.
    """
    for r in (0.0, 0.3, 0.6):
        v = correlated(2, r)
        truth = Truth([[[1.0], [1 - r * r]], [[0.0], [0.0]]], [[1.0], [1.0]], [[0.5, 0.5], [0.0, 0.0]], [2.0, 0.0])
        yield _code(f"merged-{r}", [v, base(12)[:, 6:8]], _blocks(v, (1, 1)), truth)


def spread() -> Iterator[Code]:
    """Factor groups that several code groups share, independent factors.

    copied: a further code group equals v_1, so that it is said twice. split: z_1 and z_3 have half of the factors of
    group 1 each, R2 1 and 0. half: z_1 has one of the two factors of group 1, the other is missing.
    several-copies: every code group repeats v_1, none says v_2.
    """
    b = base(12)
    one, two = b[:, :1], b[:, 1:2]
    yield _code(
        "copied",
        [one, two, 2 * one],
        [one, two],
        Truth([[[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [0.0]]], [[1.0], [1.0]], [[1, 0], [0, 1], [1, 0]], [1, 1, 1]),
    )
    pair = b[:, :2]
    third = b[:, 2:3]
    yield _code(
        "split",
        [one, third, two],
        [pair, third],
        Truth(
            [[[1.0, 0.0], [0.0]], [[0.0, 0.0], [1.0]], [[0.0, 1.0], [0.0]]],
            [[1.0, 1.0], [1.0]],
            [[1, 0], [0, 1], [1, 0]],
            [1, 1, 1],
        ),
    )
    yield _code(
        "half",
        [one, third],
        [pair, third],
        Truth([[[1.0, 0.0], [0.0]], [[0.0, 0.0], [1.0]]], [[1.0, 0.0], [1.0]], [[1, 0], [0, 1]], [1, 1]),
    )
    yield _code(
        "several-copies",
        [one, one, -one],
        [one, two],
        Truth([[[1.0], [0.0]]] * 3, [[1.0], [0.0]], [[1.0, 0.0]] * 3, [1, 1, 1]),
    )


def leaks() -> Iterator[Code]:
    """v_1 = z_1 and v_2 = z_2, and z_3 = c n + s v_1 of noise n leaks v_1: R2 = s^2, one more direction of size s^2."""
    b = base(12)
    v = _blocks(b, (1, 1))
    for s2 in (0.1, 0.3, 0.7):
        leak = math.sqrt(1 - s2) * b[:, 5:6] + math.sqrt(s2) * v[0]
        truth = Truth(
            [[[1.0], [0.0]], [[0.0], [1.0]], [[s2], [0.0]]], [[1.0], [1.0]], [[1, 0], [0, 1], [1, 0]], [1, 1, s2]
        )
        yield _code(f"leak-{s2}", [*v, leak], v, truth)


def non_linear() -> Iterator[Code]:
    """Factors of which a linear probe reads a part.

    quadratic: v_1 = c z + s (z^2 - 1) / sqrt 2 (second Hermite polynomial, uncorrelated with z, variance 1): linear R2
    c^2, quadratic 1, z_1 = z and z_2 = v_2. v_1 determines c^2 of z: T_1 = c^2, all through v_1.
    cube, square: v_1 uniform on (-1, 1), z_1 = v_1^3 or v_1 |v_1|. R2 = E[vz]^2 / (E[v^2] E[z^2]) =
    (1/5)^2 / (1/3 1/7) = 21/25, and (1/4)^2 / (1/3 1/5) = 15/16; z^2 is even in v and adds nothing.
    """
    raw = base(12)
    hermite = _exact(np.column_stack([raw[:, 0], np.square(raw[:, 0]), raw[:, 1]]))
    z, square, other = (hermite[:, [index]] for index in range(3))
    for degrees in (20, 45, 70):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        truth = _only_first(c * c, quadratic=1.0)
        yield _code(f"quadratic-{degrees}", [z, other], [c * z + s * square, other], truth)
    uniform = (np.arange(NUM_ROWS) + 0.5) / NUM_ROWS * 2 - 1
    uniform = np.random.default_rng(0).permutation(uniform)[:, None]
    for name, code, r2 in (("cube", uniform**3, 21 / 25), ("square", uniform * np.abs(uniform), 15 / 16)):
        columns = np.hstack([uniform, code, raw[:, :1]])
        yield _code(f"{name}", [code, _exact(columns)[:, 2:]], [uniform, _exact(columns)[:, 2:]], _only_first(r2))


def _only_first(r2: float, quadratic: float | None = None) -> Truth:
    """R2 of the first factor group from the first code group; the second is ideal."""
    best = None if quadratic is None else [[quadratic], [1.0]]
    return Truth([[[r2], [0.0]], [[0.0], [1.0]]], [[r2], [1.0]], [[1, 0], [0, 1]], [r2, 1], best)


FAMILIES: tuple[Callable[[], Iterator[Code]], ...] = (
    identity,
    noise,
    extra_dimensions,
    same_information,
    noisy,
    dependent,
    dependent_noisy,
    turned_across,
    mixed,
    merged,
    spread,
    leaks,
    non_linear,
)
"""Families of codes; the docstring of each derives its values."""


@functools.cache
def codes() -> tuple[Code, ...]:
    """Return all codes."""
    return tuple(code for family in FAMILIES for code in family())
