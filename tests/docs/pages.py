"""What the pages of the documentation hold: blocks, commands, and files that they have one make or change."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.workflow import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("sh", "bash", "console")
PROGRAMS = ("make", "snakemake", "cohortex", "python", "pip", "docker", "apptainer", "git")
"""What a command in the middle of a sentence begins with."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its lines, where it stands, and the last line of text above it."""

    page: str
    language: str
    text: str
    above: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    above, inside, language, fence = "", None, "", ""
    for line in page.read_text(encoding="utf-8").splitlines():
        opening = re.match(r" *(```+)([\w-]*)", line)
        if inside is None and opening:
            inside, fence, language = [], opening[1], opening[2]
        elif inside is not None and line.strip() == fence:
            yield Block(str(page.relative_to(ROOT)), language, "\n".join(inside) + "\n", above)
            inside = None
        elif inside is not None:
            inside.append(line)
        elif line.strip():
            above = line
    assert inside is None, f"{page} has a block that does not end"


def commands(page: Path) -> list[str]:
    """Return the commands of a page: every line of a shell block, and code in a sentence that is a program with an argument."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in blocks(page):
        if block.language in SHELLS:
            joined = re.sub(r"\\\n\s*", "", block.text)
            found += [re.sub(r"^\$ |\s+#.*$", "", line).strip() for line in joined.splitlines() if line.strip()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        words = " ".join(code.split())
        if words.split(" ")[0] in PROGRAMS and " " in words:
            found.append(words)
    return list(dict.fromkeys(found))


def copy_repository(folder: Path) -> Path:
    """Copy what is committed or changed, but nothing that git ignores, and link the environment in; return the copy."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, names.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink()) if source.is_symlink() else shutil.copy2(source, target)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # code that numba compiled already, which knows its source by name, size and time
    for path in (ROOT / "cohortex").rglob("__pycache__/*.nb[ic]"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    return folder


def steps(page: Path) -> list[tuple[str, bool, str]]:
    """Return what a page has one do: file, whether it is new, and the block that is its text or its change (``diff``)."""
    found, place = [], ""
    for block in blocks(page):
        named = re.search(r"\*\*([\w./-]+)\*\*(, new|, which [^:]*)?:$", block.above)
        if named:
            place = named[1]
            if named[2] == ", new":
                found.append((place, True, block.text))
                continue
        if block.language == "diff":
            assert place, f"{page}: a change of no file"
            found.append((place, False, block.text))
    return found


def follow(page: Path, folder: Path) -> list[Path]:
    """Do what a page says in a copy of the repository; return the files that were made or changed."""
    touched = []
    for place, new, text in steps(page):
        path = folder / place
        if new:
            assert not path.exists(), f"{page.name}: {place} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        else:
            path.write_text(changed(path.read_text(encoding="utf-8"), text, f"{page.name}, {place}"), encoding="utf-8")
        touched.append(path)
    return touched


def changed(text: str, change: str, what: str) -> str:
    """Apply a change without line numbers: kept (blank) and removed (-) lines must stand in the text, once and one after the other."""
    lines, wanted = text.splitlines(), [(line[:1] or " ", line[1:]) for line in change.splitlines()]
    old = [line for sign, line in wanted if sign != "+"]
    places = [at for at in range(len(lines) - len(old) + 1) if all(map(_alike, old, lines[at:]))]
    assert len(places) == 1, f"{what}: these lines stand {len(places)} times in it and not once:\n" + "\n".join(old)
    made, at = [], places[0]
    for sign, line in wanted:
        if sign == "+":
            made.append(line)
        else:
            made += [lines[at]] if sign == " " else []
            at += 1
    return "\n".join([*lines[: places[0]], *made, *lines[at:]]) + "\n"


def _alike(wanted: str, line: str) -> bool:
    return line.startswith(wanted[:-3]) if wanted.endswith("...") else line == wanted
