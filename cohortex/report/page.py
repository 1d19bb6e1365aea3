"""Writes the dataset report: one self-contained page, and the union of all manifests beside it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cohortex.items import SET_ASIDE
from cohortex.privacy.conceal import HIDDEN
from cohortex.publish import sweep, write_json, write_text
from cohortex.report import (
    boards,
    charts,
    classes,
    costs,
    drift,
    evaluation,
    harmonise,
    html,
    images,
    measures,
    methods,
    pictures,
    references,
    scanners,
    since,
    subjects,
    tables,
    why,
)
from cohortex.report.compared import Cohort
from cohortex.report.dictionary import STATUSES, described
from cohortex.report.records import Records, Row, number, read_records, write_union
from cohortex.runs import COUNTS, how_it_ended, read_runs, status_words
from cohortex.verdict import Tally, sentence, tally

PICTURES, ODD_Z = 60, 3.5
"""Defaults of the settings in the section `report`."""

LISTED, NAMES = 200, 40
"""Rows of a table, and ids under one reason, that are written out; the rest is counted and stands in the table of all images."""

DOUBTED = ("no-overlap", "labels-empty", "labels-doubtful", "left-right-flipped", "deformation-folded")
"""Codes of warnings that come first in what looks odd: what was made should not be used unseen."""

SYSTEMIC = 12
"""So many systemic batches are told of one by one."""

TWINS = 12
"""So many images that stand under several ids are told of one by one."""

SCANNERS = 4
"""So many scanners that are odd as a whole are told of at the top, the others under what looks odd."""

RUNS = 20
"""So many of the latest runs are listed."""

FEW_VALUES = 3
"""A measure is drawn where some modality has so many values of it; fewer are read more easily in the table of all images."""

FEW_WORDS = 4
"""Measures that are words are summed up where they take no more values than this."""

SHOWN_FIRST = {"images": 0, "registered": 1}

WHAT = {
    "acquire": "Reads every scan, brings it into one orientation and unit, and refuses what is broken.",
    "deface": "Takes the face out of heads and checks that the brain is whole. No promise of anonymity.",
    "preprocess": "Bias field, resampling, intensity normalisation and filters.",
    "denoise": "Removes noise.",
    "superresolve": "Makes thick slices thin.",
    "synthesize": "Makes the image of another modality.",
    "regseg": "Registers and segments the images of a subject together.",
    "recognize": "Puts a box around every finding.",
    "classify": "Gives each subject class probabilities.",
    "export": "Writes BIDS derivatives.",
}


@dataclass(frozen=True)
class Systemic:
    """A batch in which more than half of the items were set aside, and what those have in common."""

    stage: str
    batch: str
    lost: int
    codes: str
    common: str


def write_report(work: Path, results: Path, config: Mapping[str, Any], stages: Sequence[str]) -> Path:
    """Write ``<results>/report/index.html``, pages of subjects and ``counts.json`` beside it, ``<results>/manifest.tsv`` and ``tables/``.

    They are made from the records that exist.

    Parameters
    ----------
    work, results : path
        The run's work folder and the folder of its results.
    config : mapping
        The configuration as run.
    stages : sequence of str
        The chain, in order; stages without records are shown as such.

    Returns
    -------
    path
        The page. It asks nothing of any network and is replaced in one step.
    """
    records = read_records(work, stages)
    for folder in (results, results / "report"):
        sweep(folder)
    write_union(results / "manifest.tsv", records)
    groups = measures.groups_of(records)
    made = harmonise.harmonised(records, groups, config)
    tables.write_tables(results, records, made)
    page = results / "report" / "index.html"
    # The pages of subjects come first, so that the report leads to none that is not there yet.
    write_text(page, render(work, records, config, page.parent / subjects.FOLDER, groups, made))
    write_json(results / COUNTS, records.statuses())
    return page


def render(
    work: Path, records: Records, config: Mapping[str, Any], folder: Path, groups: Sequence[measures.Group], made: harmonise.Harmonised
) -> str:
    """Return the page as text, after writing the pages of subjects into a folder."""
    chosen = {"pictures": PICTURES, "odd_z": ODD_Z, "subjects": "shown"} | dict(config.get("report") or {})
    found = tally(records, config)
    # A class that few subjects belong to is not odd.
    measured = [group for group in groups if not classes.is_probability(group.measure)]
    odd, shifts = scanners.odd_beside(measured, float(chosen["odd_z"]), scanners.machines_of(records))
    elsewhere = scanners.sentences(shifts)
    doubted = [row for stage in records.stages for row in records.told.get(stage, []) if row.status == "warned" and row.code in DOUBTED]
    systemic = _systemic(records, found.lost)
    judged = evaluation.told(records)
    gallery = pictures.Gallery()
    first = [*(row.image for row in [*found.lost, *doubted]), *records.left_out, *(one.image for one in odd)]
    shown = pictures.choose(records, first, int(chosen["pictures"]))
    paged = subjects.subjects_of(records, shown, str(chosen["subjects"]))
    source = subjects.Source(
        work, records, config, Cohort(groups, float(chosen["odd_z"]), odd), found.lost, frozenset(paged), frozenset(shown)
    )
    subjects.write_pages(source, folder, paged, _title(config))
    pairs = pictures.pairs_by_stage(work, records, shown, gallery, chosen)
    links, times, models = _links(records, pairs), costs.times(records), methods.models(records)
    environment = html.environment()
    environment.filters |= {
        "short": _short,
        "count": _count,
        "duration": _duration,
        "price": _price,
        "shortened": subjects.shortened,
    }
    style, script = html.source(environment, "style.css"), html.joined(environment, "ratings.js", "groups.js", "script.js")
    return environment.get_template("report.html").render(
        title=_title(config),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=style,
        script=script,
        policy=html.policy(style, script),
        config=config,
        records=records,
        tally=found,
        sentence=sentence(found),
        lost=found.lost[:LISTED],
        lost_groups=_lost_groups(found.lost),
        judged=judged,
        alarms=evaluation.alarms(judged),
        twins=[(names[:NAMES], max(0, len(names) - NAMES)) for names in records.twins[:TWINS]],
        twins_more=len(records.twins) - TWINS,
        systemic=systemic[:SYSTEMIC],
        systemic_more=len(systemic) - SYSTEMIC,
        statuses=STATUSES,
        doubted=doubted[:LISTED],
        doubted_count=len(doubted),
        doubted_scored=any("predicted_dice" in row.measures for row in doubted),
        odd=odd[:LISTED],
        odd_count=len(odd),
        odd_z=float(chosen["odd_z"]),
        reasons=_reasons(records),
        glance=_glance(records, found),
        funnel=_funnel(records, found),
        data=images.table(records, found, odd, paged, _thumbs(records, pairs, links), made),
        elsewhere=elsewhere[:SCANNERS],
        elsewhere_more=elsewhere[SCANNERS:][:LISTED],
        days=drift.overview(records, measured),
        since=since.since_last_run(work, records, measured, {row.image: row for row in found.lost}),
        since_limits=(since.NAMES, since.ROWS, since.MEASURES),
        harmonised=made,
        left_out=_left_out(records)[:LISTED],
        left_out_count=len(records.left_out),
        image_pages=_image_pages(records, shown, paged),
        pages={subject: f"{subjects.FOLDER}/{subjects.page_name(subject)}" for subject in paged},
        store=html.store_of(config),
        stages=_stages(records, groups, odd, pairs),
        links=links,
        gallery=gallery,
        shown=len(shown),
        classes=classes.table(records, LISTED, evaluation.seen_in_training(records)),
        times=times,
        cost=costs.cost(times, found.images, chosen.get("cost")),
        boards=boards.boards(folder.parent.parent, records.notes),
        models=models,
        references=references.references(records, models, made),
        software=methods.software(records),
        paragraph=methods.paragraph(records, config),
        settings=methods.settings(config),
        runs=_runs(work),
        simulated=_simulated(records),
        mark=charts.strip_mark,
        spoken=measures.spoken,
        about=lambda stage, measure: described(stage, measure).text,
    )


def _title(config: Mapping[str, Any]) -> str:
    if config.get("input") == "demo":
        return "Demo cohort"
    if config.get("input") == HIDDEN:
        return "Cohort"
    path = Path(str(config.get("input") or "cohort"))
    return (path.stem if path.suffix == ".tsv" else path.name) or "cohort"


def _short(value: Any) -> str:
    found = number(value)
    return charts.short(found) if found is not None else str(value)


def _count(value: int, one: str, many: str = "") -> str:
    return f"{value:,}".replace(",", "\u202f") + f" {one if value == 1 else many or one + 's'}"


def _duration(seconds: float) -> str:
    """Return a time in the unit in which it is read most easily."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _price(value: float) -> str:
    """Return a sum of money; of less than one so many digits that something is left of it."""
    return f"{value:,.2f}".replace(",", "\u202f") if value >= 1 else charts.short(float(f"{value:.2g}"))


