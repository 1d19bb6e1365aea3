"""Writes the pages of subjects, one at a time: images in every stage, measures beside the cohort's, provenance, ratings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortex.config import WEIGHTS
from cohortex.items import settings_for
from cohortex.publish import sweep, write_text
from cohortex.ratings import Rating
from cohortex.report import html, methods
from cohortex.report.charts import short
from cohortex.report.compared import Cohort, Measure
from cohortex.report.faces import without_profiles
from cohortex.report.pictures import Gallery, Pair
from cohortex.report.records import Records, Row, number, read_previews
from cohortex.report.sprites import diverging
from cohortex.report.viewer import Figure, figures_of, others_of
from cohortex.report.viewer_page import Viewers, view_name

FOLDER = "subjects"
"""Of the pages, beside the report."""
SAFE = re.compile(r"[0-9A-Za-z]{1,64}")
"""Ids that may be a file's name: those that a cohort table takes."""
REASON = 2000
"""Letters of a reason that are shown; the manifest has all."""
PICTURED = 12
"""Images of a subject whose pictures are on its page, those that the report shows first: of dozens of visits a page would be too large."""
WORST = ("failed", "crashed", "quarantined", "warned", "skipped")


@dataclass(frozen=True)
class Said:
    """What a stage said of an image, or of something made of it, that is worth reading first."""

    image: str
    stage: str
    status: str
    code: str
    reason: str


@dataclass(frozen=True)
class Step:
    """What a stage did with an image."""

    stage: str
    status: str
    version: str
    words: Sequence[tuple[str, str]]
    models: Sequence[tuple[str, str]]
    settings: str


@dataclass(frozen=True)
class Shown:
    """An image on the page of its subject."""

    name: str
    about: Sequence[tuple[str, str]]
    simulated: bool
    status: str
    pictured: bool
    figures: Sequence[Figure]
    others: Sequence[tuple[str, str, Pair]]
    measures: Sequence[Measure]
    steps: Sequence[Step]
    made: Sequence[Row]
    ratings: Sequence[Rating]
    left_out: bool
    solid: str | None
    """Why it is not in the viewer, empty where it is; None where there is nothing to say."""


@dataclass
class Source:
    """What the pages are made of, looked up by subject; of more than `PICTURED` images those in `first` are shown first."""

    work: Path
    records: Records
    config: Mapping[str, Any]
    cohort: Cohort
    lost: Sequence[Row]
    wanted: frozenset[str] | None = None
    first: frozenset[str] = frozenset()
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows: dict[str, list[Row]] = defaultdict(list)
        for stage in self.records.stages:
            for row in self.records.told.get(stage, []):
                if self.wanted is None or row.subject in self.wanted:
                    rows[row.image.split("+")[0]].append(row)
        self.rows = dict(rows)

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """Images by subject, in the order of the cohort's table; masks and labels are shown with theirs."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for name in self.records.images:
            found[self.records.cohort[name].get("subject", "")][name] = None
        if not self.records.cohort:
            for name, row in self.records.last.items():
                if row.is_image:
                    found[row.subject][name] = None
        return {subject: list(names) for subject, names in found.items()}

    @cached_property
    def lost_of(self) -> dict[str, list[Row]]:
        """What was set aside, by subject."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self.lost:
            found[row.subject].append(row)
        return found

    @cached_property
    def derived(self) -> dict[str, list[Row]]:
        """What was made of an image and is there in the end, by image."""
        found: dict[str, list[Row]] = defaultdict(list)
        for name, row in self.records.last.items():
            if "+" in name and (self.wanted is None or row.subject in self.wanted):
                found[name.split("+")[0]].append(row)
        return found


