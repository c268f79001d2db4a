"""The ``base`` filter as a seccomp profile of docker's: what holds for a whole container, its relay too.

``python -m flywheel.sandbox.docker_profile > docker/seccomp.json`` writes the copy that compose.yaml and people use by hand.
"""

from __future__ import annotations

import json
from typing import Any

from flywheel.sandbox.seccomp import (
    ALLOWED_FAMILIES,
    ARCHES,
    BUFFER_SIZES,
    DENIED,
    DEVICE_BIT,
    EAFNOSUPPORT,
    ENOSYS,
    MAKE_NODE,
    NEW_NAMESPACE_FLAGS,
    SOCKET_LEVEL,
)


def docker_profile() -> dict[str, Any]:
    """Return the profile, for every architecture that has a table."""

    def deny(names: list[str], errno: int = 1, *tests: tuple[int, str, int, int]) -> dict[str, Any]:
        args = [{"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{op}"} for index, op, value, second in tests]
        return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, **({"args": args} if args else {})}

    flags = [1 << bit for bit in range(32) if NEW_NAMESPACE_FLAGS >> bit & 1]
    last = max(ALLOWED_FAMILIES.values())
    others = [family for family in range(last) if family not in ALLOWED_FAMILIES.values()]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": f"SCMP_ARCH_{machine.upper()}", "subArchitectures": []} for machine in ARCHES],
        "syscalls": [
            deny(sorted(DENIED)),
            deny(["clone3"], ENOSYS & 0xFFFF),
            *(deny(["clone"], 1, (0, "MASKED_EQ", flag, flag)) for flag in flags),
            *(deny(["socket"], EAFNOSUPPORT & 0xFFFF, (0, "EQ", family, 0)) for family in others),
            deny(["socket"], EAFNOSUPPORT & 0xFFFF, (0, "GT", last, 0)),
            *(deny(["setsockopt"], 1, (1, "EQ", SOCKET_LEVEL, 0), (2, "EQ", option, 0)) for option in BUFFER_SIZES),
            deny(["prlimit64"], 1, (0, "NE", 0, 0)),
            *(deny([name], 1, (mode, "MASKED_EQ", DEVICE_BIT, DEVICE_BIT)) for name, (_, _, mode) in MAKE_NODE.items()),
        ],
    }


def docker_json() -> str:
    """Return the profile as text, the contents of ``docker/seccomp.json``."""
    return json.dumps(docker_profile(), indent=2) + "\n"


if __name__ == "__main__":
    print(docker_json(), end="")
