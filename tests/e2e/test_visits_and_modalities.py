"""Real runs on subjects that lack modalities, and on pairs of visits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs import gates, only_run, train

VISITS = ("~data.num_subjects", "data=phantom_growth", "data.num_patients=9", "data.visits=[2,4]")


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_on_subjects_that_lack_modalities(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    lacking = ("data.missing_modalities=allow", "data.modality_missing=0.2")
    told = train(tmp_path, *lacking, "encoder.stem=per_modality", "trainer.max_epochs=2", "pictures.num_subjects=1")
    assert "the subject is used with its other modalities" in told.stderr
    run = only_run(tmp_path)
    last = rows(run)[-1]
    assert all(last[f"val_epoch/{kind}_{name}"] is not None for kind in ("psnr", "ssim") for name in ("t1c", "t2w"))
    assert 0.0 < last["diag/recon_mu_mse"] < 10.0
    assert gates(run)["mean_z_ratio"]["value"] is not None
    assert list((run / "pictures").glob("epoch_*/phantom-*.png"))


def test_fine_tuning_on_pairs_of_visits_by_two_ranks(tmp_path: Path) -> None:
    train(tmp_path, *VISITS, "~encoder.base_filters", "trainer.max_epochs=1", "name=base")
    (base,) = (tmp_path / "runs").glob("base_*")
    train(tmp_path, "experiment=contrastive_finetune", *VISITS, f"trainer.init_from={base}", "trainer.devices=2")
    (run,) = (tmp_path / "runs").glob("contrastive_finetune_*")
    found = rows(run)
    assert all(row["train_epoch/contrastive_pairs"] >= 2.0 for row in found)
    assert all(row["val_epoch/contrastive"] > 0.0 for row in found)


def test_a_cohort_without_second_visits_is_refused_in_a_sentence(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    refused = train(tmp_path, "data.pairs=true", code=2)
    assert "data.pairs: true is not allowed because none of 7 training patients has two visits" in refused.stderr
    assert "Traceback" not in refused.stderr
