"""The steps of ``menvae-encode``: from a configuration to a Parquet file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import DictConfig

from menvae.configuration import check_present, path_of, plain_values, section_of
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.data.digests import digest_of
from menvae.encoding.encode import encode
from menvae.encoding.fusion import Fusion
from menvae.errors import ExitCode, UserError
from menvae.files import replacing
from menvae.registry import Field, validated
from menvae.runs.cohort import SplitChoice, cohort_name
from menvae.runs.finished import CheckpointName, FinishedRun
from menvae.runs.loading import load_named, usable_device

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """Keys of ``menvae-encode`` beside ``data`` and ``tracking``.

    Attributes:
        run: run directory, name or MLflow id; or a list.
        split: split of the run's own cohort.
        fusion: how to join several runs.
        checkpoint: ``best`` or ``last``.
        draws: draws of q(z|x) per visit.
        seed: seed of the draws.
        output: the Parquet file; None: a file in the run directory, or for several runs in ``output_dir/latents``.
        overwrite: whether to replace an existing file.
        device: device of the model, such as ``cuda:1``; None: the first GPU, or the CPU if there is none.
        batch_size: visits per batch of another cohort; None: as in training.
        num_workers: processes that prepare visits of another cohort; None: one per core.
        output_dir: contains ``runs/``, for names of runs, and ``mlflow.db``, for ids.
    """

    run: str | tuple[str, ...]
    split: SplitChoice = "all"
    fusion: Fusion | None = None
    checkpoint: CheckpointName = "best"
    draws: Annotated[int, Field(ge=2)] = 256
    seed: Annotated[int, Field(ge=0)] = 0
    output: str | None = None
    overwrite: bool = False
    device: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    num_workers: Annotated[int, Field(ge=1)] | None = None
    output_dir: str = "./outputs"


def encode_to_file(composed: DictConfig) -> ExitCode:
    """Encode a cohort, and write its table.

    Args:
        composed: composed configuration of ``conf/encode.yaml``.

    Raises:
        UserError: the configuration, a run or the data are invalid, or the file exists.
    """
    keys = plain_values(composed, {"data", "tracking", *EncodingSettings.__dataclass_fields__})
    check_present(keys, ("run", "data", "tracking"))
    data, tracking = dict(section_of(keys, "data")), section_of(keys, "tracking")
    settings = validated(EncodingSettings, {key: keys[key] for key in keys if key not in ("data", "tracking")}, "")
    device = usable_device(settings.device)
    logs.configure(None)
    try:
        runs = load_named(settings.run, settings.checkpoint, device, settings.output_dir, tracking)
        path = path_of(settings.output, "output") if settings.output else _default_path(runs, settings, data)
        _check_free(path, may_exist=settings.overwrite)
        table = encode(
            runs,
            split=settings.split,
            data=data,
            fusion=settings.fusion,
            draws=settings.draws,
            seed=settings.seed,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            show=progress_bar,
        )
        write_parquet(path, table)
        logs.show(f"latents: {path} ({len(table)} rows, {len(table.columns)} columns)")
    finally:
        logs.release()
    return ExitCode.DONE


def _default_path(runs: Sequence[FinishedRun], settings: EncodingSettings, data: Mapping[str, Any]) -> Path:
    """Return a path that differs for different splits, cohorts and combinations of runs."""
    words = ["latents"]
    words += [settings.split] if settings.split != "all" else []
    words += [cohort_name(runs[0], data)] if data else []
    words += ["last"] if settings.checkpoint == "last" else []
    if len(runs) == 1:
        return runs[0].path / f"{'_'.join(words)}.parquet"
    words += [str(settings.fusion), digest_of([run.name for run in runs])[:6]]
    return runs[0].experiment.output_dir / "latents" / f"{'_'.join(words[1:])}.parquet"


def _check_free(path: Path, *, may_exist: bool) -> None:
    """Check that the file can be written, before anything is computed."""
    if path.is_dir():
        raise UserError(f"output: '{path}' is a folder; give a file such as '{path / 'latents.parquet'}'")
    if path.exists() and not may_exist:
        raise UserError(f"output: '{path}' exists; set overwrite=true to replace it, or give another output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: cannot write to '{path}': {error.strerror}") from error


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table of `encode`; what its ``attrs`` hold is in the metadata of the file under ``menvae``, as JSON.

    Args:
        path: the file, which is replaced.
        table: the table.

    Raises:
        UserError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"menvae": json.dumps(table.attrs["menvae"]).encode()}
    try:
        with replacing(path) as file:
            pq.write_table(arrow.replace_schema_metadata(metadata), file)
    except OSError as error:
        raise UserError(f"output: cannot write to '{path}': {error.strerror or error}") from error
