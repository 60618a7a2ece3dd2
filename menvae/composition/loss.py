"""The ``loss`` section: terms, schedules and weights, checked and ready to be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from menvae.composition.once import Once
from menvae.errors import UserError, about
from menvae.objective import WEIGHT_PREFIX, Objective
from menvae.registry import Bound, bind
from menvae.schedules import Schedule
from menvae.terms import Term, TermContext


@dataclass(frozen=True)
class Loss:
    """The checked ``loss`` section: terms and schedules ready to be built, and the weights."""

    terms: Mapping[str, Bound]
    schedules: Mapping[str, Bound]
    weights: Mapping[str, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], once: Once | None = None) -> Loss:
        """Check ``loss.*``.

        Args:
            config: the section.
            once: calls what checks a term or a schedule, if it has checked others.

        Raises:
            UserError: it is invalid.
        """
        once = once or Once()
        weights, terms, schedules = {}, section(config, "terms"), section(config, "schedules")
        for key, value in config.items():
            if key in ("terms", "schedules"):
                continue
            if not key.startswith(WEIGHT_PREFIX):
                raise UserError(f"loss.{key}: no such key; known: terms, schedules, {WEIGHT_PREFIX}<scalar>")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"loss.{key}: {value!r} is not allowed; a weight is a number, 0 or larger")
            weights[key.removeprefix(WEIGHT_PREFIX)] = float(value)
        return cls(
            {key: once(bind, "term", term, f"loss.terms.{key}") for key, term in terms.items()},
            {key: once(bind, "schedule", part, f"loss.schedules.{key}") for key, part in schedules.items()},
            weights,
        )

    def build(self, context: TermContext) -> Objective:
        """Build the objective of a run."""
        terms: dict[str, Term] = {}
        for key, bound in self.terms.items():
            with about(f"loss.terms.{key}"):
                terms[key] = bound(context)
        schedules: dict[str, Schedule] = {key: bound() for key, bound in self.schedules.items()}
        return Objective(terms, self.weights, schedules)


def section(loss: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return ``loss.<name>``, empty if it is missing.

    Raises:
        UserError: it is not a mapping.
    """
    found = loss.get(name, {})
    if not isinstance(found, Mapping):
        raise UserError(f"loss.{name}: {found!r} is not allowed; set its keys, loss.{name}.<key>=...")
    return found