def _runs(work: Path) -> list[dict[str, Any]]:
    """Return the latest runs on the work folder as rows of a table; this page is made inside the first of them."""
    return [
        {
            "started": run["started"][:16].replace("T", " "),
            "who": f"{run.get('user', '')} on {run.get('process', {}).get('host', '')}",
            "ended": how_it_ended(run),
            "duration": _duration(run["seconds"]) if run.get("seconds") is not None else "",
            "batches": f"{run.get('batches', '')} of {run.get('cohort_batches', '')}",
            "images": status_words(run.get("images")),
            "version": (run.get("software") or {}).get("cohortex", ""),
            "config": str(run.get("config_sha256", ""))[:8],
        }
        for run in read_runs(work)[:RUNS]
    ]


def _simulated(records: Records) -> dict[str, int]:
    return {"images": len(records.simulated), "all": int(bool(records.cohort) and len(records.simulated) == len(records.cohort))}


def _lost_groups(lost: Sequence[Row]) -> list[tuple[str, str, str, int]]:
    """Return stage, status, code and count of what was set aside, the largest first."""
    found = Counter((row.stage, row.status, row.code) for row in lost)
    return [(*key, count) for key, count in found.most_common()]


def _systemic(records: Records, lost: Sequence[Row]) -> list[Systemic]:
    found = []
    by_batch: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in lost:
        by_batch[row.stage, row.batch].append(row)
    columns = ("site", "scanner", "modality", "acq")
    several = [column for column in columns if len({entry.get(column, "") for entry in records.cohort.values()} - {""}) > 1]
    for stage, batch in records.systemic():
        rows = by_batch[stage, batch]
        codes = ", ".join(f"{count} x {code}" for code, count in Counter(row.code for row in rows).most_common(3))
        entries = [records.cohort.get(row.image.split("+")[0], {}) for row in rows]
        common = [
            f"{column} {values.pop()}" for column in several if len(values := {entry.get(column, "") for entry in entries} - {""}) == 1
        ]
        found.append(Systemic(stage, batch, len(rows), codes, ", ".join(common)))
    return found


