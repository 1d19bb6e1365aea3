"""Shows the report of a run in a browser, and to the viewers of subjects the whole volumes of the results."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cohortex.errors import Refused

REPORT = Path("report", "index.html")
"""The page, in the results."""
HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names of this machine for itself; the port may be another one where a tunnel leads here."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Nothing is kept, nothing can be taken in by another page, and no other page learns the address."""


def make_server(results: Path, port: int, page: str = "report/index.html") -> tuple[ThreadingHTTPServer, str]:
    """Return a server of the results on the loopback interface, and the address of a page.

    Parameters
    ----------
    results : Path
    port : int
        0 takes a free one.
    page : str
        Path in the results.

    Raises
    ------
    Refused
        The port is taken.

    Notes
    -----
    The machine may have other users, who reach its loopback interface too: nothing is answered without the secret that the
    address holds. A page from elsewhere that gives this machine a name of its own (DNS rebinding) is refused by that name.
    """
    secret = secrets.token_urlsafe(24)
    handler: Callable[..., SimpleHTTPRequestHandler] = partial(_Handler, secret=secret, directory=str(results))
    try:
        server = _Server(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        raise Refused(f"--port {port} cannot be had ({error}); give another, or none for any free one.") from None
    return server, f"http://127.0.0.1:{server.server_address[1]}/{secret}/{page}"


def page_of(results: Path, subject: str | None) -> str:
    """Return the page to show, relative to the results: the report, or the viewer of a subject, or else its page.

    Raises
    ------
    Refused
        There is none.
    """
    if not (results / REPORT).is_file():
        raise Refused(f"{results} has no {REPORT}; name the output folder of a run that has ended.")
    if subject is None:
        return REPORT.as_posix()
    name = subject.removeprefix("sub-")
    for page in (f"report/subjects/sub-{name}.view.html", f"report/subjects/sub-{name}.html") if name.isalnum() else ():
        if (results / page).is_file():
            return page
    raise Refused(f"{results} has no page of the subject {name}; the report makes those that report: subjects names (all: everybody's).")


def serve(results: Path, port: int, browser: bool, subject: str | None = None) -> None:
    """Serve the report, or the viewer of a subject, until the user interrupts."""
    server, address = make_server(results, port, page_of(results, subject))
    sys.stdout.write(f"The {'report' if subject is None else 'subject'} is at {address} (end with Ctrl-C)\n")
    sys.stdout.flush()
    if browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()


def _host(text: str) -> str | None:
    try:
        return urlsplit(f"//{text}").hostname
    except ValueError:
        return None


class _Server(ThreadingHTTPServer):
    """Says nothing of browsers that went away before they had everything."""

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Gives files of the results below the secret: no listing of folders, nothing hidden, nothing that a link brings in from elsewhere."""

    def __init__(self, *arguments, secret: str, directory: str):
        self.secret = secret
        super().__init__(*arguments, directory=directory)

    def send_head(self):
        start = f"/{self.secret}/"
        if _host(self.headers.get("Host", "")) not in HOSTS:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        if not secrets.compare_digest(self.path[: len(start)].encode(), start.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self.path = self.path[len(start) - 1 :]
        if not self._is_of_the_results():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def _is_of_the_results(self) -> bool:
        try:
            root, path = Path(self.directory).resolve(), Path(self.translate_path(self.path)).resolve()
            return path.is_file() and path.is_relative_to(root) and not any(part.startswith(".") for part in path.relative_to(root).parts)
        except (OSError, RuntimeError, ValueError):
            # a loop of links, a name that no file can have
            return False

    def do_HEAD(self):
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path):
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args) -> None:  # noqa: A002 - the name that the library gives it
        """Say nothing: addresses hold the secret."""
