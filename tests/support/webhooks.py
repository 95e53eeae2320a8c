"""A real HTTP server on loopback that takes what is posted to it, or says that it cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """A server and what it was sent.

    Args:
        url: to post to.
        answers: the statuses of the first requests; 200 after these.
        asked: how many requests came.
        taken: content of those that were answered by 200.
    """

    url: str = ""
    answers: Sequence[int] = ()
    asked: int = 0
    taken: list[Any] = field(default_factory=list)


@contextmanager
def webhook(*answers: int) -> Iterator[Webhook]:
    """The server within a `with` block."""
    hook = Webhook(answers=answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = hook.answers[hook.asked] if hook.asked < len(hook.answers) else 200
            hook.asked += 1
            if status == 200:
                hook.taken.append(content)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/secret-path"
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
