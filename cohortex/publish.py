"""Atomic files: a temporary neighbour with an unpredictable name, then a rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Error numbers that are the disk's fault, never an image's."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour of `path` to write to; on success it is flushed to disk and takes the name.

    Works for a file or a folder that the caller makes under the given name. On an error nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if temporary.is_dir():
            if path.is_dir():
                shutil.rmtree(path)
            temporary.rename(path)
        else:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted, so that the same content gives the same bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links; of a folder, every file in it."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                there = target / path.relative_to(source)
                there.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, there)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        shutil.copy2(source, target)


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path, name: str = "", deep: bool = False) -> None:
    """Remove what killed writers left in a folder.

    Parameters
    ----------
    name : str
        Only what was to become this; without it everything, so nobody else may write to the folder now.
    deep : bool
        In the folders below, too.
    """
    pattern = f".{name}.*.tmp" if name else ".*.tmp"
    for path in list(folder.rglob(pattern) if deep else folder.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
