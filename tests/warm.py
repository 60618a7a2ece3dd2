"""What every command of `runs.Started` finds done: its server imports this, and the commands fork from it.

Importing the parts of menvae, and the tables that ANTLR learns as it parses, take a third of a tiny run.
"""

from __future__ import annotations

import importlib
import pkgutil

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from menvae.groups import GROUPS

for _package in GROUPS.values():
    for _module in pkgutil.iter_modules(importlib.import_module(_package).__path__, f"{_package}."):
        importlib.import_module(_module.name)
for _name in (
    "apps.hydra_application",
    "presentation.figures",
    "runs.evaluate",
    "runs.report",
    "runs.train",
    "sweeps.sweep",
):
    importlib.import_module(f"menvae.{_name}")

OverridesParser.create().parse_overrides(
    [
        "a=1,2.5,b",
        "a.b_c=[16,16,16]",
        "a={vol:4,loc:3}",
        "+a@b.c=d",
        "++a=/b/c-d.e",
        "a/b=false",
        "~a.b",
        "+a.b={c/d_e: maximize}",
        "a=tag(log,interval(1,16))",
        "a=choice(2,3)",
        "a=/b/${c.d}",
    ]
)
OmegaConf.to_container(OmegaConf.create({"a": "${b.c}/${d}", "b": {"c": 1}, "d": "${oc.env:HOME,x}"}), resolve=True)
