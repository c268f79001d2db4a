from pathlib import Path

from flywheel.monitor.curriculum_figures import Cell, CurriculumDisplay, CurriculumReport, Move, curriculum_figures
from flywheel.monitor.jsonl import JsonlMonitor, read_metrics, read_table
from flywheel.monitor.progress import Progress

CELLS = (
    Cell(family="code/lists", level=1, predicted=0.75, uncertainty=0.1, share=0.5, solve_rate=1.0),
    Cell(family="code/lists", level=2, predicted=0.25, uncertainty=0.3, share=0.0, solve_rate=None),
)


def report(*moves: Move, brier: float | None = 0.2) -> CurriculumReport:
    return CurriculumReport(cells=CELLS, moves=moves, brier=brier, num_raised=2, num_lowered=0)


def test_scalars_by_family_and_level() -> None:
    assert curriculum_figures(report()) == {
        "curriculum/raised": 2.0,
        "curriculum/lowered": 0.0,
        "curriculum/brier": 0.2,
        "curriculum/predicted/code/lists/level_1": 0.75,
        "curriculum/uncertainty/code/lists/level_1": 0.1,
        "curriculum/share/code/lists/level_1": 0.5,
        "curriculum/predicted/code/lists/level_2": 0.25,
        "curriculum/uncertainty/code/lists/level_2": 0.3,
        "curriculum/share/code/lists/level_2": 0.0,
    }
    assert "curriculum/brier" not in curriculum_figures(report(brier=None))


def test_the_heat_map_table_and_the_moves_are_shown(tmp_path: Path) -> None:
    monitor = JsonlMonitor(tmp_path, resume=False)
    said: list[str] = []

    class Told(Progress):
        def line(self, text: str) -> None:
            said.append(text)

    display = CurriculumDisplay(monitor, Told("run", 9), every=10)
    stuck = Move("code/lists", "lowered", False)
    display.show(1, report(Move("code/lists", "raised", True)))
    display.show(2, report(stuck))
    display.show(10, report(stuck))
    monitor.close()
    table = read_table(tmp_path, "curriculum")
    assert list(table) == [1, 10]
    assert table[1][0] == {"family": "code/lists", "level": 1, "predicted": 0.75, "uncertainty": 0.1, "share": 0.5, "solve_rate": 1.0}
    assert table[1][1]["solve_rate"] is None
    assert list(read_metrics(tmp_path)) == [1, 2, 10]
    assert said == [
        "curriculum: code/lists is raised",
        "curriculum: code/lists is solved nowhere, and its knobs can't be lowered any further",
    ]
