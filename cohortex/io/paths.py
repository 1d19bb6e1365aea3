"""What a path is before anybody opens it, and how messages call it."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cohortex.errors import BadInput

POINTERS = (b"version https://git-lfs", b"/annex/objects/", b".git/annex/objects")


ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".raw", ".zraw", ".ozx", ".ome.zarr", ".zarr", ".h5", ".hdf5", ".npy", ".npz"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".ima", ".series", ".tsv", ".json"),
)
"""Endings that a token keeps: others may be anything."""
TOKEN_DIGITS = 12


class _Hidden(NamedTuple):
    """The key of the tokens of files, and the dataset's folder, to which their paths are relative."""

    key: bytes
    root: str


_HIDDEN: _Hidden | None = None
# one for the process, not for a thread: whatever runs in a job hides what the job hides


def hide_names(key: bytes | None, root: str | Path = "") -> None:
    """Have messages call files by tokens from now on, in this process and those that it forks; None has them called by their names.

    Parameters
    ----------
    key : bytes or None
    root : path
        The dataset's folder; a token stands for the path below it, so a dataset that was moved keeps its tokens.
    """
    global _HIDDEN
    _HIDDEN = None if key is None else _Hidden(key, str(root))


def names_hidden() -> bool:
    """Say whether messages may hold no name of a file, nor anything else that a user wrote into a table."""
    return _HIDDEN is not None


def token(key: bytes, path: str, root: str = "") -> str:
    """Return what stands for a path: ``file-`` and 12 digits of a keyed hash, and its ending where that is a known one."""
    inside = path.removeprefix(f"{root.rstrip('/')}/") if root else path
    digest = hmac.new(key, inside.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
    ending = next((each for each in ENDINGS if path.lower().endswith(each)), "")
    return f"file-{digest[:TOKEN_DIGITS]}{ending}"


def _token(path: Path) -> str:
    assert _HIDDEN is not None
    return token(_HIDDEN.key, os.path.abspath(path), _HIDDEN.root)  # noqa: PTH100 - links stay as they are


def shown_name(path: Path, root: Path | None = None) -> str:
    """Return how messages name a path: relative to the dataset's root, or else its last two parts; a token where names are hidden."""
    if _HIDDEN is not None:
        return _token(path)
    if root is not None:
        try:
            return path.relative_to(root).as_posix()
        except ValueError:
            pass
    return "/".join(part for part in path.parts[-2:] if part != path.anchor)


def shown_inside(path: Path, folder: Path) -> str:
    """Return how messages name a file of a folder that they have named: relative to it, or a token."""
    return _token(path) if _HIDDEN is not None else path.relative_to(folder).as_posix()


def shown_file(path: Path) -> str:
    """Return how messages name a table or folder that the configuration names: its last part, or a token."""
    return _token(path) if _HIDDEN is not None else path.name


def shown_path(path: str) -> str:
    """Return how messages of the system name a path: as it is, or by a token where it lies in a dataset whose names are hidden."""
    return _token(Path(path)) if _HIDDEN is not None and f"{path}/".startswith(f"{_HIDDEN.root}/") else path


def shown_word(word: str, instead: str = "something else") -> str:
    """Return how messages name a word of a user's table: in quotes, or, where names are hidden, not at all."""
    return instead if _HIDDEN is not None else repr(word)


def shown_text(text: str) -> str:
    """Return a word that a file's own header gives (a unit, a channel, an array) as messages name it: not at all where names are hidden."""
    return "(hidden)" if _HIDDEN is not None else text


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
    try:
        check_inside(path, name)
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
