"""Which keys tell runs apart."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from stores import tracked

from menvae.comparison.swept_keys import SweptKey, check_keys, swept_keys
from menvae.errors import UserError


def keys(*params: dict[str, Any], **arguments: Any) -> dict[str, SweptKey]:
    return {key.name: key for key in swept_keys([tracked(one) for one in params], **arguments)}


def test_values_in_their_order_and_equal_numbers_are_equal() -> None:
    found = keys(
        {"loss.lambda_dcor": 10}, {"loss.lambda_dcor": 5}, {"loss.lambda_dcor": 5.0}, {"loss.lambda_dcor": 0.5}
    )
    assert found["loss.lambda_dcor"].values == ("0.5", "5", "10")
    assert found["loss.lambda_dcor"].label == "lambda_dcor"


def test_neither_seed_nor_place_is_swept() -> None:
    outside = {"output_dir": "/b", "tracking.uri": "http://b", "trainer.resume": "never", "data.root": "/b"}
    brats = {"data.name": "brats"}
    assert keys({**brats, "data.root": "/a"}, {**brats, "seed": 1, **outside}) == {}


def test_where_the_data_of_a_plugin_lie_is_not_swept_though_it_is_not_installed() -> None:
    params = [{"data.name": "no_such_source", "data.store": place, "data.size": place} for place in ("/a", "/b")]
    kept = [replace(tracked(one), outside_identity=("store",)) for one in params]
    assert [key.name for key in swept_keys(kept)] == ["data.size"]
    assert [(key.name, key.followers) for key in swept_keys([tracked(one) for one in params])] == [
        ("data.store", ("data.size",))
    ]


def test_a_run_that_begins_with_weights_of_another_is_another_configuration() -> None:
    assert keys({}, {"trainer.resume": "/a.ckpt"})["trainer.resume"].values == ("/a.ckpt", "")


def test_a_key_that_follows_another_is_shown_once() -> None:
    found = keys({"model.name": "semivae", "name": "semivae"}, {"model.name": "tcvae", "name": "tcvae"})
    assert list(found) == ["model.name"]
    assert found["model.name"].followers == ("name",)
    assert found["model.name"].label == "model"


def test_part_names_come_before_the_tunables_of_the_part_and_stand_for_those_that_only_some_have() -> None:
    found = keys(
        {"encoder.pool": "mean", "encoder.name": "a", "encoder.depth": 3},
        {"encoder.pool": "mean", "encoder.name": "b"},
        {"encoder.name": "c"},
    )
    assert list(found) == ["encoder.name"]
    assert found["encoder.name"].followers == ("encoder.pool", "encoder.depth")


def test_a_tunable_that_was_swept_too_is_shown() -> None:
    found = keys(
        {"encoder.name": "a", "encoder.depth": 3},
        {"encoder.name": "a", "encoder.depth": 4},
        {"encoder.name": "b"},
    )
    assert list(found) == ["encoder.name", "encoder.depth"]
    assert found["encoder.depth"].values == ("3", "4", "")


def test_order_is_that_of_the_configuration() -> None:
    runs = [
        {"trainer.max_epochs": e, "model.partitions.vol": v, "loss.lambda_dcor": e + v} for e in (1, 2) for v in (1, 3)
    ]
    assert list(keys(*runs)) == ["model.partitions.vol", "loss.lambda_dcor", "trainer.max_epochs"]


def test_labels_are_clear() -> None:
    first = {"a.terms.kl.start": 1, "b.terms.kl.start": 2, "data.seed": 3, "loss.vol_r2": 1}
    second = {"a.terms.kl.start": 2, "b.terms.kl.start": 2, "data.seed": 3, "loss.vol_r2": 1}
    third = {"a.terms.kl.start": 2, "b.terms.kl.start": 3, "data.seed": 3, "loss.vol_r2": 1}
    found = keys(first, second, third, {**third, "data.seed": 4}, {**third, "loss.vol_r2": 2}, reserved=["vol_r2"])
    assert {key.label for key in found.values()} == {"a.terms.kl.start", "b.terms.kl.start", "data.seed", "loss.vol_r2"}


def test_ignored_keys_and_sections() -> None:
    runs = ({"pictures.every_epochs": 1, "watch.grace": 1}, {"pictures.every_epochs": 2, "watch.grace": 2})
    assert keys(*runs, ignore=["pictures", "watch.grace"]) == {}
    with pytest.raises(UserError, match=r"ignore: no run has a key 'watch\.grac'; did you mean 'watch\.grace'\?"):
        check_keys("ignore", ["watch.grac"], [tracked(one) for one in runs], sections=True)
    with pytest.raises(UserError, match="no run has a key 'picture'; did you mean 'pictures'"):
        check_keys("ignore", ["picture"], [tracked(one) for one in runs], sections=True)


def test_one_run() -> None:
    assert keys({}) == {}


def test_comparing_needs_no_torch() -> None:
    asked = "import sys, menvae.comparison.swept_keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_numbers_that_a_search_has_drawn_are_keys_of_their_own_and_those_that_follow_are_not() -> None:
    rates = [0.3, 0.1, 0.2, 0.5, 0.4, 0.9, 0.8, 0.7, 0.6, 1.0, 1.1]
    drawn = [
        {"loss.lambda_dcor": place, "trainer.learning_rate": rate, "trainer.weight_decay": 2 - rate}
        for place, rate in enumerate(rates)
    ]
    found = keys(*drawn)
    assert {name: one.followers for name, one in found.items()} == {
        "loss.lambda_dcor": (),
        "trainer.learning_rate": ("trainer.weight_decay",),
    }
    assert list(keys(*drawn[:10])) == ["loss.lambda_dcor"], "as few may have been typed, to advance together"
    few = [{**one, "trainer.learning_rate": one["trainer.learning_rate"] / 3} for one in drawn[:8]]
    assert list(keys(*few)) == ["loss.lambda_dcor", "trainer.learning_rate"], "nobody types so many digits"
