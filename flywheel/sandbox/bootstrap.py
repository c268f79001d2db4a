"""The first words of a sandbox's Python: how a bare interpreter with a control socket becomes a zygote.

The zygote's modules come in over the control socket, so that no file of the host's needs to be readable in there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

INSIDE = Path(__file__).with_name("inside")
MODULES = ("messages", "plain", "refusals", "channel", "fences", "answer", "served", "node", "runners", "zygote")
ARGUMENTS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c")

# `random` would seed itself in every forked child, from the kernel; here it is seeded once, in the zygote.
BOOTSTRAP = """
import os
register, os.register_at_fork = os.register_at_fork, lambda **_: None
import _socket, json, random, sys, types
os.register_at_fork = register
control = _socket.socket(fileno=int(sys.argv[1]))
size = int(control.recv(32)); data = b""
while len(data) < size:
    part = control.recv(65536)
    if not part: sys.exit(1)
    data += part
first = json.loads(data)
for name in ("flywheel", "flywheel.sandbox", "flywheel.sandbox.inside"):
    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []
for name, source in first["modules"]:
    full = "flywheel.sandbox.inside." + name
    module = sys.modules[full] = types.ModuleType(full)
    setattr(sys.modules["flywheel.sandbox.inside"], name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
setup = first["setup"]
del data, part, first, source
module.main(control.detach(), setup)
"""

# Where no descriptor can be inherited: wait for the one that brings the control socket (`inside.relay`), then go on as above.
LISTEN = """
import _socket, sys
listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
listener.bind("\\0flywheel"); listener.listen(1)
sys.argv = ["-", str(listener._accept()[0])]
listener.close()
"""


def source(name: str) -> str:
    """Return the source of a module that runs inside."""
    return (INSIDE / f"{name}.py").read_text(encoding="utf-8")


def command(python: str, control_fd: int) -> list[str]:
    """Return the command that turns an interpreter into a zygote."""
    return [python, *ARGUMENTS, BOOTSTRAP, str(control_fd)]


def first_message(setup: Mapping[str, object]) -> bytes:
    """Return what the bootstrap reads."""
    return json.dumps({"modules": [(name, source(name)) for name in MODULES], "setup": setup}).encode()
