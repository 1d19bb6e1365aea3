"""Shows the report of a run in a browser."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_server(results: Path, port: int) -> tuple[ThreadingHTTPServer, str]:
    """Return a server of the results on the loopback interface, and the address of the report.

    Parameters
    ----------
    results : Path
    port : int
        0 takes a free one.

    Notes
    -----
    The machine may have other users, who reach its loopback interface too: nothing is answered without the secret that the
    address holds.
    """
    secret = secrets.token_urlsafe(24)
    handler: Callable[..., SimpleHTTPRequestHandler] = partial(_Handler, secret=secret, directory=str(results))
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    return server, f"http://127.0.0.1:{server.server_address[1]}/{secret}/report/index.html"


def serve(results: Path, port: int, browser: bool) -> None:
    """Serve the report until the user interrupts."""
    server, address = make_server(results, port)
    sys.stdout.write(f"The report is at {address} (end with Ctrl-C)\n")
    sys.stdout.flush()
    if browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()


class _Handler(SimpleHTTPRequestHandler):
    """Serves files below the secret, and no listing of folders."""

    def __init__(self, *arguments, secret: str, directory: str):
        self.secret = secret
        super().__init__(*arguments, directory=directory)

    def send_head(self):
        start = f"/{self.secret}/"
        if not self.path.startswith(start):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self.path = self.path[len(start) - 1 :]
        return super().send_head()

    def list_directory(self, path):
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args) -> None:  # noqa: A002 - the name that the library gives it
        """Say nothing: addresses hold the secret."""
