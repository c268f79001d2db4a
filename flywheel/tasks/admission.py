"""Which tasks may train: no evaluation item, nothing too much like a held-out task, and (where the recipe says so) few repeats.

The split by canonical key, which keeps held-out tasks from training, is `flywheel.tasks.source`'s; this is what a key can't see.
Prose is compared for families without knobs only (files, data sets, model-written tasks): the tasks of a template are all alike. For the
same reason an evaluation item that a template made bars by its words prose alone, and by its key whatever has that.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flywheel.config import TasksConfig
from flywheel.errors import ConfigError
from flywheel.records import read_records
from flywheel.tasks.similar import SimilarTexts, ngram_hashes
from flywheel.types import Task

NGRAM = 13  # the length of the usual decontamination n-gram (arXiv:2005.14165, appendix C)
TEXT_FIELDS = ("prompt", "question", "problem", "instruction", "statement", "text", "input")


class Admission:
    """Refuses tasks, and remembers those that were drawn.

    Args:
        config: The recipe's ``[tasks]``.
        identity: Returns the key of a task record, for evaluation files that hold such; None where there is none.
        is_prose: Says whether such a record is prose, or its key no more than a hash of it.

    Raises:
        ConfigError: an evaluation file can't be read, or a line of it has no text.
    """

    def __init__(
        self, config: TasksConfig, identity: Callable[[Task], str | None], is_prose: Callable[[Task], bool] = lambda task: True
    ) -> None:
        self._config = config
        self._is_prose = is_prose
        self._known: OrderedDict[str, None] = OrderedDict()
        self._evaluation_keys: set[str] = set()
        self._evaluation_ngrams: set[int] = set()
        self._template_ngrams: set[int] = set()
        self._drawn, self._barred = (  # what must not train is never forgotten
            SimilarTexts(threshold=config.near_duplicate, max_texts=most) if config.near_duplicate < 1 else None
            for most in (config.max_known, sys.maxsize)
        )
        self.refused: Counter[str] = Counter()
        for path in config.decontaminate:
            self._read(path, identity)

    def bar(self, texts: Iterable[tuple[str, str]]) -> None:
        """Let no task train that is a near-duplicate of these texts, given with their names."""
        if self._barred is not None:
            for name, text in texts:
                self._barred.add(name, text)

    def refuses(self, *, is_prose: bool) -> bool:
        """Whether there is anything that `refusal` could object to."""
        return bool(self._evaluation_ngrams or self._evaluation_keys) or self.remembers(is_prose=is_prose)

    def refusal(self, task: Task, key: str, *, is_prose: bool, repeats: bool = False) -> str | None:
        """Return why a task may not train, and count it; None where it may.

        Args:
            task: The task.
            key: ``ENV`` and canonical key.
            is_prose: Compare its prompt with others.
            repeats: It may be one that was drawn before.
        """
        reason = self._refusal(task, key, is_prose=is_prose, repeats=repeats)
        if reason is not None:
            self.refused[reason] += 1
        return reason

    def is_repeat(self, key: str) -> bool:
        """Whether a task was drawn before, and is not to come again; count it where it was."""
        if key not in self._known:
            return False
        self.refused["repeat"] += 1
        return True

    def is_contaminated(self, task: Task, key: str, *, is_prose: bool) -> bool:
        """Whether a task is an evaluation's, by its ``ENV`` and canonical key or by a passage of its prompt."""
        if key in self._evaluation_keys:
            return True
        known = [ngrams for ngrams in (self._evaluation_ngrams, self._template_ngrams if is_prose else None) if ngrams]
        said = ngram_hashes(task.prompt, NGRAM) if known else set()
        return not all(ngrams.isdisjoint(said) for ngrams in known)

    def remembers(self, *, is_prose: bool) -> bool:
        """Whether there is any use in `remember`."""
        return self._config.avoid_repeats or (is_prose and self._drawn is not None)

    def remember(self, task: Task, key: str, *, is_prose: bool) -> None:
        """Remember a task that was drawn."""
        if self._config.avoid_repeats:
            self._known[key] = None
            if len(self._known) > self._config.max_known:
                self._known.popitem(last=False)
        if is_prose and self._drawn is not None:
            self._drawn.add(key, task.prompt)

    def _refusal(self, task: Task, key: str, *, is_prose: bool, repeats: bool) -> str | None:
        if self.is_contaminated(task, key, is_prose=is_prose):
            return "contaminated"
        if key in self._known and not repeats:
            return "repeat"
        if not is_prose or self._barred is None or self._drawn is None:
            return None
        if self._barred.nearest(task.prompt) is not None:
            return "near_heldout"
        return "near_duplicate" if self._drawn.nearest(task.prompt, but=key) is not None else None

    def _read(self, path: Path, identity: Callable[[Task], str | None]) -> None:
        """Take in an evaluation file.

        Raises:
            ConfigError: it can't be read, or a line of it has no text.
        """

        def texts_of(data: dict[str, Any]) -> tuple[list[str], set[int]]:
            texts = [data[field] for field in TEXT_FIELDS if isinstance(data.get(field), str)]
            if not texts:
                raise ValueError(f"expected an object with one of {', '.join(TEXT_FIELDS)}")
            ngrams = self._evaluation_ngrams
            if {"env", "prompt", "payload"} <= set(data) and (key := identity(task := Task.from_json(data))) is not None:
                self._evaluation_keys.add(key)
                ngrams = ngrams if self._is_prose(task) else self._template_ngrams
            return texts, ngrams

        try:
            for number, (texts, ngrams) in enumerate(read_records(path, texts_of), start=1):
                for text in texts:
                    ngrams |= ngram_hashes(text, NGRAM)
                self.bar((f"{path}:{number}.{at}", text) for at, text in enumerate(texts))
        except ConfigError as error:
            raise ConfigError(*(f"tasks.decontaminate: {problem}" for problem in error.problems)) from None
