"""Makes a reasoning-gym data set from what a task's payload says: its name, curriculum levels and a seed. In the worker only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dataset_of(payload: Mapping[str, Any]) -> Any:
    """Return the data set, of one entry, that a payload names.

    Raises:
        ValueError: the payload is malformed, or the data set has no such configuration.
    """
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import CURRICULA, DATASETS

    name, levels, seed = payload.get("dataset"), payload.get("levels"), payload.get("seed")
    if not isinstance(name, str) or name not in DATASETS or not isinstance(levels, Mapping) or not isinstance(seed, int):
        raise ValueError(f"reasoning_gym payload: expected a known dataset, levels and a seed, got {dict(payload)!r:.200}")
    make, config_class = DATASETS[name]
    try:
        if name in CURRICULA:
            curriculum = CURRICULA[name]()
            for attribute, level in levels.items():
                curriculum.set_attr_level(attribute, int(level))
            context = DefaultCurriculumContext(mode=RangeAttributeMode.UPPER_BOUND)
            config = curriculum.generate_configuration({"seed": seed, "size": 1}, context=context)
        else:
            config = config_class(seed=seed, size=1)
        if hasattr(config, "validate"):
            config.validate()
        return make(config=config)
    except (AssertionError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"reasoning_gym: {name} has no entry at levels {dict(levels)!r}: {type(error).__name__}: {error}") from error
