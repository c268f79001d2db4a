"""The store in SQL: a DuckDB connection with a view for each kind of record, over the Parquet shards and what is not in them yet.

    with ask(Path("runs/quickstart")) as db:
        db.sql("SELECT family, avg(reward) FROM experiences GROUP BY family").show()

or ``python -m flywheel.store RUN "SELECT …"``. `VIEWS` documents the views. Every view has seq (the order of writing) and step.
Shards are compared with their checksums first, since DuckDB knows nothing of those. What ``store.max_gb`` has dropped is in no view.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import get_args

import duckdb
import pyarrow as pa

from flywheel.errors import StoreError
from flywheel.store.reader import Reader, RecordKind
from flywheel.store.shards import INDEX_COLUMNS, ROWS_PER_GROUP, schema_of, to_table

# DuckDB's JSON has no lone surrogates, which a byte-level policy writes now and then: here, and only here, they become U+FFFD.
_SAYABLE = r"CASE WHEN contains(body, '\ud') THEN regexp_replace(body, '\\ud[89a-f][0-9a-f]{2}', '\\ufffd', 'g') ELSE body END"

_QUESTIONS = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)  # PIVOT is several statements

# View: (what it holds, its SQL over the raw records of a kind). Raw records have seq, id, step and body (JSON).
VIEWS: Mapping[str, tuple[str, str]] = {
    "tasks": (
        "every task that was attempted: env, family, prompt, payload, params, parent_id, operator, split",
        """SELECT seq, id, step, body->>'$.env' AS env, body->>'$.family' AS family, body->>'$.prompt' AS prompt,
           body->'$.payload' AS payload, body->'$.params' AS params, (body->>'$.seed')::BIGINT AS seed,
           body->>'$.parent_id' AS parent_id, body->>'$.operator' AS operator, body->>'$.split' AS split,
           body->>'$.source_id' AS source_id FROM raw_task""",
    ),
    "experiences": (
        "attempts and their verdicts: the index's columns, answer, stop_reason, evidence, checks, duration_s, token_ids with loss_mask (1: "
        "sampled) and behavior_logprobs (one a sampled token)",
        f"""SELECT seq, id, step, {", ".join(name for name in INDEX_COLUMNS if name != "tier")}, coalesce(raised.tier, r.tier) AS tier,
            body->>'$.trajectory.answer' AS answer, body->>'$.trajectory.stop_reason' AS stop_reason,
            body->>'$.verdict.evidence' AS evidence, body->'$.verdict.checks' AS checks,
            (body->>'$.verdict.duration_s')::DOUBLE AS duration_s, token_ids, loss_mask, behavior_logprobs FROM raw_experience r
            LEFT JOIN (SELECT body->>'$.experience_id' AS of, max(body->>'$.tier') AS tier FROM raw_tier GROUP BY 1) raised
            ON raised.of = r.id""",
    ),
    "turns": (
        "one row a turn of an attempt: turn (from 0), policy_version, text, tool_calls, observation",
        """SELECT seq, id AS experience_id, step, found.at - 1 AS turn, found.turn->>'$.policy_version' AS policy_version,
           found.turn->>'$.text' AS text, found.turn->'$.tool_calls' AS tool_calls, found.turn->>'$.observation' AS observation
           FROM (SELECT seq, id, step, unnest(list_transform(CAST(body->'$.trajectory.turns' AS JSON[]),
                 lambda x, i: {'turn': x, 'at': i})) AS found FROM raw_experience)""",
    ),
    "routes": (
        "where each attempt went, and why: experience_id, destination, reason, also (further destinations)",
        """SELECT seq, step, body->>'$.experience_id' AS experience_id, body->>'$.destination' AS destination, body->>'$.reason' AS reason,
           CAST(coalesce(body->'$.also', '[]') AS VARCHAR[]) AS also FROM raw_route""",
    ),
    "lessons": (
        "what waited to be imitated: experience_id, source (hindsight, repair, distill), weight (chance to be drawn), maker, predicted",
        """SELECT seq, step, id AS experience_id, body->>'$.source' AS source, (body->>'$.weight')::DOUBLE AS weight,
           body->>'$.maker' AS maker, (body->>'$.predicted')::DOUBLE AS predicted FROM raw_lesson""",
    ),
    "batches": (
        "what each step trained on: num_rows, num_grpo_tokens, num_ce_tokens, and its tokens as in experiences",
        """SELECT seq, id, step, json_array_length(body->'$.rows') AS num_rows, (body->>'$.num_grpo_tokens')::BIGINT AS num_grpo_tokens,
           (body->>'$.num_ce_tokens')::BIGINT AS num_ce_tokens, token_ids, loss_mask, behavior_logprobs FROM raw_batch""",
    ),
    "batch_rows": (
        "one row a training sequence: experience_id, kind, advantage, weight",
        """SELECT seq, step, row->>'$.experience_id' AS experience_id, row->>'$.kind' AS kind, (row->>'$.advantage')::DOUBLE AS advantage,
           (row->>'$.weight')::DOUBLE AS weight FROM (SELECT seq, step, unnest(CAST(body->'$.rows' AS JSON[])) AS row FROM raw_batch)""",
    ),
    "steps": (
        "policy versions: policy_version (attempt.step), metrics, checkpoint, superseded (it trained before a lost checkpoint)",
        """SELECT seq, step, id AS policy_version, body->'$.metrics' AS metrics, body->>'$.checkpoint' AS checkpoint,
           id IN (SELECT id FROM raw_superseded) AS superseded FROM raw_step""",
    ),
    "relabellings": (
        "attempts made of other attempts: parent_id, child_id, relabeller, kept, reason",
        """SELECT seq, step, body->>'$.parent_id' AS parent_id, body->>'$.child_id' AS child_id, body->>'$.relabeller' AS relabeller,
           (body->>'$.kept')::BOOLEAN AS kept, body->>'$.reason' AS reason FROM raw_relabelling""",
    ),
    "evaluations": (
        "held-out evaluations, one row a task: policy_version, task_id, env, family, num_samples, num_solved",
        """SELECT seq, step, policy_version, score->>'$.task_id' AS task_id, score->>'$.env' AS env, score->>'$.family' AS family,
           (score->>'$.num_samples')::INTEGER AS num_samples, (score->>'$.num_solved')::INTEGER AS num_solved
           FROM (SELECT seq, step, body->>'$.policy_version' AS policy_version, unnest(CAST(body->'$.scores' AS JSON[])) AS score
                 FROM raw_evaluation)""",
    ),
    "attempts": (
        "the times that the run was started: attempt, after_step (of the checkpoint it went on from)",
        "SELECT seq, step, id::INTEGER AS attempt, (body->>'$.after_step')::INTEGER AS after_step FROM raw_attempt",
    ),
}


@contextlib.contextmanager
def ask(folder: Path, *, skip_damaged: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a DuckDB connection that has the run's records as `VIEWS`; it can't change them.

    Args:
        folder: The run folder.
        skip_damaged: Leave damaged shards out instead of refusing to count without them.

    Raises:
        StoreError: there is no journal, it can't be read, or a shard is missing or damaged.
    """
    with Reader.open(folder) as reader, duckdb.connect() as db:
        damaged = reader.damaged_shards()
        if damaged and not skip_damaged:
            raise StoreError(next(iter(damaged.values())))
        for kind in get_args(RecordKind):
            _define(reader, db, kind, damaged)
        for name, (_, sql) in VIEWS.items():
            db.execute(f"CREATE VIEW {name} AS {sql}")
        yield db


