"""A case of the battery, and what the checker alone says of it: no workflow, one image."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import Image, Made
from cohortex.stages.acquire import acquire

SECRET = "ZZPHI9"
"""Stands wherever a case has room for a patient's data; nothing that is said or written may hold it."""
MOST_S = 20.0
MOST_MB = 700.0
"""What the check of one image may take beyond what the process had."""


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes
    ----------
    id : str
        A letter for what it is of (N NIfTI, D DICOM, K k-space and sinograms, Z zarr, T tables and configuration, M models, S geometry)
        and a number; variants end in a small letter.
    what : str
        What is wrong with it.
    libraries : str
        What the usual libraries do with it, where that is not to refuse it.
    verdict : str
        ``set aside`` (the image, the others go on), ``skipped`` (by policy), ``warned`` (goes on, with a sentence), ``taken`` (nothing is
        wrong after all), ``refused`` (before any work).
    codes : tuple of str
        Of which one must be the code; empty for any. For ``refused`` words of which one stands in the sentence.
    make : callable
        Makes the input in an empty folder and returns its path; for ``refused`` it is called with the folder and must raise.
    check : callable, optional
        Gets what the stage made and raises where it is not right.
    """

    id: str
    what: str
    libraries: str
    verdict: str
    codes: tuple[str, ...]
    make: Callable[[Path], Any]
    modality: str = "T1w"
    role: str = "image"
    settings: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Made], None] | None = None


@dataclass(frozen=True)
class Judged:
    """What was said of a case: the verdict, its code and sentence, what it took, and what is wrong with all this."""

    verdict: str
    code: str
    sentence: str
    seconds: float
    grown_mb: float
    wrong: tuple[str, ...]


def tree(folder: Path) -> dict[str, str]:
    """Return every entry below a folder with its type, and of files the content's sum."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def outcome(case: Case, path: Path, plan: Plan) -> tuple[str, str, str, Made | None]:
    """Return verdict, code and sentence of an image, and what was made of it."""
    row = {"path": str(path), "root": str(path.parent)}
    kind = "image" if case.role == "image" else "labels"
    image = Image("001_x", "001", "", case.modality, kind, case.role, row=row)
    try:
        with planned(plan):
            made = acquire(image, {"volume": "skip", "spacing_mm": None, **case.settings}, None, 0)
            last = made if isinstance(made, Made) else made[-1]
            if last.content is not None:
                np.asarray(last.content.data[...])  # type: ignore[union-attr]
    except BadInput as bad:
        return "set aside", bad.code, bad.sentence, None
    except Skip as skip:
        return "skipped", skip.code, skip.sentence, None
    return ("warned" if last.status == "warned" else "taken"), last.code, last.reason, last


def judge(case: Case, folder: Path) -> Judged:
    """Make a case in an empty folder, run it and hold what happened against what must happen."""
    folder.mkdir(parents=True, exist_ok=True)
    if case.verdict == "refused":
        return refusal(case, folder)
    path = Path(case.make(folder))
    before, scratch = tree(folder), folder.with_name(folder.name + ".scratch")
    scratch.mkdir()
    grown, start, wrong = memory_mb(), time.monotonic(), []
    verdict, code, sentence, made = outcome(case, path, Plan())
    seconds, grown = time.monotonic() - start, memory_mb() - grown
    again = outcome(case, path, Plan(memory_mb=0, scratch=scratch))[:3]
    if again != (verdict, code, sentence):
        wrong.append(f"a volume that does not stay in memory is judged otherwise: {again}")
    if verdict != case.verdict:
        wrong.append(f"it is {verdict} ({code}), not {case.verdict}")
    elif case.codes and code not in case.codes:
        wrong.append(f"its code is {code}, not {' or '.join(case.codes)}")
    if verdict in ("set aside", "skipped", "warned"):
        wrong += words(sentence, path, folder)
    if tree(folder) != before:
        wrong.append("the input was changed")
    wrong += limits(seconds, grown)
    if case.check is not None and made is not None:
        try:
            case.check(made)
        except AssertionError as error:
            wrong.append(f"what was made is not right: {error}")
    return Judged(verdict, code, sentence, seconds, grown, tuple(wrong))


def refusal(case: Case, folder: Path) -> Judged:
    """Run a case that must be refused before any work."""
    grown, start = memory_mb(), time.monotonic()
    try:
        case.make(folder)
    except Refused as error:
        sentence, verdict = str(error), "refused"
    else:
        sentence, verdict = "", "taken"
    seconds, grown = time.monotonic() - start, memory_mb() - grown
    wrong = [] if verdict == "refused" else ["it is not refused"]
    if case.codes and not any(word in sentence for word in case.codes):
        wrong.append(f"the sentence says none of {', '.join(case.codes)}: {sentence}")
    if SECRET in sentence:
        wrong.append("the sentence holds a value of the input")
    return Judged(verdict, "", sentence, seconds, grown, (*wrong, *limits(seconds, grown)))


def words(sentence: str, path: Path, folder: Path) -> list[str]:
    """Return what is wrong with a sentence: it names the file, says what to do, and holds neither a patient's data nor a place."""
    wrong = []
    if path.name not in sentence and not (path.is_dir() and any(each.name in sentence for each in path.iterdir())):
        wrong.append(f"the sentence names no file: {sentence}")
    if SECRET in sentence.replace(path.name, ""):
        wrong.append(f"the sentence holds a value of the input: {sentence}")
    if str(folder) in sentence:
        wrong.append(f"the sentence holds a place of the machine: {sentence}")
    if len(sentence) > 600 or not sentence.rstrip(")").endswith((".", " more")):
        wrong.append(f"this is no sentence: {sentence[:700]}")
    return wrong


def limits(seconds: float, grown: float) -> list[str]:
    """Return what was too slow or too large."""
    found = [f"it took {seconds:.1f} s"] if seconds > MOST_S else []
    return [*found, f"it took {grown:.0f} MB"] if grown > MOST_MB else found


def memory_mb() -> float:
    """Return the largest memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
