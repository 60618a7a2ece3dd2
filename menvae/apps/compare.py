"""``menvae-compare``: compare the runs of an experiment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from menvae.apps import application
from menvae.errors import ExitCode, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from menvae.comparison.compare import ComparisonSettings
    from menvae.tracking.tracker import TrackingSettings

_log = logging.getLogger(__name__)


def task(config: DictConfig) -> ExitCode:
    """Compare runs; the heavy imports wait until here."""
    from omegaconf import OmegaConf

    from menvae.comparison.compare import ComparisonSettings
    from menvae.configuration import check_present, path_of, section_of
    from menvae.console import logs
    from menvae.registry import validated
    from menvae.tracking.tracker import TrackingSettings

    keys = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    check_present(keys, ("tracking", "output_dir", "html"))
    keys["sweep"] = section_of(keys, "sweep").get("name")
    tracking = validated(TrackingSettings, keys.pop("tracking"), "tracking")
    output_dir, html = (path_of(keys.pop(name), name) for name in ("output_dir", "html"))
    logs.configure(None)
    try:
        _compare(tracking, validated(ComparisonSettings, keys, ""), output_dir, html)
    finally:
        logs.release()
    return ExitCode.DONE


def _compare(tracking: TrackingSettings, settings: ComparisonSettings, output_dir: Path, html: Path) -> None:
    from menvae.comparison.compare import compare
    from menvae.comparison.export import write_configurations, write_runs
    from menvae.comparison.page import write_page
    from menvae.comparison.table import answers
    from menvae.comparison.tracked_runs import RunStore
    from menvae.comparison.typeset import write_latex, write_markdown
    from menvae.console import logs

    store = RunStore.open(tracking, output_dir)
    runs, notes = store.runs(None if settings.sweep is None else str(settings.sweep))
    comparison = compare(runs, settings)
    if comparison.replicates.has_folds:
        from menvae.comparison.out_of_fold import with_out_of_fold  # and with it torch, which others do not need

        comparison = with_out_of_fold(comparison, store)
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
        runs_file = write_runs(comparison, html.with_suffix(".csv"))
        configurations_file = write_configurations(comparison, html.with_name(f"{html.stem}_configurations.csv"))
        tables = [
            write_markdown(comparison, configurations_file.with_suffix(".md")),
            write_latex(comparison, configurations_file.with_suffix(".tex")),
        ]
        page = write_page(comparison, notes, store, html)
    except OSError as error:
        raise UserError(f"html: cannot write to '{html}': {error.strerror}") from error
    for answer in answers(comparison, notes):  # last, because the reader of a pipe, such as head, may close it
        logs.show(answer)
    _log.info("runs: %s", runs_file)
    _log.info("configurations: %s", configurations_file)
    _log.info("tables: %s", ", ".join(map(str, tables)))
    _log.info("page: %s", page)


def main() -> None:
    """Entry point."""
    application.run("compare", task)
