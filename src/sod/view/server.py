"""The viewer over HTTP, for this machine alone: GET and HEAD, a fixed set of files, and JSON of the runs named.

    /                                     the page, with its style and scripts beside it
    /api/runs                             names of the runs
    /api/rows?run=NAME&page=0&...         a page of the list; filters as in `query.Query.of`
    /api/trajectory?run=NAME&line=17      one trajectory

A page of another site cannot read it: the Host must be this machine (or it reached us by a name of its own, DNS
rebinding), and no answer allows another origin. A URL names no file: paths are looked up in a table.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sod.errors import ConfigError, SodError
from sod.view.query import Query
from sod.view.source import RunSource, sources

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
TYPES: Mapping[str, str] = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SERVED_SOURCE, EXPORTED_SOURCE = "served.js", "exported.js"
"""The two ways of the page to its data; either is served as source.js."""
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_POLL_S = 1.0
_MAX_PAGE = 10_000_000
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page_files() -> dict[str, Path]:
    """What the page is made of, by name: index.html, style.css, scripts, source.js."""
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in TYPES}
    return {name: path for name, path in files.items() if name not in (SERVED_SOURCE, EXPORTED_SOURCE)} | {
        "source.js": PAGE / SERVED_SOURCE
    }


def serve_runs(
    runs: Sequence[Path], *, port: int = 0, on_ready: Callable[[str], None], folder: Path | None = None
) -> None:
    """See `sod.view.serve`; `folder` is where indexes lie (unset: the cache)."""
    with Viewer(sources(runs, folder=folder), port=port) as viewer:
        on_ready(viewer.url)
        try:
            viewer.server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


class Viewer:
    """A server with the thread that follows its runs: `with Viewer(sources([run])) as viewer: viewer.url`.

    Raises ConfigError when the port cannot be had.
    """

    def __init__(self, runs: Sequence[RunSource], *, port: int = 0) -> None:
        self.runs = {run.name: run for run in runs}
        handler = type("Handler", (_Handler,), {"runs": self.runs, "files": page_files()})
        try:
            self.server = _Server((HOST, port), handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} must be free, got: {error}; give another, or 0 for any") from None
        self.url = f"http://{HOST}:{self.server.server_address[1]}/"
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="sod-view-index", daemon=True)

    def __enter__(self) -> Viewer:
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.server.server_close()
        self._follower.join()

    def _follow(self) -> None:
        """Take in what is new, a chunk of each run in turn; a run that cannot be read is tried again."""
        while not self._stop.is_set():
            whole = [self._is_whole(run) for run in self.runs.values()]  # of each run, also after one that is not
            if all(whole):
                self._stop.wait(_POLL_S)

    def _is_whole(self, run: RunSource) -> bool:
        try:
            return self._stop.is_set() or run.index.refresh().whole
        except SodError:
            return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away in the middle of an answer is no news."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    body: bytes
    kind: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK


class _Handler(BaseHTTPRequestHandler):
    """One request a connection (HTTP/1.0): nothing is left over to be read as another."""

    runs: Mapping[str, RunSource] = {}
    files: Mapping[str, Path] = {}
    timeout = 30
    server_version = "sod"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal: a path may hold anything."""

    def _send(self, answer: _Answer, *, with_body: bool) -> None:
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """As all answers, with all headers: http.server's own page repeats what was asked."""
        self._send(_error(HTTPStatus(code), "GET or HEAD of a page of the viewer"), with_body=self.command != "HEAD")

    def _answer(self) -> _Answer:
        if not _is_local(self.headers.get_all("Host", [])):
            return _error(HTTPStatus.MISDIRECTED_REQUEST, "the Host must be this machine; open the printed address")
        try:
            url = urlsplit(self.path)
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "the address cannot be read; start at /")
        if url.path.startswith("/api/"):
            return self._data(url.path.removeprefix("/api/"), url.query)
        path = self.files.get(url.path.removeprefix("/") or "index.html")
        if path is None:
            return _error(HTTPStatus.NOT_FOUND, "there is no such page; start at /")
        return _Answer(body=path.read_bytes(), kind=TYPES[path.suffix])

    def _data(self, what: str, query: str) -> _Answer:
        try:
            asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=40))
            value = self._value(what, asked)
        except ConfigError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        except ValueError as error:
            return _error(HTTPStatus.CONFLICT if isinstance(error, SodError) else HTTPStatus.BAD_REQUEST, str(error))
        except SodError as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if value is None:
            return _error(HTTPStatus.NOT_FOUND, "there is no such run or trajectory; go back to the list")
        return _json(value)

    def _value(self, what: str, asked: Mapping[str, str]) -> Any:
        """What is asked for; None when it is not there."""
        if what == "runs":
            return {"runs": [run.about() for run in self.runs.values()], "exported": None}
        run = self.runs.get(asked.get("run", ""))
        if run is None:
            return None
        if what == "rows":
            return run.rows(Query.of(asked), page=_whole(asked.get("page", "0"), most=_MAX_PAGE))
        if what == "trajectory":
            return run.trajectory(_whole(asked.get("line", ""), most=1 << 53), Query.of(asked))
        return None


def _is_local(hosts: Sequence[str]) -> bool:
    """One Host, this machine's, with any port: a forwarded one (ssh -L) may differ from ours."""
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].strip().lower().rpartition(":")
    if not colon or port.endswith("]"):
        name, port = hosts[0].strip().lower(), ""
    return name in _HOSTS and (port == "" or (port.isascii() and port.isdigit()))


def _whole(value: str, *, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) <= most):
        raise ConfigError(f"a line or page must be a whole number up to {most}, got {value[:40]!r}; give its number")
    return int(value)


def _json(value: Any, *, status: HTTPStatus = HTTPStatus.OK) -> _Answer:
    return _Answer(body=json.dumps(value, allow_nan=False).encode(), status=status)


def _error(status: HTTPStatus, message: str) -> _Answer:
    return _json({"error": message}, status=status)
