"""A server that speaks the endpoints by which a vLLM server takes live weights, and receives what a trainer broadcasts."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

WAIT_S = 30


class Wire:
    """What NCCL would be between one trainer and one worker: both join before either goes on, and tensors arrive in order."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2)
        self.tensors: queue.Queue[torch.Tensor] = queue.Queue()
        self.joined: list[dict[str, Any]] = []

    def join(self, init_info: dict[str, Any]) -> Wire:
        """Join as the trainer."""
        self.joined.append(init_info)
        self.meeting.wait(WAIT_S)
        return self

    def broadcast(self, tensor: torch.Tensor) -> None:
        self.tensors.put(tensor.clone())

    def wait(self) -> None:
        self.tensors.join()


class DevServer:
    """Keeps every request in order, and every tensor that was received by name.

    Attributes:
        refuse: Paths that are answered with status 500.
    """

    def __init__(self, wire: Wire) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.received: dict[str, torch.Tensor] = {}
        self.refuse: set[str] = set()
        self.wire = wire

    def answer(self, path: str, body: Any) -> None:
        """Do what a worker does before the server answers."""
        if path == "/init_weight_transfer_engine" and "master_port" in body["init_info"]:
            self.wire.meeting.wait(WAIT_S)
        elif path == "/update_weights" and "ipc_handles_pickled" not in body["update_info"]:
            info = body["update_info"]
            for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
                tensor = self.wire.tensors.get(timeout=WAIT_S)
                assert (tensor.dtype, list(tensor.shape)) == (getattr(torch, dtype), shape), name
                self.received[name] = tensor
                self.wire.tensors.task_done()


@contextmanager
def serving(server: DevServer) -> Iterator[str]:
    """Serve on a free port and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(200, {"data": [{"id": "policy"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            server.requests.append((self.path, body))
            path = self.path.partition("?")[0]
            if path in server.refuse:
                self._reply(500, {"error": "refused"})
                return
            server.answer(path, body)
            self._reply(200, {})

        def _reply(self, status: int, answer: Any) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
