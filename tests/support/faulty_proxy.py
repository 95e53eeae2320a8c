"""A proxy before a real S3 server that spoils the requests it is told to."""

from __future__ import annotations

import http.client
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["cut_body", "lose_answer", "unavailable"]


class FaultyProxy:
    """Passes requests on to `endpoint`; the next requests of a method may be spoilt.

    `spoil("GET", "cut_body", times=2)`: the next two answers break off in the middle of the body.
    `lose_answer`: the server does the work, then the connection closes without a word.
    `unavailable`: 503 SlowDown, and the server sees nothing.
    """

    def __init__(self, endpoint: str) -> None:
        self._faults: deque[tuple[str, Fault]] = deque()
        self._lock = threading.Lock()
        self.seen: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65_537)
                if not self.raw_requestline:
                    self.close_connection = True
                elif self.parse_request():
                    proxy._pass_on(self, urlsplit(endpoint).netloc)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def spoil(self, method: str, fault: Fault, times: int = 1) -> None:
        """Spoils the next `times` requests of that method."""
        self._faults.extend([(method, fault)] * times)

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

    def _fault(self, method: str) -> Fault | None:
        with self._lock:
            self.seen.append(method)
            if self._faults and self._faults[0][0] == method:
                return self._faults.popleft()[1]
        return None

    def _pass_on(self, handler: BaseHTTPRequestHandler, server: str) -> None:
        if handler.headers.get("Expect", "").lower() == "100-continue":
            handler.send_response_only(100)
            handler.end_headers()
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        fault = self._fault(handler.command)
        if fault == "unavailable":
            text = b"<Error><Code>SlowDown</Code></Error>"
            handler.send_response_only(503)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
            return
        upstream = http.client.HTTPConnection(server, timeout=30)
        # The client signed its own Host header, so that is passed on as it is.
        upstream.putrequest(handler.command, handler.path, True, True)
        for name, value in handler.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lose_answer":
            handler.close_connection = True
            return
        handler.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                handler.send_header(name, value)
        if answer.getheader("Content-Length") is None and answer.status != 204:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if fault == "cut_body":
            content = content[: len(content) // 2]
            handler.close_connection = True
        handler.wfile.write(content)
