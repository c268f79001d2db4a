"""The text of single tokens, by the tokenizer that lies in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


class TokenTexts:
    """Turns token ids into text, one by one; without a tokenizer an id stands for itself.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        found = [path for place in ("weights/*", "checkpoints/step-*", "policy") for path in run_dir.glob(f"{place}/tokenizer.json")]
        self._tokenizer = Tokenizer.from_file(str(found[0])) if found else None
        self._known: dict[int, str] = {}

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Return each id's own text; a part of a character that is spread over several tokens shows as U+FFFD."""
        for token_id in set(ids) - self._known.keys():
            text = "" if self._tokenizer is None else self._tokenizer.decode([token_id], skip_special_tokens=False)
            self._known[token_id] = text or f"⟨{token_id}⟩"
        return [self._known[token_id] for token_id in ids]
