"""Axes of a sweep: paired keys, whole numbers, tables of points and conditions span the points that they should."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra_plugins.menvae_launchers.axes import in_order_of_effect, overrides_of_sweep, points_of
from hydra_plugins.menvae_launchers.search_space import zipped_dimension
from runs import TINY, menvae_sweep, train

from menvae.apps import sweep_grammar
from menvae.apps.points_table import read_points
from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.registry import configuration_folder

sweep_grammar.install()


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def values(text: str) -> list[object]:
    return list(OverridesParser.create().parse_override(f"key={text}").sweep_iterator())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1..5", [1, 2, 3, 4, 5]),
        ("7..7", [7]),
        ("-1..1", [-1, 0, 1]),
        ("1..3,7", [1, 2, 3, 7]),
        ("choice(0,2..3)", [0, 2, 3]),
        ("zip(1..3)", [1, 2, 3]),
        ("zip(0,range(4,9,2))", [0, 4, 6, 8]),
        ("tag(width,zip([1,2],null))", [[1, 2], None]),
    ],
)
def test_values(text: str, expected: list[object]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize("text", ["1...5", "'1..5'", "1.5", "v1..5", "[1..5]"])
def test_text_that_is_no_range(text: str) -> None:
    assert not OverridesParser.create().parse_override(f"key={text}").is_sweep_override()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5..1", r"^key: '5..1' contains no value; write 1..5$"),
        ("1..100001", "has more than 100,000 values"),
        ("sort(zip(2,1))", "not allowed inside a function other than tag"),
        ("int(zip(2,1))", "not allowed inside a function other than tag"),
        ("tag(a,shuffle(zip(2,1)))", "not allowed inside a function other than tag"),
    ],
)
def test_values_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        values(text)


@pytest.mark.parametrize("text", ["zip(interval(0,1),2)", "zip(zip(1,2),3)", "zip(shuffle(1,2))", "zip()"])
def test_what_cannot_be_zipped(text: str) -> None:
    with pytest.raises(HydraException, match=r"zip\(\.\.\.\) (takes|needs) values"):
        values(text)


@pytest.mark.parametrize("typed", ["seed<=3", "a.b == 'x'", 'a != "it\'s" and b < 2', "seed in [1,2]"])
def test_a_condition_needs_no_quotes_within_quotes(typed: str) -> None:
    parser = OverridesParser.create()
    plain = parser.parse_override(f"sweep.where={typed}")
    assert plain.value() == typed
    assert parser.parse_override(plain.input_line or "").value() == typed


def points(loader: ConfigLoader, *arguments: str, **settings: object) -> list[list[str]]:
    of_sweep = SweepSettings(**settings)  # type: ignore[arg-type]
    return points_of(in_order_of_effect(overrides_of_sweep(loader, arguments, of_sweep), of_sweep))


def test_zipped_keys_advance_together_and_multiply_with_axes_and_other_zips(loader: ConfigLoader) -> None:
    found = points(
        loader,
        "loss.lambda_dcor=zip(1,5,10)",
        "seed=1..2",
        "model.partitions.vol=zip(8,16,24)",
        "encoder=tag(b,zip(resnet,branched))",
        "decoder=tag(b,zip(sbd,transposed))",
        "trainer.max_epochs=3",
    )
    pairs = itertools.product(
        [(1, 8), (5, 16), (10, 24)], [1, 2], [("resnet", "sbd"), ("branched", "transposed")]
    )  # the last axis first
    assert found == [
        [
            f"loss.lambda_dcor={weight}",
            f"seed={seed}",
            f"model.partitions.vol={width}",
            f"encoder={encoder}",
            f"decoder={decoder}",
            "trainer.max_epochs=3",
        ]
        for (weight, width), seed, (encoder, decoder) in pairs
    ]


def test_without_the_additions_points_are_those_of_hydra(loader: ConfigLoader) -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    typed = [
        "~site",
        "seed=3,1",
        "loss.lambda_dcor=range(0,3)",
        "encoder=choice(resnet,branched)",
        "seed=5,6",
        "name=a",
    ]
    parsed = OverridesParser.create(loader).parse_overrides(typed)
    assert points(loader, *typed) == BasicSweeper.split_arguments(parsed, None)[0]


def test_a_space_of_a_file_is_an_axis_that_the_command_line_replaces(loader: ConfigLoader) -> None:
    space = {"seed": "1..3", "loss.lambda_dcor": "zip(1,5)", "model.z_dim": "zip(32,64)"}
    assert len(points(loader, space=space)) == 3 * 2
    assert points(loader, "seed=9", "model.partitions={vol:4}", space=space) == [
        ["seed=9", "model.partitions={vol:4}", "loss.lambda_dcor=1", "model.z_dim=32"],
        ["seed=9", "model.partitions={vol:4}", "loss.lambda_dcor=5", "model.z_dim=64"],
    ]


CSV = "loss.lambda_dcor;encoder;data.spacing_mm;name\n1e-3;resnet;[2, 2, 2];a b\n\n5; branched ;null;'5'\n"
YAML = """\
- {loss.lambda_dcor: 1e-3, encoder: resnet, data.spacing_mm: [2, 2, 2], name: a b}
- {loss.lambda_dcor: 5, encoder: branched, data.spacing_mm: null, name: "5"}
"""


@pytest.mark.parametrize(("suffix", "text"), [(".csv", CSV), (".tsv", CSV.replace(";", "\t")), (".yaml", YAML)])
def test_a_table_of_points_is_combined_with_axes(suffix: str, text: str, loader: ConfigLoader, tmp_path: Path) -> None:
    path = tmp_path / f"points{suffix}"
    path.write_text(text)
    columns = {
        "loss.lambda_dcor": [0.001, 5],
        "encoder": ["resnet", "branched"],
        "data.spacing_mm": [[2, 2, 2], None],
        "name": ["a b", "5"],
    }
    assert read_points(path) == columns
    found = points(loader, "seed=1..2", points=str(path))
    parser = OverridesParser.create()
    parsed = [{one.key_or_group: one.value() for one in parser.parse_overrides(point)} for point in found]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert parsed == [{**row, "seed": seed} for seed in (1, 2) for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "seed,seed\n1,2\n", "has two columns of seed"),
        ("t.csv", "seed,+seed\n1,2\n", "has two columns of seed"),
        ("t.csv", "seed,\n1,2\n", "has a column without a name"),
        ("t.csv", "seed,name\n1,a\n2\n", "line 3 has 1 cells, but there are 2 columns"),
        ("t.csv", "seed,name\n1,\n", "line 2 has no value of name; write null for none"),
        ("t.csv", "seed,name\n1,[a\n", r"line 2: '\[a' is not a value"),
        ("t.csv", "seed,a=b\n1,2\n", "has a column 'a=b', which is no key"),
        ("t.csv", "seed\n", "contains no points"),
        ("t.csv", "", "contains no points"),
        ("t.yaml", "seed: 1\n", "should be a list with one mapping a point"),
        ("t.yaml", "- {seed: 1}\n- {seed: 2, name: a}\n", "point 2 alone has a value of name"),
        ("t.yaml", "- {seed: 1, name: a}\n- {seed: 2}\n", "point 2 has no value of name"),
        ("t.yaml", "- {seed: 1\n", "is not valid YAML"),
        ("t.csv", "sweep.where,name\nseed>1,a\n", "sweep.where: the column of '.*' is not allowed"),
        ("t.csv", "hydra.launcher.num_parallel,name\n1,a\n", "num_parallel: the column of '.*' is not allowed"),
        ("t.txt", "seed\n1\n", "it should be a file .csv"),
        ("t.csv", "seed,name\n1,a\n", "seed is given twice: as a column of '.*' and as 'seed=1,2'; leave one"),
    ],
)
def test_tables_that_are_refused(name: str, text: str, reason: str, loader: ConfigLoader, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        points(loader, "seed=1,2", points=str(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["seed=zip(1,2)", "loss.lambda_dcor=zip(1,2,3)"],
            "as many values each, but seed has 2, loss.lambda_dcor has 3",
        ),
        (["seed=interval(0,1)"], "seed: 'interval.*' has no list of values, and needs a sweeper that searches"),
        (["sweep.points=a.csv,b.csv"], "sweep.points: the axis 'sweep.points=a.csv,b.csv' is not allowed"),
        (["seed=1..1001", "model.z_dim=1..1000"], "the axes span 1,001,000 points; a sweep has 1,000,000 at most"),
    ],
)
def test_axes_that_are_refused(arguments: list[str], reason: str, loader: ConfigLoader) -> None:
    with pytest.raises(UserError, match=reason):
        points(loader, *arguments)


def test_a_search_draws_zipped_keys_together() -> None:
    zipped = OverridesParser.create().parse_overrides(["seed=zip(1,2)", "encoder=zip(resnet,branched)"])
    dimension = zipped_dimension(zipped)
    drawn = [dimension.overrides("seed, encoder", choice) for choice in dimension.distribution.choices]  # type: ignore[attr-defined]
    assert drawn == [["seed=1", "encoder=resnet"], ["seed=2", "encoder=branched"]]


def test_a_plan_of_all_axes_leaves_out_what_the_condition_excludes(tmp_path: Path) -> None:
    """Of 4 rows x 2 seeds, 6 + 4 exceeds 9 twice and a weight below 1 meets seed 2 twice; 1e-3 is 0.001."""
    (tmp_path / "points.csv").write_text("loss.lambda_dcor,model.partitions.vol\n1e-3,4\n0.001,4\n1,5\n2,6\n")
    where = (
        "sweep.where=model.partitions.vol + model.partitions.shape <= 9 and not (seed == 2 and loss.lambda_dcor < 1)"
    )
    planned = menvae_sweep(tmp_path, "plan", *TINY, f"sweep.points={tmp_path}/points.csv", "seed=1..2", where)
    assert "sweep.where leaves out 4 of 8 points" in planned
    assert planned.count("duplicate of") == 1
    assert "3 of 4 points to run" in planned
    none = menvae_sweep(tmp_path, "plan", *TINY, "seed=1..2", "sweep.where=seed>2", code=2)
    assert none == "menvae-sweep: sweep.where: no point of 2 meets 'seed>2'\n"
    (tmp_path / "points.csv").write_text("loss.lambda_dcr,seed\n1,4\n")
    unknown = menvae_sweep(tmp_path, "plan", *TINY, f"sweep.points={tmp_path}/points.csv", code=2)
    assert "has an unknown column, loss.lambda_dcr: no such key; did you mean 'lambda_dcor'?" in unknown
    searched = menvae_sweep(
        tmp_path, "plan", *TINY, f"sweep.points={tmp_path}/points.csv", "hydra/sweeper=optuna", code=2
    )
    assert searched == unknown


@pytest.mark.usefixtures("forked_jobs")
def test_runs_of_all_folds_test_every_subject_once(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    folds = ("data.num_folds=3", "data.fold=0..2", "trainer.max_epochs=1", "hydra.launcher.points_per_gpu=2")
    train(tmp_path, "-m", *folds)
    tested: Counter[str] = Counter()
    for path in (tmp_path / "runs").glob("*/splits.csv"):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        tested.update(row["subject_id"] for row in rows if row["split"] == "test")
        assert Counter(row["split"] for row in rows) == {"test": 4, "val": 5, "train": 3}
        assert "test" in json.loads((path.parent / "evaluation.json").read_text())["splits"]
    assert len(tested) == 12
    assert set(tested.values()) == {1}
    for beyond in (["data.fold=3"], ["-m", "data.fold=2..3"]):
        refused = train(tmp_path, "data.num_folds=3", *beyond, code=2).stderr.splitlines()
        assert refused[-1] == "menvae-train: data.fold: 3 is not allowed; data.num_folds=3 has the folds 0 to 2"
    few = train(tmp_path, "-m", "data.num_folds=13", "data.fold=0..12", code=2).stderr.splitlines()
    assert few[-1] == "menvae-train: data.num_folds: 13 folds need at least 13 subjects, but there are 12"