def _reasons(records: Records) -> list[dict[str, Any]]:
    """Return what was skipped, warned of or told, one entry a stage, status, code and reason, in the order of the chain.

    Reasons that differ in nothing but numbers are one.
    """
    entries: dict[tuple[str, str, str], dict[str, Any]] = {}
    for stage in records.stages:
        for row in records.told.get(stage, []):
            if row.status in ("skipped", "warned") or (row.status == "ok" and row.code):
                entry = entries.setdefault(
                    (stage, row.status, re.sub(r"[0-9.]+", "#", f"{row.code} {row.reason.replace(row.image, '')}")),
                    {"stage": stage, "status": row.status, "code": row.code, "reason": row.reason, "images": [], "modalities": Counter()},
                )
                entry["images"].append(row.image)
                entry["modalities"][row.modality] += 1
    return [
        {**entry, "count": len(entry["images"]), "images": entry["images"][:NAMES], "more": max(0, len(entry["images"]) - NAMES)}
        for entry in entries.values()
    ]


def _glance(records: Records, found: Tally) -> dict[str, Any]:
    rows = [records.cohort[name] for name in records.images] or [
        {"subject": row.subject, "session": row.session, "modality": row.modality, "batch": row.batch}
        for row in records.last.values()
        if row.is_image
    ]

    def different(column: str) -> int:
        return len({row.get(column, "") for row in rows} - {""})

    visits = len({(row.get("subject"), row.get("session")) for row in rows})
    facts = [
        (different("subject"), "subject"),
        (visits if different("session") else 0, "visit"),
        (found.images, "image"),
        (different("site"), "site"),
        (different("scanner"), "scanner"),
        (different("batch"), "batch"),
    ]
    return {
        "facts": [_count(count, word, {"batch": "batches"}.get(word, "")) for count, word in facts if count],
        "modalities": Counter(row.get("modality", "") for row in rows).most_common(),
    }


def _funnel(records: Records, found: Tally) -> list[dict[str, Any]]:
    """Return for every stage how many images left it in which status, with a bar and the counts by modality."""
    rows = []
    unfinished = Counter(row.stage for row in records.unfinished if row.kind == "image")
    for stage in records.stages:
        by_status: Counter[str] = Counter()
        by_modality: dict[str, int] = defaultdict(int)
        for (modality, status), count in records.counts.get(stage, Counter()).items():
            by_status[status] += count
            goes_on = status not in SET_ASIDE and not (status == "skipped" and stage == records.stages[0])
            by_modality[modality] += count if goes_on else 0
        by_status["failed"] += unfinished[stage]
        parts = {status: by_status[status] for status in STATUSES if by_status[status]}
        about = f"{stage}: " + (", ".join(f"{count} {status}" for status, count in parts.items()) or "no record")
        lost = sum(count for status, count in parts.items() if status in SET_ASIDE)
        out = lost + (by_status["skipped"] if stage == records.stages[0] else 0)
        bar = charts.stacked(parts, max(found.images, sum(parts.values())), about)
        rows.append(
            {
                "stage": stage,
                "parts": parts,
                "bar": bar,
                "modalities": dict(by_modality),
                "lost": lost,
                "passed": sum(parts.values()) - out,
            }
        )
    return rows


