"""A proxy before a real S3 server that spoils the requests it is told to."""

from __future__ import annotations

import contextlib
import http.client
import logging
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

Fault = Literal["cut_body", "lose_answer", "unavailable", "error", "reset", "stall", "damage"]

_log = logging.getLogger(__name__)

MIX: tuple[Fault, ...] = ("error", "unavailable", "reset", "lose_answer", "cut_body", "stall")
_REFUSALS: dict[str, tuple[int, str]] = {
    "unavailable": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
}


class FaultyProxy:
    """Passes requests on to `endpoint`; keeps connections open on both sides.

    `spoil("GET", "cut_body", times=2)`: the next two answers break off in the middle of the body.
    `mix(0.05, seed=7)`: that share of all requests is spoilt, each in one of the ways of `MIX`.
    `deny("bucket/some/key")`, `fail("bucket/some/key")`: what begins so is always 403, always 500.

    The ways: `error` 500 and `unavailable` 503 SlowDown, of which the server sees nothing; `reset`
    neither, the connection is reset; `lose_answer`: the server does the work, then the connection
    closes without a word; `cut_body`: half of the answer's body, then it closes; `stall`: the
    answer comes `stall_s` late. Not in `MIX`: `damage` changes a byte of the body.

    Attributes:
        endpoint: its URL.
        seen: methods of the requests so far, in order.
        spoilt: how many were spoilt, by the way.
    """

    def __init__(self, endpoint: str) -> None:
        self._server_name = urlsplit(endpoint).netloc
        self._lock = threading.Lock()
        self._faults: deque[tuple[str, Fault]] = deque()
        self._never: list[tuple[str, str]] = []
        self._random, self._share, self._kinds, self._stall_s = random.Random(0), 0.0, MIX, 0.0
        self.seen: list[str] = []
        self.spoilt: Counter[str] = Counter()
        proxy = self

        class Handler(_Handler):
            def pass_on(self) -> None:
                proxy._pass_on(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def spoil(self, method: str, fault: Fault, times: int = 1) -> None:
        """Spoils the next `times` requests of that method, or of any for "*"."""
        self._faults.extend([(method, fault)] * times)

    def mix(
        self, share: float, *, seed: int, kinds: tuple[Fault, ...] = MIX, stall_s: float = 10.0
    ) -> None:
        """Spoils this share of all requests from now on; the seed is logged, 0.0 ends it."""
        _log.info("%.1f%% of the requests are spoilt, seed %d", 100 * share, seed)
        with self._lock:
            self._random, self._share = random.Random(seed), share
            self._kinds, self._stall_s = kinds, stall_s

    def deny(self, prefix: str) -> None:
        """Whatever begins with this, `bucket/key` or a URI, is forbidden."""
        self._never.append((f"/{prefix.removeprefix('s3://')}", "denied"))

    def fail(self, prefix: str) -> None:
        """Whatever begins with this, `bucket/key` or a URI, is a server's error each time."""
        self._never.append((f"/{prefix.removeprefix('s3://')}", "error"))

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

    def _fault(self, method: str, path: str) -> str | None:
        place = unquote(path.partition("?")[0])
        with self._lock:
            self.seen.append(method)
            fault = next((why for prefix, why in self._never if place.startswith(prefix)), None)
            if fault is None and self._faults and self._faults[0][0] in (method, "*"):
                fault = self._faults.popleft()[1]
            if fault is None and self._random.random() < self._share:
                fault = self._random.choice(self._kinds)
            if fault is not None:
                self.spoilt[fault] += 1
        return fault

    def _pass_on(self, handler: _Handler) -> None:
        if handler.headers.get("Expect", "").lower() == "100-continue":
            handler.send_response_only(100)
            handler.end_headers()
            handler.wfile.flush()
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        fault = self._fault(handler.command, handler.path)
        if fault in _REFUSALS:
            handler.refuse(*_REFUSALS[fault])
        elif fault == "reset":
            handler.reset()
        else:
            answer, content = handler.ask(self._server_name, body)
            if fault == "stall":
                time.sleep(self._stall_s)
            if fault == "damage" and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            if fault == "lose_answer":
                handler.close_connection = True
            else:
                handler.give(answer, content, cut=fault == "cut_body")


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, and one of its own to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer in one packet
    upstream: http.client.HTTPConnection | None = None

    def pass_on(self) -> None:
        raise NotImplementedError

    def handle_one_request(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(65_537)
            if not self.raw_requestline:
                self.close_connection = True
            elif self.parse_request():
                self.close_connection = True  # unless it goes well
                self.pass_on()
                if not self.wfile.closed:
                    self.wfile.flush()
        except ConnectionError:  # a client that gives up, as one does after a timeout
            self.close_connection = True

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def ask(self, server: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """The server's answer to this request."""
        while True:
            fresh = self.upstream is None
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection(server, timeout=60)
            try:
                # The client signed its own Host header, so that is passed on as it is.
                self.upstream.putrequest(self.command, self.path, True, True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        self.upstream.putheader(name, value)
                self.upstream.endheaders(body or None)
                answer = self.upstream.getresponse()
                return answer, answer.read()
            except (http.client.HTTPException, ConnectionError):
                # The server may have closed a connection that idled; a new one is not asked twice.
                self.upstream.close()
                self.upstream = None
                if fresh:
                    raise ConnectionAbortedError(f"{server} does not answer") from None

    def give(self, answer: http.client.HTTPResponse, content: bytes, *, cut: bool) -> None:
        """Passes the answer on, or half of its body."""
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "keep-alive"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None and answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def refuse(self, status: int, code: str) -> None:
        """Answers in the server's place."""
        text = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
        self.close_connection = False

    def reset(self) -> None:
        """Resets the connection, as a server does that crashed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (self.rfile, self.wfile, self.connection):
            end.close()
        self.close_connection = True
