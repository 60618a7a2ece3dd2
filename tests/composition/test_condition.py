"""Conditions on a configuration: their values are those of arithmetic, and nothing else is executed."""

from __future__ import annotations

import pytest

from menvae.composition.condition import Condition
from menvae.errors import UserError

CONFIG = {
    "seed": 3,
    "name": "semivae",
    "flag": False,
    "absent": None,
    "model": {"partitions": {"vol": 16, "shape": 24, "residual": None}, "rate": 1e-3},
    "data": {"roi_size": [32, 64, 96]},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.partitions.vol+model.partitions.shape<=40", True),
        ("model.partitions.vol + model.partitions.shape < 40", False),
        ("model.rate == 0.001 and seed == 3.0", True),
        ("2 * seed - 1 == 10 / 2", True),
        ("-seed < +1", True),
        ("1 < seed <= 3", True),
        ("1 < seed < 3", False),
        ("3 < seed < model.partitions.residual", False),  # nothing after what decides
        ("seed in [1, 2]", False),
        ("seed not in (1, 2)", True),
        ("name == 'semivae' or model.partitions.residual > 1", True),
        ("flag and model.partitions.residual > 1", False),
        ("not flag", True),
        ("flag == false and absent == null and absent != 0", True),
        ("data.roi_size[0] == 32 and data.roi_size[2] == 96", True),
        ("data.roi_size == [32, 64, 96]", True),
        ("model['partitions']['vol'] == 16", True),
        ("'semi' in name", True),
        ("  seed > 1  ", True),
    ],
)
def test_values(text: str, expected: bool) -> None:
    assert Condition(text, "where").holds(CONFIG) is expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed >", "'seed >' cannot be read"),
        ("seed = 3", "cannot be read at character"),
        ("seed > 3; name", "cannot be read"),
        ("", "cannot be read"),
        ("__import__('os').system('true')", "is not allowed"),
        ("seed > abs(3)", r"'abs\(3\)' is not allowed"),
        ("[x for x in name]", "is not allowed"),
        ("lambda: 1", "is not allowed"),
        ("seed if flag else 1", "is not allowed"),
        ("seed ** 9 > 1", r"'seed \*\* 9' is not allowed"),
        ("seed is 3", "is not allowed"),
        ("f'{seed}' == '3'", "is not allowed"),
        ("data.roi_size[0:1]", "is not allowed"),
        ("(seed := 3) > 1", "is not allowed"),
        ("b'a' == name", "is not allowed"),
        ("(" * 500 + "seed" + ")" * 400, "cannot be read"),
        ("-" * 60 + "seed > 1", "is nested too deeply; 50 levels at most"),
        ("seed>1 and " * 100 + "seed>1", "a condition of 1106 characters is not allowed"),
    ],
)
def test_what_is_no_condition(text: str, part: str) -> None:
    with pytest.raises(UserError, match=f"^where: .*{part}.*"):
        Condition(text, "where")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sed > 1", "no such key as sed; did you mean 'seed'?"),
        ("model.partitions.vool > 1", "no such key as model.partitions.vool; did you mean 'vol'?"),
        ("data.roi_size[3] > 1", "no such key as data.roi_size.3"),
        ("seed.x > 1", "no such key as seed.x"),
        ("model == 'semivae'", "model is a section; name one of its keys, such as model.partitions"),
        ("model.partitions.vol", "is 16, neither true nor false"),
        ("model.partitions.residual + 1 > 2", "'model.partitions.residual' is null, but"),
        ("name * 1000 == 'a'", "'name' is 'semivae', but"),
        ("flag + 1 > 0", "'flag' is False, but"),
        ("model.partitions.residual > 2", "cannot be computed with null and 2: they cannot be compared"),
        ("seed / (seed - 3) > 1", "cannot be computed with 3 and 0: division by zero"),
        ("seed and flag", "'seed' is 3, but and, or and not need"),
        ("seed in 3", "cannot be computed with 3 and 3"),
    ],
)
def test_conditions_that_cannot_be_computed(text: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        Condition(text, "where").holds(CONFIG)
    assert reason in str(error.value)
