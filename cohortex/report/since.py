"""What changed since the last run: which images came, went or have another word on them, which settings and measures are others.

The output that Snakemake declares is deleted before the report is made again, so what a run said is kept beside the record of that run,
``<work>/runs/<run>.said.gz``: JSON, compressed, the same bytes for the same records.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.config import canonical
from cohortex.publish import atomic_path
from cohortex.report.charts import short
from cohortex.report.measures import Group, spoken
from cohortex.report.records import Records

KEPT = 4
"""Runs whose word is kept; of runs that said the same the first."""
MOVED = 0.5
"""A median that moved by fewer spreads is not told of."""
NAMES, ROWS, MEASURES = 12, 60, 12
"""Ids of new and gone images, images with another status and measures that are written out."""
LARGEST = 1 << 28
"""Bytes of a kept word that are read at most."""


@dataclass(frozen=True)
class Changed:
    """An image with another word on it."""

    image: str
    subject: str
    before: str
    after: str
    stage: str
    code: str
    reason: str


@dataclass(frozen=True)
class Since:
    """What changed between a run and this one.

    Attributes
    ----------
    run : str
        When the run began that this one is compared with (UTC), empty where there is none.
    until : str
        When the first run began that said what this one says: where this run changed nothing, the latest one that did. Empty otherwise.
    new, gone : list of str
    changed : list of Changed
        Those set aside now first.
    causes : list of str
        Settings, versions and models that are others, in words.
    measures : list of str
        Medians that moved, in words.
    """

    run: str = ""
    until: str = ""
    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    measures: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether all is as it was."""
        return not (self.new or self.gone or self.changed or self.causes or self.measures)

    @property
    def flows(self) -> list[tuple[str, str, int]]:
        """Status before, status now and number of images, the largest first."""
        found: dict[tuple[str, str], int] = defaultdict(int)
        for one in self.changed:
            found[one.before, one.after] += 1
        return sorted(((*key, count) for key, count in found.items()), key=lambda row: (-row[2], row[:2]))


def since_last_run(work: Path, records: Records, groups: Sequence[Group], lost: Mapping[str, Any]) -> Since:
    """Return what changed since the last run, and keep what this one says for the next.

    Parameters
    ----------
    work : path
        The records of runs are in ``runs``. Without one, nothing is compared or kept.
    records : Records
    groups : sequence of Group
        The measures of the images that count.
    lost : mapping
        Row by id of what was set aside, with those that left no record (`cohortex.verdict.tally`).

    Notes
    -----
    The report of one run can be made several times: only what earlier runs said is compared. A run that changed nothing does not hide what
    the one before changed: that is told again, with both dates.
    """
    folder = work / "runs"
    run = max((file.stem for file in folder.glob("*.json")), default="") if folder.is_dir() else ""
    if not run:
        return Since()
    now = _said(records, groups, lost)
    kept = sorted(file for file in folder.glob("*.said.gz") if _run_of(file) < run)
    earlier = []
    for file in kept[-KEPT:]:
        told = _read(file)
        if told:
            earlier.append((file, told))
        else:
            records.notes.append(f"runs/{file.name} cannot be read, so this run is not compared with that of {_when(file)}.")
    if earlier and earlier[-1][1] == now:
        # an earlier report of this run may have said something else
        (folder / f"{run}.said.gz").unlink(missing_ok=True)
        file, _ = earlier.pop()
        return _compared(earlier[-1][0], earlier[-1][1], now, _when(file), records.untold) if earlier else Since(_when(file))
    _write(folder / f"{run}.said.gz", now)
    for file in kept[: -(KEPT - 1)]:
        file.unlink(missing_ok=True)
    return _compared(earlier[-1][0], earlier[-1][1], now, "", records.untold) if earlier else Since()


