"""Configuration of Sphinx; writes the pages of ``reference/``, with keys, parts and public names, before each build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import menvae
from menvae.groups import GROUPS, configuration_folder, folder_of
from menvae.registry import Part, parts

project, author, release = "menvae", "the authors of menvae", menvae.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "menvae"
default_role = "py:obj"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True

COMMANDS = (
    *("train", "launching", "sweep", "sync", "prepare", "evaluate", "encode", "compare", "grow"),
    *("plan_resources", "bench"),
)
"""Files of ``conf/`` with the keys of a command."""
TITLES = {"launching": "Launching", "sync": "menvae-sweep sync"}
PUBLIC = {
    "menvae": ("load_run", "load_runs", "encode", "FinishedRun"),
    "menvae.types": ("Batch", "Posterior", "ModelOutput", "Progress"),
    "menvae.latent": ("LatentLayout",),
    "menvae.registry": ("register", "bind", "build"),
    "menvae.collectives": ("mean_over_ranks", "sum_over_ranks", "gather_rows"),
    "menvae.encoders": ("Encoder",),
    "menvae.decoders": ("Decoder",),
    "menvae.terms": ("Term", "TermContext"),
    "menvae.metrics": ("Metric",),
    "menvae.data.source": ("DataSource",),
    "menvae.data.files.readers": ("Reader",),
    "menvae.growth": ("GrowthModel", "FittedGrowth", "Forecast", "Visits"),
    "menvae.tracking.tracker": ("Tracker",),
    "menvae.observers": ("Observer",),
    "menvae.pictures": ("Picture",),
}
"""Names that scripts and parts of other packages import, by module."""


def configuration_page(conf: Path) -> Iterator[str]:
    """Yield the lines of a page with all keys of commands, and groups of options that are no parts."""
    yield "# Configuration\n"
    yield "Every key of the commands with its default, as in `conf/`. The keys of parts are on [a page of their"
    yield "own](parts.md), those of `hydra/sweeper=optuna` in [Sweeps and searches](../sweeps.md#search)."
    for command in COMMANDS:
        title = TITLES.get(command, f"menvae-{command.replace('_', '-')}")
        yield f"\n## {title}\n\n{yaml(conf / f'{command}.yaml')}"
    others = {folder.name for folder in conf.iterdir() if folder.is_dir()} - {folder_of(group) for group in GROUPS}
    for group in sorted(others - {"hydra"}):
        yield f"\n## {group}\n"
        yield from (f"\n### {group}={path.stem}\n\n{yaml(path)}" for path in sorted((conf / group).glob("*.yaml")))


def parts_page(conf: Path) -> Iterator[str]:
    """Yield the lines of a page with all parts of menvae."""
    yield "# Parts\n\nWhat `menvae-parts` lists, with the keys of each part."
    registered = [part for part in parts() if part.origin == "menvae"]
    for group in GROUPS:
        yield f"\n## {group}\n"
        yield from (entry(part, conf) for part in registered if part.group == group)


def entry(part: Part, conf: Path) -> str:
    """Return summary, reference and keys of a part."""
    path = conf / folder_of(part.group) / f"{part.name}.yaml"
    reference = f" *{part.reference}*" if part.reference else ""
    keys = f"\n\n{yaml(path)}" if path.exists() else ""
    return f"\n### {part.group}={part.name}\n\n{part.summary}{reference}{keys}"


def python_page() -> Iterator[str]:
    """Yield the lines of a page with all public names."""
    yield "# Python\n\nWhat scripts and parts of other packages import. Shapes are in brackets: [B, C, D, H, W]."
    for module, names in PUBLIC.items():
        yield f"\n## {module}\n"
        for name in names:
            kind = "autoclass" if name[0].isupper() else "autofunction"
            members = "\n   :members:" if name[0].isupper() else ""
            yield f"\n```{{eval-rst}}\n.. {kind}:: {module}.{name}{members}\n```"


def yaml(path: Path) -> str:
    """Return a file as a block of code."""
    return f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"


def write_reference(folder: Path) -> None:
    """Write the generated pages into a folder."""
    conf = configuration_folder("menvae")
    assert conf is not None, "menvae is installed"
    folder.mkdir(exist_ok=True)
    pages = {"configuration": configuration_page(conf), "parts": parts_page(conf), "python": python_page()}
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


write_reference(Path(__file__).parent / "reference")
