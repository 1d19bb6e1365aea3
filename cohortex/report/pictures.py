"""Pictures of the page: which images are shown, each picture once, contours of labels as lines over them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cohortex.items import HEAD_LABELS
from cohortex.report import why
from cohortex.report.faces import without_profiles
from cohortex.report.measures import without_moment
from cohortex.report.previews import VIEWS
from cohortex.report.records import Records, Row, read_previews

LAID_OVER = ("+uncertainty", "+gradcam", "+occlusion", "+integratedgradients")
"""Ends of the ids of maps that are shown over the image they belong to, not beside it."""
COLOURS = 8
"""Colours in the style sheet; labels beyond them begin again."""


@dataclass(frozen=True)
class Tile:
    """One picture on the page: `picture` and `contour` name definitions that are written once."""

    picture: str
    contour: str
    width: int
    height: int
    about: str


@dataclass(frozen=True)
class Pair:
    """What was before and what came after, by view; `before` is empty where there is nothing to compare."""

    image: str
    caption: str
    note: str
    before: Mapping[str, Tile]
    after: Mapping[str, Tile]
    labels: Mapping[int, str]

    @property
    def views(self) -> list[str]:
        """Views that can be shown, in their usual order."""
        return [view for view in ("axial", "coronal", "sagittal") if view in self.after] or list(self.after)


@dataclass
class Gallery:
    """Pictures and contours in the order in which they were first used, by their names on the page."""

    pictures: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    contours: dict[str, Markup] = field(default_factory=dict)
    faceless: set[str] = field(default_factory=set)
    """Images whose profile is not shown."""

    def tile(self, picture: np.ndarray, labels: np.ndarray | None, about: str) -> Tile:
        """Add a picture, and the contours of labels of the same shape, and return its tile."""
        height, width = picture.shape[:2]
        name = f"p{_digest(picture)}"
        if name not in self.pictures:
            self.pictures[name] = (png(picture), width, height)
        contour = ""
        if labels is not None and labels.shape == picture.shape[:2] and labels.any():
            contour = f"c{_digest(labels)}"
            if contour not in self.contours:
                self.contours[contour] = contour_paths(labels)
        return Tile(name, contour, width, height, about)


def png(picture: np.ndarray) -> str:
    """Return an 8-bit picture as a data address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def contour_paths(labels: np.ndarray) -> Markup:
    """Return one SVG path a label around its region, in pixels from the upper left corner."""
    from scipy.ndimage import gaussian_filter
    from skimage.measure import approximate_polygon, find_contours

    paths = []
    for value in np.unique(labels[labels > 0]):
        region = np.pad((labels == value).astype(np.float32), 1)
        # Slightly smoothed, so that the line does not follow the corners of pixels; small regions stay as they are.
        smooth = gaussian_filter(region, 0.6) if region.sum() > 30 else region
        lines = []
        for line in find_contours(smooth, 0.5):
            points = approximate_polygon(line, 0.25)
            lines.append(
                "M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for y, x in points) + ("Z" if np.array_equal(points[0], points[-1]) else "")
            )
        if lines:
            paths.append(Markup('<path class="l{}" d="{}"/>').format(colour(int(value)), "".join(lines)))
    return Markup("").join(paths)


