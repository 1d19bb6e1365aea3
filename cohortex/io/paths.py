"""What a path is before anybody opens it, and how messages call it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from cohortex.errors import BadInput

POINTERS = (b"version https://git-lfs", b"/annex/objects/", b".git/annex/objects")


def shown_name(path: Path, root: Path | None = None) -> str:
    """Return how messages name a path: relative to the dataset's root, or else its last two parts."""
    if root is not None:
        try:
            return path.relative_to(root).as_posix()
        except ValueError:
            pass
    return "/".join(part for part in path.parts[-2:] if part != path.anchor)


_ROOT: ContextVar[Path | None] = ContextVar("root", default=None)


@contextmanager
def confined(root: Path | None) -> Iterator[None]:
    """Let no link below a dataset's folder lead out of it while files are opened; None lets them lead anywhere."""
    token = _ROOT.set(root)
    try:
        yield
    finally:
        _ROOT.reset(token)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def check_inside(path: Path, name: str) -> None:
    """Refuse a path below the dataset's folder that a link leads out of it; what a table names elsewhere is the user's own choice.

    Raises
    ------
    BadInput
        ``outside``.
    """
    root = _ROOT.get()
    if root is None:
        return
    top, there = os.path.abspath(root), os.path.abspath(path)  # noqa: PTH100 - links stay as they are
    if not there.startswith(f"{top}/"):
        return
    # folders hold many files, and few of these are links
    folder, _, last = there.rpartition("/")
    real = os.path.realpath(there) if path.is_symlink() else f"{_real(folder)}/{last}"
    if not real.startswith(f"{_real(top)}/"):
        raise BadInput(
            "outside",
            f"{name} is a link that leads out of the dataset's folder: put its target there, or set acquire.default.links to follow.",
        )


def check_file(path: Path, name: str) -> int:
    """Return the size of a regular, non-empty file whose content is really here.

    Raises
    ------
    BadInput
        ``outside`` (see `check_inside`), ``missing-file``, ``not-fetched`` (a git-annex link or pointer, a git-lfs pointer), ``not-a-file``
        (a pipe, a device, a folder), ``empty``.
    """
    check_inside(path, name)
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise BadInput(
                "not-fetched",
                f"{name} is a link to content that is not here: fetch it (datalad get, git annex get) or restore its target.",
            ) from None
        raise BadInput("missing-file", f"{name} does not exist: restore it or take it out of the table.") from None
    except OSError as error:
        raise BadInput("unreadable", f"{name} cannot be opened ({error.strerror}): check its permissions and links.") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput("not-a-file", f"{name} is not a regular file (a folder, pipe or device): give an image file.")
    if status.st_size == 0:
        raise BadInput("empty", f"{name} is empty (0 bytes): copy it again from its source.")
    if status.st_size < 1024:
        with path.open("rb") as file:
            start = file.read(1024)
        if any(pointer in start for pointer in POINTERS):
            raise BadInput("not-fetched", f"{name} is only a pointer to its content: fetch it (git lfs pull, datalad get).")
    return status.st_size


def what_it_is(start: bytes) -> str:
    """Name the kind of content that a file's first bytes show, for messages about a wrong one."""
    head = start[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page (a failed download?)"
    for magic, kind in (
        (b"\x1f\x8b", "gzip data"),
        (b"\x89png", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"pk\x03\x04", "a ZIP archive"),
        (b"\x89hdf", "an HDF5 file"),
        (b"nrrd", "an NRRD file"),
        (b"%pdf", "a PDF"),
    ):
        if start[: len(magic)].lower() == magic:
            return kind
    if start[128:132] == b"DICM":
        return "a DICOM file"
    if start[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return "an uncompressed NIfTI file"
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start[:256]):
        return "plain text"
    return "something unknown"
