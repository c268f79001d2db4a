"""The training sets that a collect stage writes, by their files' names."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from flywheel.errors import ConfigError

_NAME = re.compile(r"(sft|dpo)-(messages|tokens)(|\.jsonl|\.parquet)")


class SetName(NamedTuple):
    """What a set's name says of it; see `flywheel.export.rows`."""

    kind: Literal["sft", "dpo"]
    form: Literal["messages", "tokens"]


def parse_set(name: str) -> SetName:
    """Return what a set's name says.

    Raises:
        ConfigError: it is no set's name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"distill.sets: got {name!r}, expected sft-messages, sft-tokens, dpo-messages or dpo-tokens, and .jsonl, .parquet or nothing"
        )
    return SetName("sft" if found[1] == "sft" else "dpo", "messages" if found[2] == "messages" else "tokens")