def subjects_of(records: Records, images: Iterable[str], chosen: str) -> list[str]:
    """Return the subjects that get a page: by `chosen` (shown, all, none) those of some images, in their order, all, or none."""
    if chosen == "none":
        return []
    names = images if chosen == "shown" else records.images or [name for name, row in records.last.items() if row.is_image]
    subjects = [
        records.cohort[name].get("subject", "") if name in records.cohort else records.last[name].subject
        for name in names
        if name in records.cohort or name in records.last
    ]
    return [subject for subject in dict.fromkeys(subjects) if SAFE.fullmatch(subject)]


def page_name(subject: str) -> str:
    """Return the name of a subject's page."""
    return f"sub-{subject}.html"


def write_pages(source: Source, folder: Path, subjects: Sequence[str], title: str) -> None:
    """Write the pages of some subjects and take away those of others; one page is in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    templates = html.environment()
    style = html.joined(templates, "style.css", "subject.css")
    script = html.joined(templates, "ratings.js", "subject.js")
    templates.filters["short"] = short
    template = templates.get_template("subject.html")
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    # the report lies in a folder of the results
    viewers = Viewers(source.records, source.config, folder.parents[1], folder, source.work)
    for place, subject in enumerate(subjects):
        gallery = Gallery()
        solid = _solid(source, subject, viewers, title)
        shown = list(_shown(source, subject, gallery, solid))
        near = {"previous": subjects[place - 1] if place else "", "next": subjects[place + 1] if place + 1 < len(subjects) else ""}
        text = template.render(
            title=subject,
            cohort=title,
            made=made,
            style=style,
            script=script,
            policy=html.policy(style, script),
            subject=subject,
            images=shown,
            said=_said(source, subject),
            gallery=gallery,
            near={word: (name, page_name(name)) for word, name in near.items() if name},
            facts=_facts(source.records, source.images.get(subject, [])),
            diverging=[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in diverging()],
            store=html.store_of(source.config),
            view=view_name(subject),
            slices=max((plane.count for one in shown for figure in one.figures for plane in figure.planes), default=0),
        )
        write_text(folder / page_name(subject), text)
    viewers.finish()
    kept = {page_name(subject) for subject in subjects} | viewers.made
    for path in folder.glob("sub-*.html"):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    if not kept and not any(folder.iterdir()):
        folder.rmdir()


def _pictured(source: Source, subject: str) -> set[str]:
    names = source.images.get(subject, [])
    return set(sorted(names, key=lambda name: name not in source.first)[:PICTURED])


def _solid(source: Source, subject: str, viewers: Viewers, title: str) -> dict[str, str]:
    """Write the viewer of a subject one of whose images the report shows; return what there is to say of each image."""
    names = [name for name in source.images.get(subject, []) if name in _pictured(source, subject)]
    if (source.config.get("report") or {}).get("viewer", "shown") == "none" or not source.first.intersection(names):
        return {}
    return viewers.words_on(subject, names, source.derived, title)


def _shown(source: Source, subject: str, gallery: Gallery, solid: Mapping[str, str]) -> Iterator[Shown]:
    names = source.images.get(subject, [])
    records = source.records
    pictured = _pictured(source, subject)
    seen: dict[str, dict[str, Any]] = {stage: {} for stage in records.stages}
    batches = {records.cohort[name].get("batch", "") if name in records.cohort else records.last[name].batch for name in names}
    for stage in records.stages:
        for batch in sorted(batches):
            seen[stage] |= read_previews(source.work, stage, batch, pictured, records.notes, stacks=True)
    seen, _ = without_profiles(seen, records, source.config.get("report"))
    ratings: dict[str, list[Rating]] = defaultdict(list)
    for one in records.ratings:
        ratings[one.image].append(one)
    for name in names:
        last, rows = records.last.get(name), source.rows.get(name, [])
        yield Shown(
            name=name,
            about=_about(records, name),
            simulated=name in records.simulated,
            status=last.status if last else "failed",
            pictured=name in pictured,
            figures=list(figures_of(name, seen, records, gallery)) if name in pictured else [],
            others=others_of(name, seen, records, gallery) if name in pictured else [],
            measures=source.cohort.measures_of(rows),
            steps=list(_steps(source, name)),
            made=sorted(source.derived.get(name, []), key=lambda row: row.image),
            ratings=ratings[name],
            left_out=name in records.left_out,
            solid=solid.get(name),
        )


def _said(source: Source, subject: str) -> list[Said]:
    """Return what went wrong or is to be known, the worst first."""
    rows = [row for name in source.images.get(subject, []) for row in source.rows.get(name, []) if row.status != "ok" or row.code]
    there = {(row.image, row.stage) for row in rows}
    rows += [row for row in source.lost_of.get(subject, []) if (row.image, row.stage) not in there]
    order = {status: place for place, status in enumerate(WORST)}
    rows.sort(key=lambda row: order.get(row.status, len(order)))
    return [Said(row.image, row.stage, row.status, row.code, shortened(row.reason)) for row in rows]


def shortened(reason: str) -> str:
    """Return a reason that no page is filled by."""
    return reason if len(reason) <= REASON else f"{reason[:REASON]} … ({len(reason)} letters; manifest.tsv has all)"


def _facts(records: Records, names: Sequence[str]) -> list[str]:
    rows = [records.cohort[name] for name in names if name in records.cohort]
    visits = len({row.get("session", "") for row in rows} - {""})
    facts = [f"{len(names)} image{'' if len(names) == 1 else 's'}", *([f"{visits} visit{'' if visits == 1 else 's'}"] if visits else [])]
    for column in ("site", "scanner", "split", "batch"):
        values = sorted({row.get(column, "") for row in rows} - {""})
        if values:
            facts.append(f"{column} {', '.join(values)}")
    return facts


def _about(records: Records, name: str) -> list[tuple[str, str]]:
    """Return what the last record of an image says of it."""
    row, entry = records.last.get(name), records.cohort.get(name, {})
    if row is None:
        return [("modality", entry.get("modality", ""))]
    grid = f"{row.shape.replace('x', ' × ')} voxels of {row.spacing_mm.replace('x', ' × ')} mm" if row.shape else ""
    told = [
        ("modality", row.modality),
        ("body part", row.body_part),
        ("visit", row.session),
        ("grid", grid),
        ("last stage", row.stage),
        ("made from", row.sources),
        ("sha256 of data and geometry", row.sha256),
        ("key", row.key),
    ]
    return [(word, value) for word, value in told if value]


def _steps(source: Source, name: str) -> Iterator[Step]:
    records = source.records
    entry = records.cohort.get(name, {})
    by_stage: dict[str, Row] = {row.stage: row for row in source.rows.get(name, []) if row.image == name}
    last = records.last.get(name)
    batch = entry.get("batch", "") or (last.batch if last else "")
    modality = (last.modality if last else "") or entry.get("modality", "")
    end = records.stages.index(last.stage) if last and last.stage in records.stages else -1
    for position, stage in enumerate(records.stages):
        numbers, row = records.numbers.get(stage, {}).get(batch), by_stage.get(stage)
        if not numbers or (position > end and row is None):
            continue
        section = numbers.get("section") or {}
        settings = settings_for(section, modality)
        words = [
            (methods_word(key), value) for key, value in (row.measures if row else {}).items() if number(value) is None and value != "n/a"
        ]
        yield Step(
            stage,
            row.status if row else "ok",
            str(numbers.get("version", "")),
            [(word, methods.without_place(value)) for word, value in words],
            list(_models(settings, numbers.get("models") or {})),
            methods.settings(settings) if settings else "",
        )


def methods_word(key: str) -> str:
    """Return the name of a measure that is a word."""
    return key.replace("_", " ")


def _models(settings: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give name and sha256 of the models that settings name."""
    for key, trained in WEIGHTS.items():
        name = settings.get(key)
        name = trained if name == "train" else name
        model = models.get(name) if isinstance(name, str) else None
        if name and model:
            yield str((model.get("card") or {}).get("name") or methods.without_place(name)), str(model.get("sha256", ""))
