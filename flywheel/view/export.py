"""The window as one HTML file that needs no server: the same page with its script, its style and some of the run's data inside.

Groups are taken evenly from the whole run. The data lies in a script element of a type that nothing runs, with ``<`` escaped, and
the page's policy allows the two scripts and the style by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from flywheel.monitor.jsonl import strict_json
from flywheel.view.app import static
from flywheel.view.data import RunData


def export_html(data: RunData, num_groups: int) -> str:
    """Return the page with `num_groups` groups and all their attempts in it."""
    ids = [group_id for (group_id,) in data.reader.query("SELECT group_id FROM experiences GROUP BY group_id ORDER BY min(seq)")]
    count = min(num_groups, len(ids))
    chosen = [ids[at * len(ids) // count] for at in range(count)]
    groups = {group_id: found for group_id in chosen if (found := data.group(group_id)) is not None}
    # What was dropped from the store stands in its group with that said, and has no page of its own.
    attempts = {s["id"]: data.attempt(s["id"]) for group in groups.values() for s in group["siblings"] if s["problem"] is None}
    inside = {
        "overview": {**data.overview(), "indexed": 1.0},
        "curves": data.curves(),
        "groups": groups,
        "attempts": attempts,
        "texts": {group_id: _words(group, attempts) for group_id, group in groups.items()},
    }
    style, scripts = static("style.css"), [static("charts.js"), static("app.js")]
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    held = strict_json(inside).decode("utf-8").strip().replace("<", "\\u003c")
    page = static("index.html")
    page = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">')
    page = page.replace('<link rel="stylesheet" href="/static/style.css">', f"<style>{style}</style>")
    inline = "".join(f"<script>{script}</script>\n" for script in scripts)
    start = page.index('<script src="/static/charts.js">')
    end = page.index("</body>")
    return f'{page[:start]}<script type="application/json" id="run-data">{held}</script>\n{inline}{page[end:]}'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _words(group: dict[str, Any], attempts: dict[str, Any]) -> str:
    texts = [group["task"]["prompt"], group["env"], group["family"]]
    for sibling in group["siblings"]:
        if (attempt := attempts.get(sibling["id"])) is None:
            continue
        texts += [attempt["evidence"], attempt["answer"] or ""]
        texts += [f"{turn['text']} {turn['observation'] or ''}" for turn in attempt["turns"]]
    return " ".join(texts).lower()