def answer(db: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """Return the answer to one question; what else DuckDB can do (writing files, attaching the journal itself) is refused.

    Raises:
        StoreError: it is no question, or more than one.
        duckdb.Error: it can't be understood.
    """
    kinds = [statement.type for statement in db.extract_statements(sql)]
    if len(kinds) != 1 or kinds[0] not in _QUESTIONS:
        got = ", ".join(kind.name for kind in kinds) or "nothing"
        raise StoreError(f"got {got}, expected one SELECT (or DESCRIBE, SUMMARIZE, PIVOT); --csv > FILE writes its answer to a file")
    return db.sql(sql)


def _define(reader: Reader, db: duckdb.DuckDBPyConnection, kind: RecordKind, damaged: Container[str]) -> None:
    """Make ``raw_KIND``: the shards of a kind, and its records that are still in SQLite."""
    seqs = [seq for (seq,) in reader.query("SELECT seq FROM records WHERE kind = ? AND shard IS NULL ORDER BY seq", (kind,))]
    pieces = [to_table(kind, reader.stored_rows(kind, seqs[at : at + ROWS_PER_GROUP])) for at in range(0, len(seqs), ROWS_PER_GROUP)]
    db.register(f"tail_{kind}", pa.concat_tables([schema_of(kind).empty_table(), *pieces]))
    files = _shard_files(reader, kind, damaged)
    sealed = f"SELECT * FROM read_parquet([{', '.join(map(_literal, files))}]) UNION ALL BY NAME " if files else ""
    db.execute(f"CREATE VIEW raw_{kind} AS SELECT * REPLACE ({_SAYABLE} AS body) FROM ({sealed}SELECT * FROM tail_{kind})")


def _shard_files(reader: Reader, kind: str, damaged: Container[str]) -> list[str]:
    rows = reader.query("SELECT file FROM shards WHERE NOT dropped AND kind = ? ORDER BY number", (kind,))
    return [str((reader.folder / "store" / file).resolve()) for (file,) in rows if file not in damaged]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
