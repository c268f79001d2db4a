"""Which attempts of a store taught: what its steps trained on, or, of a collect stage, what it kept for others to be trained on."""

from __future__ import annotations

from typing import NamedTuple

from flywheel.routes import KEPT
from flywheel.store.reader import Reader


class Taught(NamedTuple):
    """The attempts by their ids, and what a report says of them: that they trained, say."""

    ids: frozenset[str]
    how: str


def taught(reader: Reader) -> Taught:
    """Return the attempts of a store that taught."""
    if trained := reader.query("SELECT DISTINCT experience_id FROM trained"):
        return Taught(frozenset(experience_id for (experience_id,) in trained), "trained")
    # A collect stage makes no batch; of a run, routes are journalled together with the batch.
    kept = frozenset(route["experience_id"] for route in reader.select("route") if route["destination"] == KEPT)
    return Taught(kept, "were kept to train on" if kept else "trained")
