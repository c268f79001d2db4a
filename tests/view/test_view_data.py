"""What the window's server answers: the right data, to this machine only, without what a task hides, and safe against its own text."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flywheel.store.journal import Journal
from flywheel.view.app import HEADERS, make_app
from flywheel.view.command import main
from flywheel.view.data import RunData
from tests.command_line import TIMEOUT_S, command, environment
from tests.store.attempts import make_experience, make_group, make_task
from tests.view.conftest import HOSTILE, SECRET, STEPS

NUM_GROUPS = 3 * STEPS + 1  # and the relabelled attempt, a group of its own


@pytest.fixture
def client(run_dir: Path) -> Iterator[TestClient]:
    data = RunData(run_dir)
    while data.index.update():
        pass
    with TestClient(make_app(data), base_url="http://127.0.0.1") as client:
        yield client
    data.close()


def test_the_overview_counts_what_the_run_holds(client: TestClient) -> None:
    found = client.get("/api/overview").json()
    assert (found["name"], found["steps"], found["num_experiences"], found["num_groups"]) == ("shown", STEPS, 37, NUM_GROUPS)
    assert found["outcomes"] == {"solved": 19, "failed": 18}
    assert (found["recipe"]["steps"], found["indexed"]) == (3, 1.0)
    assert found["choices"]["origin"] == ["hindsight", "on_policy"]
    assert found["heldout"][0]["estimates"]["toy"]["mean"] == 0.5
    assert client.get("/api/curves").json()["series"]["reward/mean"] == [[1, 0.2], [2, 0.4], [3, pytest.approx(0.6)]]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, NUM_GROUPS),
        ({"step": "2"}, 3),
        ({"origin": "hindsight"}, 1),
        ({"outcome": "solved", "family": "family-1"}, 3),
        ({"outcome": "tampered"}, 0),
        ({"words": "zebra"}, 1),
        ({"words": "zeb sibling3"}, 1),
        ({"words": "zebra", "step": "1"}, 0),
        ({"words": '" OR body:* NEAR( -'}, 0),
        ({"words": "turn"}, NUM_GROUPS),
        ({"page": "1"}, NUM_GROUPS),
        ({"page": "x", "step": "'; DROP TABLE experiences --"}, 0),
    ],
)
def test_filters_and_search(client: TestClient, asked: dict[str, str], expected: int) -> None:
    found = client.get("/api/groups", params=asked).json()
    assert found["total"] == expected
    assert len(found["groups"]) == (0 if asked.get("page") == "1" else expected)


def test_a_group_shows_its_siblings_with_advantages(client: TestClient) -> None:
    group = make_group(11)
    found = client.get(f"/api/group/{group.id}").json()
    assert (found["step"], found["task"]["prompt"]) == (1, "task 11")
    assert [(s["outcome"], s["advantage"], s["num_turns"]) for s in found["siblings"]] == [("failed", -1.0, 2), ("solved", 1.0, 2)] * 2
    assert client.get("/api/group/none").status_code == 404


def test_an_attempt_shows_tokens_verdict_and_lineage(client: TestClient) -> None:
    parent, child = make_experience(make_task(10), 0), make_experience(make_task(99, parent_id=make_task(10).id), 0, origin="hindsight")
    found = client.get(f"/api/attempt/{parent.id}").json()
    turn = parent.trajectory.turns[0]
    assert found["turns"][0]["logprobs"] == list(turn.behavior_logprobs or ())
    assert len(found["turns"][0]["tokens"]) == len(turn.completion_ids)
    assert found["uses"] == [{"step": 1, "kind": "grpo", "advantage": -1.0, "weight": 1.0}]
    assert (found["made_versions"], found["became"], found["route"]["destination"]) == (["1.1"], [child.id], "grpo")
    assert client.get(f"/api/attempt/{child.id}").json()["came_from"] == [parent.id]
    assert client.get(f"/api/attempt/{child.id}").json()["parent_tasks"] == [parent.task.id]
    hostile = client.get("/api/groups", params={"words": "zebra"}).json()["groups"][0]["siblings"][2]["id"]
    said = client.get(f"/api/attempt/{hostile}").json()
    assert said["answer"] == f"{HOSTILE} sibling2 zebra"
    assert "".join(said["turns"][0]["tokens"]).endswith("sibling2 zebra")
    assert client.get("/api/attempt/none").status_code == 404


def test_an_attempt_costs_the_same_however_many_its_task_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [make_group(1, 2), make_group(2, 40)]
    with Journal(tmp_path) as journal:
        journal.append_groups(groups, step=1)
    data, asked = RunData(tmp_path), list[str]()
    query = data.reader.query

    def counted(sql: str, *values: Any) -> list[Any]:
        asked.append(sql)
        return query(sql, *values)

    monkeypatch.setattr(data.reader, "query", counted)
    costs = []
    for group in groups:
        asked.clear()
        assert data.attempt(group.experiences[0].id) is not None
        costs.append(len(asked))
    data.close()
    assert costs[0] == costs[1] > 0


def test_a_return_that_json_does_not_have_spoils_no_page(tmp_path: Path) -> None:
    (plain, odd), run = make_group(1, 2).experiences, tmp_path / "run"
    odd = replace(odd, trajectory=replace(odd.trajectory, env_return=float("nan")))
    with Journal(run) as journal:
        journal.append_experiences([plain, odd], step=1)
    data = RunData(run)
    with TestClient(make_app(data), base_url="http://127.0.0.1") as client:
        found = client.get(f"/api/attempt/{odd.id}")
    data.close()
    assert json.loads(found.text, parse_constant=_refuse)["env_return"] is None
    assert main([str(run), "--export", str(tmp_path / "out.html")]) == 0
    held = re.search(r'id="run-data">(.*?)</script>', (tmp_path / "out.html").read_text(), re.DOTALL)
    assert held is not None
    assert set(json.loads(held[1], parse_constant=_refuse)["attempts"]) == {plain.id, odd.id}


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def test_nothing_that_a_task_hides_is_ever_sent(client: TestClient, run_dir: Path, tmp_path: Path) -> None:
    places = ["/", "/api/overview", "/api/curves", "/api/groups", "/static/app.js"]
    groups = client.get("/api/groups").json()["groups"]
    places += [f"/api/group/{group['id']}" for group in groups]
    places += [f"/api/attempt/{sibling['id']}" for group in groups for sibling in group["siblings"]]
    for place in places:
        answer = client.get(place)
        assert answer.status_code == 200
        assert SECRET not in answer.text
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert main([str(run_dir), "--export", str(tmp_path / "out.html")]) == 0
    assert SECRET not in (tmp_path / "out.html").read_text()
    assert client.get("/static/../data.py").status_code == 404
    assert client.get("/static/index.html").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "169.254.1.1"])
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/overview", headers={"host": host}).status_code == 400
    assert client.get("/api/overview", headers={"host": "localhost:8765"}).status_code == 200


def test_an_exported_page_holds_no_markup_of_the_policy_and_runs_only_its_own(run_dir: Path, tmp_path: Path) -> None:
    out, earlier = tmp_path / "out.html", tmp_path / "earlier.html"
    out.write_text("an earlier page")
    earlier.hardlink_to(out)
    assert main([str(run_dir), "--export", str(out), "--groups", "100"]) == 0
    assert earlier.read_text() == "an earlier page"  # the new one took its place by a rename
    page = out.read_text()
    assert "onerror" in page  # it is there, as data
    assert re.search(r"<img|<script>window", page) is None
    held = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', page)
    assert held is not None
    inside = json.loads(held[1])
    assert len(inside["groups"]) == NUM_GROUPS
    assert len(inside["attempts"]) == 37
    assert "script-src 'sha256-" in page
    assert "unsafe-inline" not in page


def test_a_run_that_goes_on_is_seen_growing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    journal = Journal(tmp_path / "run")
    monkeypatch.setattr("flywheel.view.data._FRESH_S", -1.0)
    data = RunData(tmp_path / "run")
    before = data.overview()["num_groups"]
    journal.append_groups([make_group(777)], step=4)
    while data.index.update():
        pass
    assert data.overview()["num_groups"] == before + 1
    data.close()
    journal.close()


def test_what_can_not_be_read_is_said_and_the_rest_is_shown(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("view.sqlite*"))
    shard = next((tmp_path / "run" / "store").glob("experience-*.parquet"))  # all that step 1 has
    shard.write_bytes(shard.read_bytes()[:-9])
    data = RunData(tmp_path / "run")
    while data.index.update():
        pass
    assert len(data.index.find("turn")) == 25
    group = make_group(11)
    with TestClient(make_app(data), base_url="http://127.0.0.1") as client:
        found = client.get(f"/api/group/{group.id}").json()
        assert [(s["outcome"], "damaged" in s["problem"]) for s in found["siblings"]] == [("failed", True), ("solved", True)] * 2
        answer = client.get(f"/api/attempt/{group.experiences[0].id}")
        assert (answer.status_code, "damaged" in answer.json()["error"]) == (500, True)
        assert client.get("/api/groups").json()["total"] == NUM_GROUPS
        assert client.get("/api/groups", params={"step": "9" * 30, "page": "²"}).json()["total"] == 0
    data.close()
    assert main([str(tmp_path / "run"), "--export", str(tmp_path / "out.html"), "--groups", "100"]) == 0
    assert "a sealed shard is damaged" in (tmp_path / "out.html").read_text()


def test_two_windows_share_one_index_and_another_journal_makes_it_anew(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("view.sqlite*"))
    first, second = RunData(tmp_path / "run"), RunData(tmp_path / "run")
    slow = second.reader.bodies

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        found = slow(*args, **kwargs)
        first.index.update()
        return found

    second.reader.bodies = overtaken  # type: ignore[method-assign]
    while second.index.update():
        pass
    assert len(second.index.find("zebra")) == len(first.index.find("zebra")) == 4
    first.close()
    second.close()
    for path in (tmp_path / "run").glob("journal.sqlite*"):
        path.unlink()
    journal = Journal(tmp_path / "run")
    journal.append_groups([make_group(5)], step=1)
    journal.close()
    anew = RunData(tmp_path / "run")
    while anew.index.update():
        pass
    assert (len(anew.index.find("zebra")), len(anew.index.find("turn"))) == (0, 4)
    anew.close()


def test_no_run_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no journal" in capsys.readouterr().err


def test_ctrl_c_ends_the_server_without_a_word(run_dir: Path) -> None:
    served = subprocess.Popen(
        command("view", str(run_dir), "--port", "0"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert served.stdout is not None
    address = served.stdout.readline().split()[0]
    with urllib.request.urlopen(address) as page:  # it serves, so it has taken over the signals
        assert page.status == 200
    served.send_signal(signal.SIGINT)
    assert served.communicate(timeout=TIMEOUT_S)[1] == ""
    assert served.returncode == 0
