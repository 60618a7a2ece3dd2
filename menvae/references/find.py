"""All references of a cohort: those that the cache has, and on request those that it lacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Literal

from menvae.references.ceiling import CeilingReader, new_reader, read_ceiling
from menvae.references.cohort import ReferenceCohort
from menvae.references.floor import decomposition_cost, read_floor
from menvae.references.readings import Readings
from menvae.references.segmented import measurable, read_segmented
from menvae.references.store import ReferenceStore, Weights

_log = logging.getLogger(__name__)

Kind = Literal["floor", "ceiling", "segmented"]

KINDS: Mapping[Kind, str] = {
    "floor": "floor: ridge on block means",
    "ceiling": "ceiling: encoder alone, supervised",
    "segmented": "segment, then measure",
}
"""Kind of reference -> its words in tables."""

CHEAP_VALUES, CHEAP_PRODUCTS = 200_000_000, 2_000_000_000
"""A floor that reads at most as many values, and takes at most as many products, is cheap: about a second each."""

Compute = Literal["all", "cheap", "none"]
"""References to compute if the cache lacks them: all, the floor of a small cohort, or none."""


def find_references(
    cohort: ReferenceCohort, store: ReferenceStore, compute: Compute, kinds: Collection[Kind] = tuple(KINDS)
) -> dict[Kind, Readings]:
    """Return the references of a cohort.

    Args:
        cohort: the cohort of a run.
        store: cache of references.
        compute: which ones to compute if they are missing; with ``none``, nothing is loaded but the cache.
        kinds: kinds of references to return.
    """
    found = {}
    for kind in kinds:
        if kind == "segmented" and not (cohort.spacing_mm and measurable(cohort)):
            continue
        readings = store.load(kind, identity_of(kind, cohort))
        if readings is None and (compute == "all" or (compute == "cheap" and _is_cheap(kind, cohort))):
            readings = _compute(kind, cohort, store)
        if readings is not None:
            found[kind] = readings
    return found


def identity_of(kind: Kind, cohort: ReferenceCohort) -> dict[str, object]:
    """Return everything that a reference depends on, from which its key is made."""
    identity: dict[str, object] = dict(cohort.identity)
    if kind != "floor":
        identity |= {"augmentation": dict(cohort.training_identity)}
    if kind == "ceiling":
        identity |= {"encoder": dict(cohort.encoder_identity)}
    return identity


def _is_cheap(kind: Kind, cohort: ReferenceCohort) -> bool:
    return kind == "floor" and cohort.num_values <= CHEAP_VALUES and decomposition_cost(cohort) <= CHEAP_PRODUCTS


def _compute(kind: Kind, cohort: ReferenceCohort, store: ReferenceStore) -> Readings:
    start = time.monotonic()
    if kind != "floor":
        _log.info("computing %s; it is kept for all runs with this cohort", KINDS[kind])
    weights: Weights | None = None
    if kind == "floor":
        readings = read_floor(cohort)
    elif kind == "ceiling":
        readings, reader = read_ceiling(cohort)
        weights = reader.state_dict()
    else:
        readings, network = read_segmented(cohort)
        weights = network.state_dict()
    store.save(kind, identity_of(kind, cohort), readings, weights)
    _log.info("%s: computed in %.0f s", KINDS[kind], time.monotonic() - start)
    return readings


def cached_ceiling(cohort: ReferenceCohort, store: ReferenceStore) -> CeilingReader | None:
    """Return the reader of the ceiling, frozen; None if it is not cached."""
    identity = identity_of("ceiling", cohort)
    if store.load("ceiling", identity) is None:
        return None
    reader = new_reader(cohort)
    reader.load_state_dict(store.load_weights("ceiling", identity, cohort.device))
    return reader.eval().requires_grad_(False)
