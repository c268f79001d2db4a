"""``python -m flywheel.view RUN``: serve a run's window on this machine, or export it."""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from flywheel.errors import FlywheelError, StoreError
from flywheel.run_folder import check_place, write_whole
from flywheel.view.app import make_app
from flywheel.view.data import RunData
from flywheel.view.export import export_html

_HOST = "127.0.0.1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 the run can't be read or the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.view", description="Look into a run, while it goes on or afterwards.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write one HTML file that needs no server, and leave")
    parser.add_argument("--groups", type=int, default=60, help="groups in an exported file, taken evenly (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.groups < 1:
        parser.error(f"--groups is {args.groups}, expected at least 1")
    if not 0 <= args.port < 2**16:
        parser.error(f"--port is {args.port}, expected 0 to {2**16 - 1}")
    try:
        if args.export is not None:
            check_place(args.export, "--export")
        data = RunData(args.run)
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        return _export(data, args.export, args.groups) if args.export is not None else _serve(data, args.port)
    finally:
        data.close()


def _export(data: RunData, path: Path, num_groups: int) -> int:
    try:
        page = export_html(data, num_groups)
        write_whole(path, page)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {len(page.encode()) / 2**20:.1f} MiB")
    return 0


def _serve(data: RunData, port: int) -> int:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen()  # before the address is told: whoever reads it may be quicker than the server
        except OSError as error:
            print(f"error: port {port} of {_HOST}: {error.strerror}; --port names another one, 0 any", file=sys.stderr)
            return 1
        # The address is for this machine's browsers only: what is shown may be hostile, and nothing asks who looks.
        print(f"http://{_HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(make_app(data), log_level="warning", access_log=False, lifespan="on")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in good order, and raises it again
            uvicorn.Server(config).run(sockets=[listener])
    return 0
