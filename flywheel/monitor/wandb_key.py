"""Whether this machine has a key for Weights & Biases, found without importing wandb and without reading it out."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_DEFAULT_URL = "https://api.wandb.ai"


def has_wandb_key(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``WANDB_API_KEY`` is set or the netrc file has a login for the W&B host."""
    if environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL") or _DEFAULT_URL).hostname or ""
    home = Path(environ.get("HOME") or Path.home())
    places = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    return any(_has_login(place, host) for place in places)


def _has_login(path: Path, host: str) -> bool:
    try:
        login = netrc.netrc(path).hosts.get(host)
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return False
    return login is not None and bool(login[2])
