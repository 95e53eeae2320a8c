"""A server on loopback that gives each request the same answer, whatever it asks."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class AnsweringServer:
    """Answers with `status`, `headers` and `body`, which may be set anew at any time.

    Attributes:
        endpoint: its URL.
        seen: methods of the requests so far, in order.
    """

    def __init__(self) -> None:
        self.status, self.headers, self.body = 200, dict[str, str](), b""
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                server.seen.append(self.command)
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response_only(server.status)
                if "Date" not in server.headers:
                    self.send_header("Date", self.date_time_string())
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(server.body)

            do_GET = do_HEAD = do_PUT = do_DELETE = answer

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client that gives up
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, status: int, body: str = "", **headers: str) -> None:
        """Sets the answer; in a header's name `_` becomes `-`."""
        self.status, self.body = status, body.encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def refuse(self, status: int, code: str) -> None:
        """Sets an answer with an error of S3."""
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        self.answer(status, text, Content_Type="application/xml")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
