"""The key of a cohort's privacy, and what is derived from it. Imported by the head process of every run, so it imports nothing heavy.

Everything is HMAC-SHA256 (RFC 2104) of a word under a key of its own for each use, which is itself derived from the user's key: who has
a pseudonym and guesses the id cannot check the guess without the key, and the key of one use tells nothing of another's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cohortex.errors import Refused

KEY_BYTES = 32
SUBJECT_LETTERS = 10
"""Letters of a pseudonym, of 5 bits each."""
WORD_LETTERS = 8
SHIFT_DAYS = 365
"""Days are shifted by 1 to so many, back or forth."""


def needs_key(privacy: Mapping[str, Any]) -> bool:
    """Say whether the settings ask for anything that is made with the key."""
    return hides_names(privacy) or privacy["dates"] == "shifted"


def hides_names(privacy: Mapping[str, Any]) -> bool:
    """Say whether files are called by tokens: a path of a dataset holds the id, so pseudonyms imply it."""
    return privacy["file_names"] == "hide" or privacy["ids"] == "pseudonyms"


def check_privacy(config: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be kept.

    Raises
    ------
    Refused
        No key where one is needed, one inside a folder of the run, the demo, which has no patients, or identifiers of the source.
    """
    privacy = config["privacy"]
    if not needs_key(privacy):
        return
    if config["input"] == "demo":
        raise Refused("privacy: ids, file_names and shifted dates are for a cohort of patients, and the demo has none; leave them out.")
    if privacy["key"] is None:
        raise Refused(
            "privacy.key is null, but pseudonyms, hidden file names and shifted dates are made with a key; name a file, which is made "
            "if it is not there, in a folder of yours that is neither shared nor deleted."
        )
    if privacy["key"].startswith("~"):
        raise Refused("privacy.key begins with ~, which only a shell replaces; write the whole path.")
    sections = config.get("export", {})
    if hides_names(privacy) and any(section.get("dicom_uids") == "source" for section in sections.values()):
        raise Refused(
            "export: dicom_uids is source, but those identifiers lead back to the patient, whom privacy hides; set it to derived, or "
            "privacy.ids to given and privacy.file_names to show."
        )
    key = Path(privacy["key"]).resolve()
    for name in ("output", "work", "input"):
        folder = Path(config[name]).resolve()
        if folder.is_dir() and key.is_relative_to(folder):
            raise Refused(f"privacy.key lies inside {name}; keep the key apart from what it protects, in a folder of your own.")


def read_key(path: str | Path, made_before: bool) -> bytes:
    """Return the key that a file holds; where there is none, make one for the owner alone.

    Parameters
    ----------
    path : path
        The key as 64 hexadecimal digits in a line.
    made_before : bool
        A run before was made with a key: one that is gone is not replaced, since all pseudonyms would be others.

    Raises
    ------
    Refused
        The file cannot be read, is no key, is not a plain file of this user, or others may read it. The path is not told.
    """
    path = Path(path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        if made_before:
            raise Refused(
                "the file of privacy.key is not there, and the runs before were made with it: put it back, or, if it is lost, begin anew "
                "with another work and output."
            ) from None
        return _make_key(path)
    except OSError as error:
        raise Refused(f"the file of privacy.key cannot be read ({error.strerror}); name a file in a folder of yours.") from None
    if not stat.S_ISREG(found.st_mode):
        raise Refused("privacy.key names no plain file (a folder, link or pipe); name a file of 64 hexadecimal digits, or a new one.")
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Refused("the file of privacy.key is not for you alone: chmod 600 it (and if others may have read it, take another key).")
    try:
        text = path.read_bytes()[: 4 * KEY_BYTES].decode("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise Refused(f"the file of privacy.key cannot be read ({error.strerror}); chmod 600 it.") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise Refused(
            f"the file of privacy.key holds no key: {2 * KEY_BYTES} hexadecimal digits are wanted; put the right file back, or name one "
            "that is not there yet, which is made."
        )
    return key


def _make_key(path: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Refused(f"the file of privacy.key cannot be made ({error.strerror}); name one in a folder of yours.") from None
    return key


def derived(key: bytes, use: str) -> bytes:
    """Return the key of one use (ids, words, names, dates, check)."""
    return hmac.new(key, f"cohortex|{use}".encode(), hashlib.sha256).digest()


def _letters(key: bytes, text: str, count: int) -> str:
    """Return letters a to z and digits 2 to 7 that stand for a text."""
    digest = hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return base64.b32encode(digest).decode().lower()[:count]


def pseudonyms(key: bytes, ids: Iterable[str], letters: int = SUBJECT_LETTERS) -> dict[str, str]:
    """Return a pseudonym for each id, the same for the same key and id in whatever cohort.

    Raises
    ------
    Refused
        When two ids have one pseudonym, naming it and neither of them.
    """
    own = derived(key, "ids")
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for each in sorted(set(ids)):
        name = f"p{_letters(own, each, letters)}"
        if owner.setdefault(name, each) != each:
            raise Refused(
                f"Two subjects would both be called {name}; take another key (privacy.key) with another work and output, or call one of "
                "them otherwise in a table."
            )
        found[each] = name
    return found


def word(key: bytes, kind: str, text: str) -> str:
    """Return what stands for a word of the user's (an acq, a run, a pair), the same for the same word; empty stays empty."""
    return kind + _letters(derived(key, f"words {kind}"), text, WORD_LETTERS) if text else ""


def check_of(key: bytes) -> str:
    """Return what tells one key from another and says nothing of it."""
    return derived(key, "check").hex()[:24]


def names_key(key: bytes) -> bytes:
    """Return the key of the tokens of files."""
    return derived(key, "names")


def shift_days(key: bytes, subject: str) -> int:
    """Return by how many days all days of a subject are moved: -365 to 365, never 0, each as likely as any other."""
    number = int.from_bytes(hmac.new(derived(key, "dates"), subject.encode(), hashlib.sha256).digest()) % (2 * SHIFT_DAYS)
    return number - SHIFT_DAYS if number < SHIFT_DAYS else number - SHIFT_DAYS + 1
