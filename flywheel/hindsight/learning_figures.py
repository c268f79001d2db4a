"""The figures of what trains beside the on-policy groups, from the journal; their meaning is in `flywheel.monitor.figures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flywheel.hindsight.pool import SOURCE_OF
from flywheel.routes import Route
from flywheel.store.reader import Reader


def source_figures(reader: Reader, step: int) -> dict[str, float]:
    """Return the figures ``learning/tokens/…`` and ``learning/replayed`` of a step: what its batch has beside on-policy rows."""
    asked = (
        "SELECT t.kind, e.origin, count(*), sum(t.num_tokens) FROM trained t JOIN experiences e ON e.id = t.experience_id "
        "WHERE t.step = ? GROUP BY 1, 2"
    )
    tokens: Counter[str] = Counter()
    num_replayed = 0
    for kind, origin, count, size in reader.query(asked, (step,)):
        if kind == "ce":
            tokens[SOURCE_OF[origin]] += size
        elif origin == "replay":
            num_replayed += count
    return {**{f"learning/tokens/{source}": float(size) for source, size in tokens.items()}, "learning/replayed": float(num_replayed)}


def route_figures(routes: Sequence[Route]) -> dict[str, float]:
    """Return the figures ``route/…``: the share of a step's attempts that went to a destination, first or besides."""
    counts = Counter(destination for route in routes for destination in {route.destination, *route.also})
    return {f"route/{destination}": count / len(routes) for destination, count in sorted(counts.items())}
