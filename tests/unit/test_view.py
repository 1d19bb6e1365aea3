"""The server of `cohortex view`: the results, to who has the address, and nothing else to anybody."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from cohortex.cli import main
from cohortex.view import HEADERS, make_server


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for name, text in {
        "report/index.html": "the report",
        "report/subjects/sub-01.html": "the page",
        "report/subjects/sub-01.view.html": "the viewer",
        "report/subjects/sub-02.html": "another page",
        "sub-01/anat/sub-01_T1w.nii.gz": "a volume",
        ".cohortex/owner.json": "an owner",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "results-of-others").mkdir()
    (tmp_path / "results-of-others" / "a.txt").write_text("a secret")
    return folder


@pytest.fixture
def served(results):
    """Give what asks a server of the results for the path of an address, a host and a method, and gives status, text and headers."""
    server, address = make_server(results, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    secret = urlsplit(address).path.split("/")[1]

    def ask(path, host=None, method="GET", own=True):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        try:
            connection.putrequest(method, f"/{secret}{path}" if own else path, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            connection.close()

    yield ask
    server.shutdown()
    server.server_close()
    thread.join()


def test_pages_and_volumes_are_given_to_who_has_the_address(served):
    status, text, headers = served("/report/index.html")
    assert (status, text) == (200, "the report") and headers.items() >= HEADERS.items()
    status, text, headers = served("/sub-01/anat/sub-01_T1w.nii.gz")
    assert (status, text) == (200, "a volume") and "Content-Encoding" not in headers
    assert served("/report/index.html", own=False)[0] == served("/x" * 30 + "/report/index.html", own=False)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0"])
def test_a_page_from_elsewhere_that_names_this_machine_is_refused(served, host):
    assert served("/report/index.html", host=host or " ")[:2][0] == 421


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:9", "LOCALHOST", "[::1]:80"])
def test_a_tunnel_from_another_machine_is_served(served, host):
    assert served("/report/index.html", host=host)[:2] == (200, "the report")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/report/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "//etc/passwd",
        "/../results-of-others/a.txt",
        "/report",
        "/report/",
        "/",
        "/.cohortex/owner.json",
        "/report/index.html%00.txt",
        "/nothing",
        "/" + "x" * 5000,
    ],
)
def test_nothing_beside_the_results_nothing_hidden_and_no_list_of_a_folder_is_given(served, path):
    status, text, _ = served(path)
    assert status == 404 and "secret" not in text and "owner" not in text


def test_a_link_that_leaves_the_results_is_not_followed_and_one_inside_is(served, results):
    (results / "out.txt").symlink_to(results.parent / "secret.txt")
    (results / "folder").symlink_to(results.parent / "results-of-others")
    (results / "hidden.json").symlink_to(results / ".cohortex" / "owner.json")
    (results / "loop").symlink_to(results / "loop")
    (results / "inside.html").symlink_to(results / "report" / "index.html")
    os.mkfifo(results / "pipe")
    assert [served(path)[0] for path in ("/out.txt", "/folder/a.txt", "/hidden.json", "/loop", "/pipe")] == [404] * 5
    assert served("/inside.html")[:2] == (200, "the report")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_is_answered_but_get(served, method):
    assert served("/report/index.html", method=method)[0] in (405, 501)


def test_only_this_machine_is_listened_to(results):
    server, address = make_server(results, 0)
    with server:
        assert server.server_address[0] == "127.0.0.1" and address.startswith("http://127.0.0.1:")
        assert len(urlsplit(address).path.split("/")[1]) >= 32


@pytest.mark.parametrize("words", [[], ["--open"]])
def test_the_command_says_the_address_opens_a_browser_only_when_told_to_and_ends_with_an_interrupt(results, words):
    say = "lambda address: print(address, flush=True)"
    code = f"import sys, webbrowser; from cohortex.cli import main; webbrowser.open = {say}; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "view", str(results), "sub-01", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        opened = process.stdout.readline() if words else ""
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert "http://127.0.0.1:" in line and "/report/subjects/sub-01.view.html" in line
    assert opened.strip() in line and bool(opened) == bool(words)
    assert rest == errors == "" and process.returncode == 130


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["03"], "no page of the subject 03"),
        (["../../secret"], "no page of the subject"),
        (["01", "--port", "70000"], "--port 70000 cannot be had"),
    ],
)
def test_what_cannot_be_shown_is_refused(results, words, said, capsys):
    assert main(["view", str(results), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_of(results, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["view", str(results), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another" in capsys.readouterr().err


def test_the_page_of_a_subject_without_a_viewer_is_shown(results):
    from cohortex.view import page_of

    assert page_of(results, "02") == "report/subjects/sub-02.html"
    assert page_of(results, None) == "report/index.html"
