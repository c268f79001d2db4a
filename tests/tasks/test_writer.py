"""Model-written tasks, with a scripted model: what holds is kept, what does not is refused with its reason, and never trains."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from flywheel import write
from flywheel.config import Recipe, TasksConfig
from flywheel.envs.code import CodeEnv
from flywheel.envs.code.authoring import leaked
from flywheel.envs.code.mutants import mutants
from flywheel.errors import ConfigError, InferenceError
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import EndpointModel, EngineModel, Reply
from flywheel.tasks.documents import document_blocks
from flywheel.tasks.source import TaskSource
from flywheel.tasks.writer import TaskWriter, Written, read_reply
from flywheel.tasks.writing_prompts import IN_DEPTH, Known, Method, evol_instruct, from_documents, oss_instruct, self_instruct
from tests.envs.lean_oracle import learning
from tests.scripted import ScriptedPolicy, make_chat

Task = dict[str, Any]
RUNS: Task = {
    "statement": "Write longest_run(xs), which returns the length of the longest run of equal neighbours in the list xs.",
    "entry_point": "longest_run",
    "reference": (
        "def longest_run(xs):\n    best = 0\n    count = 0\n    last = None\n    for x in xs:\n"
        "        count = count + 1 if x == last else 1\n        last = x\n        best = max(best, count)\n    return best\n"
    ),
    "tests": [
        {"args": [xs], "expected": n}
        for xs, n in (([1, 1, 2], 2), ([], 0), ([5], 1), ([1, 2, 2, 2, 1], 3), ([3, 3, 3, 3], 4), ([1, 2, 3], 1))
    ],
}
INITIALS: Task = {
    "statement": "Given a full name as text, initials(name) gives back the upper-cased first letters of its words, each followed by a dot.",
    "entry_point": "initials",
    "reference": "def initials(name):\n    return ''.join(word[0].upper() + '.' for word in name.split())\n",
    "tests": [
        {"args": [name], "expected": out}
        for name, out in (("ada lovelace", "A.L."), ("", ""), ("grace", "G."), ("a b c", "A.B.C."), ("  x  ", "X."))
    ],
}


def changed(base: Task, **fields: Any) -> Task:
    return {**base, **fields}


REFUSED: dict[str, tuple[Task | str, str]] = {
    "no JSON": ("I would rather not.", "no JSON object"),
    "a list": ("[1, 2]", "no JSON object"),
    "no reference": (changed(RUNS, reference=""), "reference is ''"),
    "a wrong reference": (changed(RUNS, reference="def longest_run(xs):\n    return len(xs)\n"), "the reference does not solve it"),
    "a wrong test": (
        changed(RUNS, tests=[*RUNS["tests"], {"args": [[7, 7]], "expected": 1}]),
        "the reference does not solve it",
    ),
    "chance": (
        changed(RUNS, reference="import random\ndef longest_run(xs):\n    return len(xs) if random.random() < 0.5 else -1\n"),
        "the reference does not solve it",
    ),
    "a constant": (
        changed(RUNS, reference="def longest_run(xs):\n    return 3\n", tests=[{"args": [[n]], "expected": 3} for n in range(5)]),
        "a trivial answer solves it",
    ),
    "the identity": (
        changed(RUNS, reference="def longest_run(xs):\n    return xs + 0\n", tests=[{"args": [n], "expected": n} for n in range(5)]),
        "a trivial answer solves it",
    ),
    "vacuous tests": (
        changed(RUNS, tests=[{"args": [list(range(n))], "expected": min(n, 1)} for n in range(5)]),
        "the tests are vacuous",
    ),
    "a statement that tells": (
        changed(RUNS, statement=RUNS["statement"] + " Hint: best = max(best,  count)."),
        "the statement holds the answer",
    ),
    "too few tests": (changed(RUNS, tests=RUNS["tests"][:3]), "3 tests"),
    "the same test again": (changed(RUNS, tests=[RUNS["tests"][0]] * 6), "different arguments"),
    "an unnamed function": (changed(RUNS, entry_point="f"), "not a name that the statement says"),
    "a malformed test": (changed(RUNS, tests=[{"args": 5, "expected": 1}] * 5), "a test is"),
    "an attack": (
        changed(RUNS, reference="import os\ndef longest_run(xs):\n    os._exit(0)\n"),
        "the reference does not solve it",
    ),
}


class ScriptedModel:
    """Says the given replies in turn, and keeps what it was asked."""

    def __init__(self, replies: Sequence[Task | str]) -> None:
        self.replies = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        self.asked: list[str] = []

    async def reply(self, message: str, *, seed: int) -> Reply:
        self.asked.append(message)
        return Reply(text=self.replies[(len(self.asked) - 1) % len(self.replies)], num_tokens=10)


def written(
    replies: Sequence[Task | str], methods: Sequence[Method] = (self_instruct,), **admission: Any
) -> tuple[list[Written], ScriptedModel]:
    model = ScriptedModel(replies)
    config = TasksConfig.model_validate({"near_duplicate": 0.7, "avoid_repeats": True, **admission})

    async def collect() -> list[Written]:
        writer = TaskWriter(
            model,
            CodeEnv.author(),
            task_key=CodeEnv.task_key,
            admission=Admission(config, lambda task: f"code\0{CodeEnv.task_key(task)}"),
            methods=methods,
            seed=0,
            concurrency=1,
        )
        return [one async for one in writer.write(len(replies))]

    return asyncio.run(collect()), model


def test_sound_tasks_are_kept_whatever_is_said_around_them() -> None:
    found, _ = written([RUNS, f"Here it is:\n```json\n{json.dumps(INITIALS)}\n```\nHave fun!"])
    tasks = [one.task for one in found if one.task is not None]
    assert [task.payload["entry_point"] for task in tasks] == ["longest_run", "initials"]
    assert [one.reason for one in found] == [None, None]
    first = tasks[0]
    assert first.prompt == RUNS["statement"] + "\nlongest_run([1, 1, 2]) == 2"
    assert (len(first.payload["public_tests"]), len(first.payload["hidden_tests"])) == (1, 5)
    assert (first.operator, first.env, first.family) == ("write:self_instruct", "code", "written")
    assert json.dumps(RUNS["tests"][1]["args"]) not in first.prompt


def test_a_statement_that_is_the_references_docstring_tells_nothing() -> None:
    documented = RUNS["reference"].replace("(xs):\n", f'(xs):\n    """Count.\n\n    {RUNS["statement"]}\n    """\n')
    assert leaked(documented, RUNS["statement"]) is None
    assert leaked(documented, f"{RUNS['statement']} So best = max(best, count).") == "best = max(best, count)"


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_hold_is_refused_with_its_reason(name: str) -> None:
    reply, why = REFUSED[name]
    ((one,), _) = written([reply])
    assert one.task is None
    assert one.reason is not None
    assert why in one.reason, one.reason
    assert one.reply == (reply if isinstance(reply, str) else json.dumps(reply))


def test_a_request_without_an_answer_is_one_refusal_among_others() -> None:
    class Moody(ScriptedModel):
        async def reply(self, message: str, *, seed: int) -> Reply:
            answer = await super().reply(message, seed=seed)
            if "too long" in answer.text:
                raise InferenceError("the prompt is too long")
            return answer

    async def collect() -> list[Written]:
        writer = TaskWriter(
            Moody(["no", "too long"]),
            CodeEnv.author(),
            task_key=CodeEnv.task_key,
            admission=Admission(TasksConfig(), lambda task: None),
            methods=[self_instruct],
            seed=0,
            concurrency=2,
        )
        return [one async for one in writer.write(4)]

    reasons = [one.reason for one in asyncio.run(collect())]
    assert reasons == ["no JSON object in the answer", "no answer: the prompt is too long"] * 2


def test_repeats_near_duplicates_and_evaluation_items_are_refused(tmp_path: Path) -> None:
    renamed = changed(
        RUNS,
        statement="Quite another wording: longest_run(values) tells how many equal items stand side by side at the most.",
        reference=RUNS["reference"].replace("best", "top").replace("count", "n"),
    )
    reworded = changed(
        RUNS,
        statement=RUNS["statement"].replace("the list xs", "a list xs"),
        reference=RUNS["reference"].replace("best = 0", "best = int(0)"),
    )
    found, _ = written([RUNS, renamed, reworded])
    assert [one.reason for one in found] == [None, "repeat", "near_duplicate"]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": f"Problem 7. {RUNS['statement']}"}))
    found, _ = written([RUNS, INITIALS], decontaminate=[evaluation])
    assert [one.reason for one in found] == ["contaminated", None]


def test_every_method_asks_its_own_way(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("\n".join(f"def helper_{n}(x):\n    return x + {n}" for n in range(30)))
    (tmp_path / "page.md").write_text("# Tides\n\n" + "The moon lifts the sea twice a day, and the sun a little less so. " * 5)
    methods = [self_instruct, evol_instruct, oss_instruct([tmp_path / "code.py"]), from_documents([tmp_path / "page.md"])]
    found, model = written([RUNS, INITIALS, "no", "no"], methods)
    assert [one.operator.split(":")[1] for one in found] == ["self_instruct", "evol", "oss_instruct", "document"]
    assert all(CodeEnv.author().instructions in message for message in model.asked)
    assert "Task 3:" in model.asked[0]
    assert "Here is a task:" in model.asked[1]
    assert "def helper_" in model.asked[2]
    assert "The moon lifts the sea" in model.asked[3]


def test_an_evolved_task_names_its_parent_and_the_written_are_built_upon() -> None:
    asked = evol_instruct(random.Random(0), [Known(reply=json.dumps(RUNS), task_id="parent")], CodeEnv.author())
    assert asked.parent_id == "parent"
    assert asked.operator.startswith("write:evol:")
    assert "longest_run" in asked.text
    ways = {evol_instruct(random.Random(n), [Known(reply="x")], CodeEnv.author()).operator for n in range(60)}
    assert ways == {f"write:evol:{way}" for way in (*IN_DEPTH, "breadth")}
    _, model = written([RUNS, *["no"] * 30], [evol_instruct])
    assert any("longest_run" in message for message in model.asked[1:])


def test_mutants_differ_and_compile() -> None:
    found = mutants("def f(xs):\n    if len(xs) > 2 and xs[0] == 1:\n        return xs[1:] + [3]\n    return 'a'\n")
    assert len(found) > 10
    assert len(set(found)) == len(found)
    assert any("len(xs) >= 2" in m for m in found)
    assert any(" or " in m for m in found)
    assert any("xs[2:]" in m for m in found)
    assert any("'a_'" in m for m in found)
    for mutant in found:
        compile(mutant, "mutant", "exec")
    assert mutants("def f(:") == []


def test_reading_replies() -> None:
    assert read_reply('Sure {"a": 1} bye') == {"a": 1}
    assert read_reply('```\n{"a": {"b": 2}}\n```') == {"a": {"b": 2}}
    for bad in ("", "{", "[1]", "}{", '{"a": }'):
        with pytest.raises(ValueError, match="no JSON"):
            read_reply(bad)


# ---------------------------------------------------------------- documents


def pdf(path: Path, lines: Sequence[str]) -> Path:
    writer = PdfWriter()
    page = writer.add_blank_page(width=600, height=800)
    described = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(name): NameObject(value) for name, value in described.items()})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    stream = DecodedStreamObject()
    drawn = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
    stream.set_data(f"BT /F1 10 Tf 40 780 Td {drawn}ET".encode())
    page[NameObject("/Contents")] = writer._add_object(stream)
    writer.write(path)
    return path


def test_a_pdf_and_a_markdown_page_become_blocks(tmp_path: Path) -> None:
    lines = [f"Line {n} tells of the river and of the mills along it." for n in range(12)]
    (block,) = document_blocks(pdf(tmp_path / "a.pdf", lines))
    assert "Line 0 tells of the river" in block
    assert "Line 11" in block
    page = tmp_path / "a.md"
    page.write_text("# One\n\n" + "First paragraph. " * 20 + "\n\n## Two\n\n- a list\n- of things\n\n" + "Last paragraph. " * 20)
    blocks = document_blocks(page)
    assert len(blocks) == 2
    assert blocks[0].startswith("# One\n\nFirst")
    assert "- of things" in blocks[1]
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 not really")
    (tmp_path / "empty.md").write_text("# Nothing\n")
    for name, why in (("bad.pdf", "can't be read"), ("empty.md", "no text"), ("x.docx", "expected a document")):
        with pytest.raises(ConfigError, match=why):
            document_blocks(tmp_path / name)


# ---------------------------------------------------------------- endpoints and the command


@pytest.fixture
def endpoint() -> Iterator[Callable[[Sequence[Task | str]], str]]:
    """Return a function that serves replies at an OpenAI-compatible address."""
    servers: list[HTTPServer] = []

    def serve(replies: Sequence[Task | str]) -> str:
        texts = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        served: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert (self.path, body["model"], body["messages"][0]["role"]) == ("/v1/chat/completions", "m", "user")
                text = texts[len(served) % len(texts)]
                served.append(text)
                choice = {"message": {"role": "assistant", "content": text}}
                answer = json.dumps({"choices": [choice], "usage": {"completion_tokens": 7}} if text != "broken" else {}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_command_writes_a_file_that_a_recipe_trains_on(
    endpoint: Callable[[Sequence[Task | str]], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "written.jsonl"
    words = [str(out), "--url", endpoint([RUNS, "nothing", INITIALS]), "--model", "m", "--concurrency", "1"]
    assert write.main([*words, "--requests", "3"]) == 0
    said = capsys.readouterr().out
    assert "kept 2 of 3" in said
    assert "21 tokens sampled" in said
    rejected = [json.loads(line) for line in (tmp_path / "written.rejected.jsonl").read_text().splitlines()]
    assert [(r["reason"], r["reply"]) for r in rejected] == [("no JSON object in the answer", "nothing")]
    assert rejected[0]["operator"].startswith("write:evol:")
    assert write.main([*words, "--requests", "3"]) == 0  # all of them are known by now
    assert "kept 0 of 3" in capsys.readouterr().out
    recipe = {"environments": {"code": {"tasks_file": str(out)}}, "tasks": {"heldout_share": 0.01}}
    drawn = {TaskSource(Recipe.model_validate(recipe)).train(i).payload["entry_point"] for i in range(10)}
    assert drawn == {"longest_run", "initials"}


def test_the_command_writes_chemistry_tasks(
    endpoint: Callable[[Sequence[Task | str]], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "molecules.jsonl"
    formula = {"kind": "formula", "value": "C5H10O2"}
    constraints = [formula, {"kind": "functional_group", "name": "ester"}]
    sound = {"statement": "An ester of five carbons.", "reference": "COC(=O)C(C)C", "constraints": constraints}
    words = [str(out), "--env", "chemistry", "--url", endpoint([sound, {**sound, "reference": "CCCCC(=O)O"}]), "--model", "m"]
    assert write.main([*words, "--requests", "2", "--concurrency", "1"]) == 0
    assert "kept 1 of 2" in capsys.readouterr().out
    recipe = {"environments": {"chemistry": {"tasks_file": str(out)}}, "tasks": {"heldout_share": 0.01}}
    assert TaskSource(Recipe.model_validate(recipe)).train(0).payload["reference"] == "COC(=O)C(C)C"


def test_the_command_formalises_problems(
    endpoint: Callable[[Sequence[Task | str]], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, problems = tmp_path / "theorems.jsonl", tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "Show q, if p gives q."}\n{"problem": "Show q, if p gives q and p holds."}\n')
    said = {"statement": "theorem mine (p q : Prop) (h : p → q) (hp : p) : q"}
    url = endpoint([said, "If p gives q and p holds, q.", {"same": False, "why": "p is assumed"}, said, "The same.", {"same": True}])
    words = [str(out), "--env", "lean", "--author", "header=open Nat", "--url", url, "--model", "m", "--judge-model", "m"]
    with learning():
        assert write.main([*words, "--methods", "formalise", "--problems", str(problems), "--requests", "2", "--concurrency", "1"]) == 0
    assert "kept 1 of 2" in capsys.readouterr().out
    task = json.loads(out.read_text())
    assert (task["operator"], task["payload"]["problem"]) == ("write:formalise", "Show q, if p gives q and p holds.")
    assert task["payload"]["header"] == "open Nat"
    assert "p is assumed" in (tmp_path / "theorems.rejected.jsonl").read_text()


def test_a_bad_endpoint_and_bad_arguments_are_said(
    endpoint: Callable[[Sequence[Task | str]], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "w.jsonl")
    assert write.main([out, "--url", endpoint(["broken"]), "--model", "m", "--requests", "1"]) == 1
    assert "is it OpenAI-compatible?" in capsys.readouterr().err
    assert write.main([out, "--url", "http://127.0.0.1:1/v1", "--model", "m", "--requests", "1", "--methods", "oss_instruct"]) == 2
    assert "needs --source" in capsys.readouterr().err
    assert write.main([out, "--url", "x", "--model", "m", "--env", "tests.toy_sums:TrustingEnv"]) == 2
    assert "has no author" in capsys.readouterr().err
    assert write.main([out, "--url", "x", "--model", "m", "--author", "header"]) == 2
    assert "'header' is not NAME=VALUE" in capsys.readouterr().err
    assert write.main([out, "--url", "x", "--model", "m", "--author", "header=x"]) == 2
    assert "unexpected keyword argument 'header'" in capsys.readouterr().err
    assert write.main([out, "--url", "x", "--model", "m", "--methods", "formalise"]) == 2
    assert "needs --problems" in capsys.readouterr().err
    (tmp_path / "problems.jsonl").write_text('{"question": "?"}\n')
    assert write.main([out, "--url", "x", "--model", "m", "--methods", "formalise", "--problems", str(tmp_path / "problems.jsonl")]) == 2
    assert "problems.jsonl:1: problem is None" in capsys.readouterr().err
    assert write.main([str(tmp_path / "no" / "out.jsonl"), "--url", "x", "--model", "m"]) == 2
    assert "is there a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        write.main([out, "--url", "x", "--model", "m", "--concurrency", "0"])
    assert "must be at least 1" in capsys.readouterr().err
    assert write.main([out, "--url", "x", "--model", "m", "--sandbox", "bubblewrapp"]) == 2
    assert "did you mean 'bubblewrap'?" in capsys.readouterr().err


def test_the_served_policy_can_write_too() -> None:
    chat = make_chat()
    policy = ScriptedPolicy(chat, lambda context: '{"statement": "as asked"}' if "a joke" in context else "?")
    reply = asyncio.run(EngineModel(policy, chat, max_tokens=200).reply("tell a joke", seed=3))
    assert reply.text == '{"statement": "as asked"}'
    assert reply.num_tokens == len(policy.asked[0].completion_ids)
    assert policy.asked[0].sampling.seed == 3


def test_an_endpoint_that_is_not_there() -> None:
    async def ask() -> None:
        model = EndpointModel("http://127.0.0.1:1/v1", "m", timeout_s=2)
        try:
            await model.reply("hello", seed=0)
        finally:
            await model.close()

    with pytest.raises(InferenceError, match="no usable answer"):
        asyncio.run(ask())


class Careless:
    """An author of few words: it trusts every reply to have what it asks for."""

    instructions = "Reply with JSON."

    def examples(self, seed: int, count: int) -> list[str]:
        return []

    def build(self, reply: Any) -> Any:
        return reply["statement"].task

    def check(self, task: Any) -> None:
        pass


def test_what_an_author_raises_is_the_reason_of_a_refusal() -> None:
    async def collect(*methods: Method) -> list[Written]:
        writer = TaskWriter(
            ScriptedModel(["{}", '{"statement": 1}']),
            Careless(),
            task_key=CodeEnv.task_key,
            admission=Admission(TasksConfig(), lambda task: None),
            methods=methods,
            seed=0,
            concurrency=1,
        )
        return [one async for one in writer.write(2)]

    missing, odd = (str(one.reason) for one in asyncio.run(collect(self_instruct)))
    assert missing.startswith("KeyError: 'statement' (test_writer.py, line ")
    assert odd.startswith("AttributeError: 'int' object has no attribute 'task'")
    with pytest.raises(ConfigError, match="evol_instruct makes tasks of known ones"):
        asyncio.run(collect(self_instruct, evol_instruct))


def test_blocks_hold_every_word_of_a_page_and_no_heading_stands_alone(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    long, feed = " ".join(f"word{at}" for at in range(420)), "A page\x0cbreak and a line\u2028break are no ends of lines here."
    page.write_text(f"# Heading\n\n{long}\n\n{feed}\n\nAfter it.\n\nThe end.\n")
    blocks = document_blocks(page)
    assert min(map(len, blocks)) >= 200
    assert blocks[0].startswith("# Heading\n\nword0 ")
    assert blocks[-1].endswith(f"{feed}\n\nAfter it.\n\nThe end.")
    assert "".join("".join(blocks).split()) == "".join(page.read_text().split())


def test_a_document_that_can_not_be_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = PdfWriter()
    locked.add_blank_page(width=100, height=100)
    locked.encrypt("secret")
    locked.write(tmp_path / "locked.pdf")
    (tmp_path / "short.md").write_text("# Nothing\n")
    (tmp_path / "notes.txt").write_text("The moon lifts the sea. " * 20)
    (tmp_path / "page.md").write_text("The moon lifts the sea. " * 20)
    assert write._documents(tmp_path) == [tmp_path / "page.md"]
    said = capsys.readouterr().err
    assert "locked.pdf: can't be read" in said
    assert "short.md: no text" in said
    with pytest.raises(ConfigError, match=r"notes\.txt: expected a document"):  # one that is named is not passed over
        from_documents(write._documents(tmp_path / "notes.txt"))
