"""Tables and configuration: ids that would run or leave, rows that say two things, keys and values that mean something else."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cohortex.cohort import make_cohort
from cohortex.config import check_config, check_files
from tests.battery.case import Case

HEADER = "subject\tmodality\tpath\n"


def cohort(text: str | bytes) -> Callable[[Path], None]:
    """Return what makes the cohort of a table."""

    def make(folder: Path) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "cohort.tsv").write_bytes(data)
        make_cohort(check_config({"input": str(folder / "cohort.tsv"), "work": str(folder / "w"), "output": str(folder / "r")}))

    return make


def subject(name: str) -> Callable[[Path], None]:
    """Return what makes a cohort with an odd id among good ones; nothing of it may run or be made."""

    def make(folder: Path) -> None:
        try:
            cohort(HEADER + f"001\tT1w\ta.nii\n{name}\tT1w\tb.nii\n")(folder)
        finally:
            there = {path.name for path in folder.rglob("*")} | {path.name for path in folder.parent.glob("P*")}
            assert "P" not in there, "a command in an id was run"

    return make


def folder_named(name: str) -> Callable[[Path], None]:
    """Return what reads a BIDS dataset with a folder of an odd name."""

    def make(folder: Path) -> None:
        for each in ("sub-01", name):
            (folder / "bids" / each / "anat").mkdir(parents=True)
            (folder / "bids" / each / "anat" / f"{each}_T1w.nii.gz").write_bytes(b"x")
        make_cohort(check_config({"input": str(folder / "bids"), "work": str(folder / "w"), "output": str(folder / "r")}))

    return make


def config(**changes: Any) -> Callable[[Path], None]:
    """Return what checks a configuration."""

    def make(folder: Path) -> None:
        check_config({"input": "demo", "work": "w", "output": "r", **changes})

    return make


def written(text: str) -> Callable[[Path], None]:
    """Return what reads a file of configuration; nothing of it may run."""

    def make(folder: Path) -> None:
        (folder / "mine.yaml").write_text(text.replace("FOLDER", str(folder)))
        try:
            check_files([folder / "mine.yaml"])
            check_config({"input": "demo", "work": "w", "output": "r", **yaml.safe_load((folder / "mine.yaml").read_text())})
        finally:
            assert not (folder / "P").exists(), "the file was run"

    return make


def inside(folder: Path) -> None:
    (folder / "in").mkdir()
    check_config({"input": str(folder / "in"), "output": str(folder / "in" / "out"), "work": str(folder / "w")})


def the_same(folder: Path) -> None:
    (folder / "in").mkdir()
    check_config({"input": str(folder / "in"), "output": str(folder / "in"), "work": str(folder / "w")})


def work_inside(folder: Path) -> None:
    (folder / "in").mkdir()
    check_config({"input": str(folder / "in"), "output": str(folder / "r"), "work": str(folder / "in" / "w")})


def linked(folder: Path) -> None:
    (folder / "in" / "there").mkdir(parents=True)
    (folder / "out").symlink_to(folder / "in" / "there")
    check_config({"input": str(folder / "in"), "output": str(folder / "out"), "work": str(folder / "w")})


def nobody(folder: Path) -> None:
    cohort(HEADER)(folder)


def none_selected(folder: Path) -> None:
    (folder / "cohort.tsv").write_text(HEADER + "001\tT1w\ta.nii\n")
    settings = {"input": str(folder / "cohort.tsv"), "work": str(folder / "w"), "output": str(folder / "r")}
    make_cohort(check_config({**settings, "select": {"subject": ["999"]}}))


LETTERS, NO_ID = ("letters and digits",), ("letters and digits", "subject is", "cells, expected")
NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
BOMB = "\n".join(["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)])
REFUSED = "refused"
CASES = [
    Case("T01a", "a command in an id", "run in `shell:`", REFUSED, LETTERS, subject("x;touch P;")),
    Case("T01b", "a command in an id, in brackets", "run in `shell:`", REFUSED, LETTERS, subject("$(touch P)")),
    Case("T01c", "a command in an id, in backticks", "run in `shell:`", REFUSED, LETTERS, subject("`touch P`")),
    Case("T01d", "a quote in an id", "ends the quotes of `shell:`", REFUSED, LETTERS, subject("q'x")),
    Case("T01e", "a new line in an id", "", REFUSED, NO_ID, subject("0\n1")),
    Case("T01f", "a command in the name of a folder", "run in `shell:`", REFUSED, LETTERS, folder_named("sub-a;touch P")),
    Case("T02a", "an id that goes up", "written elsewhere", REFUSED, LETTERS, subject("../../x")),
    Case("T02b", "an id that is a path", "written elsewhere", REFUSED, LETTERS, subject("/abs")),
    Case("T02c", "an id that is an option", "", REFUSED, LETTERS, subject("-rf")),
    Case("T02d", "an id in braces", "a wildcard", REFUSED, LETTERS, subject("{s}")),
    Case("T02e", "a NUL in an id", "", REFUSED, (*LETTERS, "NUL"), subject("a\0b")),
    Case("T02f", "an id of 65 letters", "", REFUSED, LETTERS, subject("a" * 65)),
    Case("T02g", "no id", "", REFUSED, NO_ID, subject("")),
    Case("T02h", "a new line after an id, which `$` lets pass", "", REFUSED, (), folder_named("sub-01\n")),
    Case("T04a", "a row twice", "", REFUSED, ("are both",), cohort(HEADER + "01\tT1w\ta\n01\tT1w\tb\n")),
    Case("T04b", "é in two ways", "two subjects that look alike", REFUSED, LETTERS, cohort(HEADER + f"{NFC}\tT1w\ta\n{NFD}\tT1w\tb\n")),
    Case("T04c", "A and a", "one folder on some disks", REFUSED, ("case only",), cohort(HEADER + "A\tT1w\ta\na\tT1w\tb\n")),
    Case("T05b", "UTF-16", "", REFUSED, ("UTF-16",), cohort((HEADER + "01\tT1w\ta\n").encode("utf-16"))),
    Case("T05c", "Latin-1", "", REFUSED, ("not UTF-8",), cohort(HEADER.encode() + b"01\tT1w\tM\xfcller\n")),
    Case("T05d", "commas", "one column", REFUSED, ("commas",), cohort("subject,modality,path\n01,T1w,a\n")),
    Case("T05e", "a row with a cell too many", "shifted silently", REFUSED, ("line 2 has 4 cells",), cohort(HEADER + "01\tT1w\ta\tb\n")),
    Case("T07", "an unknown key", "ignored", REFUSED, ("did you mean",), config(batch_szie=4)),
    Case("T08a", "`no` for a word", "false", REFUSED, ("truth value",), written("fingerprint: no\n")),
    Case("T08b", "'4' for a number", "taken", REFUSED, ("the text '4'",), config(batch_size="4")),
    Case("T08c", "true for a number", "1", REFUSED, ("truth value",), config(batch_size=True)),
    Case("T08d", "012 for a subject", "10", REFUSED, ("put it in quotes",), written("select:\n  subject: [012]\n")),
    Case("T08e", "1:30 for a number", "90", REFUSED, ("means 90",), written("batch_size: 1:30\n")),
    Case("T08f", "012 for a number", "10", REFUSED, ("means 10",), written("batch_size: 012\n")),
    Case("T09", "a key twice", "the last one", REFUSED, ("already stands on line",), written("seed: 1\nseed: 2\n")),
    Case(
        "T10a",
        "YAML that runs a command",
        "run by yaml.load",
        REFUSED,
        ("is not allowed",),
        written("seed: !!python/object/apply:os.system ['touch FOLDER/P']\n"),
    ),
    Case("T10b", "aliases upon aliases", "10^37 words", REFUSED, (), written(BOMB)),
    Case("T13a", "no rows", "", REFUSED, ("has no rows",), nobody),
    Case("T13b", "a subject that is not there", "nothing is done, exit 0", REFUSED, ("999",), none_selected),
    Case("T15a", "output inside input", "the input grows", REFUSED, ("output lies inside input",), inside),
    Case("T15b", "output and input are one folder", "the input grows", REFUSED, ("output",), the_same),
    Case("T15c", "work inside input", "the input grows", REFUSED, ("work lies inside input",), work_inside),
    Case("T15d", "output is a link into the input", "the input grows", REFUSED, ("output lies inside input",), linked),
]
"""What is refused before any job; a name of the machine is not kept from the one who typed it."""