def _stages(
    records: Records,
    groups: Sequence[measures.Group],
    odd: Iterable[measures.Odd],
    pairs: Mapping[str, Mapping[str, list[pictures.Pair]]],
) -> list[dict[str, Any]]:
    drawn = measures.charts_of(groups)
    marked = {(id(one.group), one.image) for one in odd}
    found = []
    for stage in records.stages:
        figures = []
        for (measure, tag), rows in drawn.get(stage, {}).items():
            if classes.is_probability(measure):
                continue  # they have a table of their own
            name, unit = measures.spoken(measure)
            title = f"{name}{f' of {tag}' if tag else ''}"
            strips = [
                (
                    " ".join(filter(None, (modality, moment))),
                    group.images,
                    group.values,
                    [(id(group), image) in marked for image in group.images],
                )
                for modality, moment, group in rows
            ]
            if max(len(values) for _, _, values, _ in strips) < FEW_VALUES:
                continue
            if len({value for _, _, values, _ in strips for value in values}) < 2:
                constant = strips[0][2][0]
                figures.append({"title": title, "constant": f"{charts.short(constant)}{f' {unit}' if unit else ''}"})
                continue
            axis = f"{title} ({unit})" if unit else title
            figures.append({"title": axis, "svg": charts.strips(strips, f"{stage}: distribution of {axis} by modality")})
        shown = pairs[stage].get("images", []) + pairs[stage].get("registered", [])
        labels = pictures.legend(pair.labels for pair in shown)
        found.append(
            {
                "name": stage,
                "what": WHAT.get(stage, ""),
                "there": bool(records.numbers.get(stage)),
                "charts": [figure for figure in figures if "svg" in figure],
                "constants": [figure for figure in figures if "constant" in figure],
                "words": _words(records, stage),
                "pairs": {title: pairs[stage][title] for title in sorted(pairs[stage], key=lambda title: SHOWN_FIRST.get(title, 2))},
                "labels": labels,
                "why": why.told(records, stage, LISTED),
            }
        )
    return found


def _words(records: Records, stage: str) -> list[tuple[str, str]]:
    """Return the measures of a stage that are words (a method, a model), with how often each was said; not hashes and paths."""
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for row in records.told.get(stage, []):
        for name, value in row.measures.items():
            if (
                number(value) is None
                and value != "n/a"
                and "/" not in value
                and not name.endswith(("sha256", "why_features"))
                and name not in evaluation.TOLD
            ):
                said[name][value] += 1
    return [
        (measures.spoken(name)[0], ", ".join(f"{value} ({count})" for value, count in counts.most_common()))
        for name, counts in said.items()
        if len(counts) <= FEW_WORDS
    ]


def _links(records: Records, pairs: Mapping[str, Mapping[str, list[pictures.Pair]]]) -> dict[str, str]:
    """Return by image the place on the page of its last picture, and by ``stage|image`` that of the stage."""
    links: dict[str, str] = {}
    for stage in records.stages:
        for title, some in pairs[stage].items():
            for pair in some:
                if title == "images":
                    links[pair.image] = links[f"{stage}|{pair.image}"] = f"#picture-{stage}-{pair.image}"
    return links


def _thumbs(records: Records, pairs: Mapping[str, Mapping[str, list[pictures.Pair]]], links: Mapping[str, str]) -> dict[str, images.Thumb]:
    """Return by image its last picture, axial where it has one, which the page holds anyway."""
    found = {}
    for stage in records.stages:
        for pair in pairs[stage].get("images", []):
            tile = pair.after[pair.views[0]]
            found[pair.image] = images.Thumb(tile.picture, tile.width, tile.height, links[pair.image])
    return found


def _left_out(records: Records) -> list[dict[str, str]]:
    """Return the images that a rater rejected, with who did so, what the others say and the notes."""
    others: dict[str, list[str]] = defaultdict(list)
    for one in records.ratings:
        if one.rating != "reject":
            others[one.image].append(f"{one.rater}: {one.rating}")
    return [
        {
            "subject": records.cohort.get(image, {}).get("subject", ""),
            "image": image,
            "by": ", ".join(one.rater for one in ratings),
            "others": ", ".join(others[image]),
            "note": " · ".join(one.note for one in ratings if one.note),
        }
        for image, ratings in records.left_out.items()
    ]


def _image_pages(records: Records, images: Iterable[str], paged: Iterable[str]) -> dict[str, str]:
    """Return by image the page of its subject, where that has one."""
    there = set(paged)
    subject = {name: records.cohort[name]["subject"] if name in records.cohort else records.last[name].subject for name in images}
    return {name: f"{subjects.FOLDER}/{subjects.page_name(of)}" for name, of in subject.items() if of in there}