def _said(records: Records, groups: Iterable[Group], lost: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run says, as JSON keeps it."""
    last = {**records.last, **lost}
    names = sorted(set(records.images) | {name for name, row in last.items() if row.is_image or row.set_aside})
    # the last stage has the last word, but a warning of an earlier one still holds
    warned = {row.image: row for stage in reversed(records.stages) for row in records.told.get(stage, []) if row.status == "warned"}
    images = {}
    for name in names:
        row = last.get(name)
        if row is not None and row.status == "ok":
            row = warned.get(name, row)
        images[name] = [row.status, row.stage, row.code, row.reason[:300], row.subject] if row else ["failed", "", "", "", ""]
    measures = {}
    for group in groups:
        low, middle, high = np.percentile(group.values, (25, 50, 75))
        key = "|".join((group.stage, group.measure, group.modality, group.tag, group.body_part))
        measures[key] = [len(group.values), *(float(f"{value:.6g}") for value in (low, middle, high))]
    return {"images": images, "measures": measures, "stages": {stage: _made_by(records, stage) for stage in records.stages}}


def _made_by(records: Records, stage: str) -> dict[str, Any]:
    """Return the version, the settings and the models of a stage by the batches that ran it, each once."""
    batches = [numbers for numbers in records.numbers.get(stage, {}).values() if numbers]
    settings = {canonical(numbers.get("section") or {}) for numbers in batches}
    models = {f"{name} {(model or {}).get('sha256', '')}" for numbers in batches for name, model in (numbers.get("models") or {}).items()}
    return {
        "version": sorted({str(numbers.get("version", "")) for numbers in batches}),
        "settings": sorted(hashlib.sha256(text.encode()).hexdigest()[:12] for text in settings),
        "models": sorted(models),
        "cohortex": sorted({str((numbers.get("software") or {}).get("cohortex", "")) for numbers in batches}),
    }


def _compared(file: Path, before: Mapping[str, Any], now: Mapping[str, Any], until: str, untold: Collection[str]) -> Since:
    old, new = before["images"], now["images"]
    changed = [
        Changed(name, new[name][4], old[name][0], new[name][0], *new[name][1:4])
        for name in new
        if name in old and (old[name][0], old[name][2]) != (new[name][0], new[name][2])
    ]
    rank = {"failed": 0, "crashed": 0, "quarantined": 0}
    return Since(
        _when(file),
        until,
        [name for name in new if name not in old],
        [name for name in old if name not in new and name not in untold],
        sorted(changed, key=lambda one: (rank.get(one.after, 1), one.code, one.image)),
        _causes(before["stages"], now["stages"]),
        _moved(before["measures"], now["measures"]),
    )


def _causes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = [f"{stage} was not in the chain" for stage in now if stage not in before]
    found += [f"{stage} is no longer in the chain" for stage in before if stage not in now]
    words = {"version": "another version", "settings": "other settings", "models": "other models"}
    for stage, made in now.items():
        was = before.get(stage)
        if was and was["version"] and made["version"]:
            other = [word for what, word in words.items() if was[what] != made[what]]
            if other:
                found.append(f"{stage} has {' and '.join(other)}")
    software = [sorted({one for made in of.values() for one in made["cohortex"]}) for of in (before, now)]
    if software[0] != software[1] and all(software):
        found.append(f"Cohortex was {', '.join(software[0])} and is {', '.join(software[1])}")
    return found


def _moved(before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the medians that moved by more than `MOVED` of the larger spread of both runs, the farthest first."""
    found = []
    for key, (count, low, middle, high) in now.items():
        if key not in before:
            continue
        _, was_low, was, was_high = before[key]
        spread = max(high - low, was_high - was_low) / 1.349
        floor = 1e-4 * max(abs(was), abs(middle)) + 1e-12
        if abs(middle - was) > max(MOVED * spread, floor) and count:
            stage, measure, modality, tag, body_part = key.split("|")
            name, unit = spoken(measure)
            of = " ".join(filter(None, (modality, body_part)))
            told = f"{f'{tag}: ' if tag else ''}{name} of {of or 'the images'} in {stage}, median {short(was)} → {short(middle)}"
            found.append((abs(middle - was) / max(spread, floor), f"{told}{f' {unit}' if unit else ''}"))
    return [words for _, words in sorted(found, key=lambda one: (-one[0], one[1]))]


def _run_of(file: Path) -> str:
    return file.name.removesuffix(".said.gz")


def _when(file: Path) -> str:
    """Return when a run began, by its name (``20261127T054500Z-...``)."""
    stamp = _run_of(file)
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"


def _write(path: Path, told: Mapping[str, Any]) -> None:
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
        temporary.chmod(0o640)


def _read(path: Path) -> dict[str, Any]:
    """Return what a run said; nothing where that cannot be read."""
    try:
        with gzip.open(path) as file:
            content = json.loads(file.read(LARGEST))
        whole = all(len(cells) == 5 for cells in content["images"].values()) and all(len(row) == 4 for row in content["measures"].values())
        return content if whole and isinstance(content["stages"], dict) else {}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return {}
