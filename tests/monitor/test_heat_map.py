from pathlib import Path

import numpy as np
from PIL import Image

from flywheel.monitor.heat_map import heat_map, plot_heat_map

METRICS = {
    0: {"heldout/code": 0.5},
    1: {"solved/code/lists/level_1": 0.75, "solved/code": 0.4, "curriculum/share/code/lists/level_1": 1.0, "curriculum/brier": 0.2},
    2: {"solved/code/lists/level_2": 0.25, "curriculum/share/code/lists/level_2": 0.5, "curriculum/uncertainty/code/lists/level_2": 0.1},
}


def test_rows_are_families_and_levels_and_columns_are_steps() -> None:
    rows, steps, values = heat_map(METRICS, "solved/")
    assert rows == ["code/lists/level_1", "code/lists/level_2"]
    assert steps == [1, 2]
    assert np.array_equal(values, [[0.75, np.nan], [np.nan, 0.25]], equal_nan=True)


def test_the_picture_is_drawn_where_there_is_a_curriculum(tmp_path: Path) -> None:
    assert plot_heat_map(tmp_path / "a.png", METRICS)
    assert Image.open(tmp_path / "a.png").size[0] > 500
    assert not plot_heat_map(tmp_path / "b.png", {1: {"solved/code": 0.5}})
    assert not (tmp_path / "b.png").exists()