def legend(some: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """Return what each colour stands for in some pictures: all names where colours begin again, at most four of them."""
    names: dict[int, dict[str, None]] = defaultdict(dict)
    for labels in some:
        for value, name in sorted(labels.items()):
            names[colour(value)][name] = None
    found = {}
    for number, several in sorted(names.items()):
        first, *others = several
        words = [first, *(name.removeprefix("label ") if first.startswith("label ") else name for name in others)]
        found[number] = ", ".join(words[:4]) + (", …" if len(words) > 4 else "")
    return found


def colour(label: int) -> int:
    """Return the number of a label's colour."""
    return (label - 1) % COLOURS + 1


def choose(records: Records, first: Iterable[str], most: int) -> list[str]:
    """Return the ids of the images to show: those given first, then the rest spread evenly over every modality."""
    images = set(records.images) or {name for name, row in records.last.items() if row.is_image}
    chosen = list(dict.fromkeys(name.split("+")[0] for name in first if name.split("+")[0] in images))[:most]
    by_modality: dict[str, list[str]] = defaultdict(list)
    for name in sorted(images - set(chosen)):
        by_modality[records.last[name].modality if name in records.last else ""].append(name)
    room = most - len(chosen)
    queues = []
    for names in by_modality.values():
        keep = min(len(names), -(-room // max(len(by_modality), 1)))
        queues.append([names[int(position)] for position in np.linspace(0, len(names) - 1, keep)] if keep else [])
    for turn in range(max(map(len, queues), default=0)):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:most]


def pairs_by_stage(
    work: Path, records: Records, chosen: Sequence[str], gallery: Gallery, report: Mapping[str, Any] | None = None
) -> dict[str, dict[str, list[Pair]]]:
    """Return by stage the pictures of the chosen images: ``images`` (before and after), ``registered``, and what else it shows.

    Profiles are left out where `cohortex.report.faces` says so of the section `report`; the gallery counts their images.
    """
    seen, gallery.faceless = without_profiles(_read(work, records, chosen), records, report)
    rows = {(stage, row.image): row for stage in records.stages for row in records.told.get(stage, [])}
    shapes = {key: (row.shape, row.spacing_mm) for key, row in rows.items()}
    pages: dict[str, dict[str, list[Pair]]] = {}
    for position, stage in enumerate(records.stages):
        sections: dict[str, list[Pair]] = defaultdict(list)
        for name in chosen:
            for thing in sorted(seen.get(stage, {})):
                if thing.split("+")[0] == name:
                    for title, pair in extras(seen[stage][thing], thing, records, gallery):
                        words = why.caption(rows.get((stage, thing))) if title == why.TITLE else ""
                        sections[title].append(replace(pair, caption=words or pair.caption))
            now = _views(seen, records.stages[position : position + 1], name)
            earlier = _views(seen, records.stages[:position], name)
            labels = _labels(seen, records, stage, name, now or earlier, shapes)
            segmented = any(thing.startswith(f"{name}+") and thing.endswith("seg") for thing in seen.get(stage, {}))
            if now or segmented:
                # Where it was segmented the labels are what there is to see, on one picture.
                sections["images"].append(_pair(gallery, records, stage, name, {} if segmented else earlier, now or earlier, labels))
            sections["registered"] += _registered(gallery, records, seen, position, name)
        pages[stage] = {title: pairs for title, pairs in sections.items() if pairs}
    return pages


def _read(work: Path, records: Records, chosen: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the previews of the chosen images, of those of the same subjects derived from them, by stage, id and name."""
    batches: dict[str, set[str]] = defaultdict(set)
    for name in chosen:
        batch = records.cohort[name]["batch"] if name in records.cohort else records.last[name].batch
        batches[batch].add(name)
    seen: dict[str, dict[str, dict[str, Any]]] = {stage: {} for stage in records.stages}
    for stage in records.stages:
        for batch, names in sorted(batches.items()):
            seen[stage] |= read_previews(work, stage, batch, names, records.notes)
    return seen


def _views(seen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], stages: Sequence[str], name: str) -> dict[str, np.ndarray]:
    """Return the latest views of an id in some stages."""
    for stage in reversed(stages):
        views = {view: picture for view, picture in seen.get(stage, {}).get(name, {}).items() if view in VIEWS}
        if views:
            return views
    return {}


def _labels(
    seen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    records: Records,
    stage: str,
    name: str,
    views: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, str], tuple[str, str]],
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Return the views of the labels that lie on an image's grid, and what they are called; segmentations before the user's."""
    grid = shapes.get((stage, name)) or (_grid(records.last[name]) if name in records.last else ("", ""))
    things = {thing for there in seen.values() for thing in there if thing.startswith(f"{name}+")}
    for thing in sorted(things, key=lambda thing: (not thing.endswith("+seg"), thing)):
        row = records.last.get(thing)
        if row is None or row.kind != "labels" or (all(grid) and all(_grid(row)) and _grid(row) != grid):
            continue
        there = _views(seen, records.stages, thing)
        if there and all(there[view].shape == picture.shape[:2] for view, picture in views.items() if view in there):
            return there, label_names(row, there.values(), records)
    return {}, {}


def _grid(row: Row) -> tuple[str, str]:
    return row.shape, row.spacing_mm


def label_names(row: Row, views: Iterable[np.ndarray], records: Records) -> dict[int, str]:
    """Return what the labels that are seen are called: by the model that made them, by the demo, else by their value."""
    values = sorted({int(value) for view in views for value in np.unique(view) if value})
    tag = row.image.partition("+")[2]
    if row.role == "mask" or tag == "mask":
        return dict.fromkeys(values, "mask")
    known: Mapping[int, str] = {}
    if tag.endswith("seg"):
        batches = records.numbers.get(row.stage, {}).values()
        cards = [model.get("card") or {} for batch in batches for model in (batch.get("models") or {}).values()]
        # Where several models label, the row says which; a joint model is alone.
        own = [card for card in cards if card.get("name") == row.measures.get("model")] or [c for c in cards if c.get("task") != "segment"]
        classes = next((card["classes"] for card in own or cards if card.get("classes")), None)
        known = {value: str(name).replace("_", " ") for value, name in enumerate(classes)} if classes else HEAD_LABELS
    elif row.image.split("+")[0] in records.simulated:
        known = HEAD_LABELS
    return {value: known.get(value, f"label {value}") for value in values}


def _pair(
    gallery: Gallery,
    records: Records,
    stage: str,
    name: str,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    labels: tuple[Mapping[str, np.ndarray], Mapping[int, str]],
) -> Pair:
    views, names = labels
    subject = f"{name}{', simulated' if name in records.simulated else ''}"
    return Pair(
        image=name,
        caption=name,
        note="simulated" if name in records.simulated else "",
        before={view: gallery.tile(picture, views.get(view), f"{subject}: {view} view before {stage}") for view, picture in before.items()},
        after={view: gallery.tile(picture, views.get(view), f"{subject}: {view} view after {stage}") for view, picture in after.items()},
        labels=names,
    )


def _registered(gallery: Gallery, records: Records, seen: Mapping, position: int, name: str) -> list[Pair]:
    """Return, for every warped image made of an image in a stage, the fixed image and it, side by side."""
    stage = records.stages[position]
    found = []
    for thing in sorted(seen.get(stage, {})):
        row = records.last.get(thing)
        if not thing.startswith(f"{name}+") or row is None or row.kind != "image" or thing.endswith(LAID_OVER):
            continue
        after = _views(seen, [stage], thing)
        fixed = next((source for source in row.sources.split() if source != name and "+" not in source), "")
        before = _views(seen, records.stages[: position + 1], fixed)
        before = {view: picture for view, picture in before.items() if view in after and picture.shape == after[view].shape}
        labels = _views(seen, [stage], f"{thing}seg")
        names = label_names(records.last[f"{thing}seg"], labels.values(), records) if labels and f"{thing}seg" in records.last else {}
        pair = _pair(gallery, records, stage, thing, before, after, (labels, names))
        found.append(Pair(thing, f"{fixed} | {thing}" if before else thing, pair.note, pair.before, pair.after, names))
    return found


def extras(pictures: Mapping[str, np.ndarray], thing: str, records: Records, gallery: Gallery) -> list[tuple[str, Pair]]:
    """Return the other pictures that a stage left on an id by title, those called before and after side by side."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = defaultdict(dict)
    for name, picture in pictures.items():
        if name not in VIEWS:
            title, moment = without_moment(name)
            words = [word for word in title.split("_") if word not in VIEWS]
            view = next((word for word in title.split("_") if word in VIEWS), "")
            found[" ".join(words), view][moment or "after"] = picture
    by_title: dict[str, tuple[dict[str, Tile], dict[str, Tile]]] = defaultdict(lambda: ({}, {}))
    for (title, view), moments in found.items():
        for side, moment in enumerate(("before", "after")):
            if moment in moments:
                by_title[title][side][view or "axial"] = gallery.tile(moments[moment], None, f"{thing}: {title}, {moment}")
    note = "simulated" if thing.split("+")[0] in records.simulated else ""
    return [(title, Pair(thing, thing, note, before, after or before, {})) for title, (before, after) in by_title.items()]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
