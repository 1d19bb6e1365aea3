"""What the page of a subject shows of an image: a figure a stage with what was before and after, its change, labels and maps over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cohortex.report import why
from cohortex.report.pictures import LAID_OVER, Gallery, Pair, extras, label_names, legend
from cohortex.report.records import SLICES, Records, Row
from cohortex.report.sprites import Change, Shown, change, contours, fitted, layer, planes_of, sprite

Seen = Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
"""Previews by stage, id and name."""

MAPS = {
    "+uncertainty": "uncertainty of the labels",
    "+gradcam": "what speaks for the class (Grad-CAM)",
    "+occlusion": "what speaks for the class (occlusion)",
    "+integratedgradients": "what speaks for the class (integrated gradients)",
}
BOARD = 8
"""Fields of a checkerboard along the longer side."""


@dataclass(frozen=True)
class Plane:
    """One plane of a figure; `before`, `after` and the maps name pictures of the gallery, of `count` slices each."""

    name: str
    width: int
    height: int
    count: int
    after: str
    before: str = ""
    change: Change | None = None
    contours: str = ""
    maps: Sequence[tuple[str, str]] = ()

    @property
    def board(self) -> str:
        """The path of the fields of a checkerboard in which `after` is seen."""
        edge = -(-max(self.width, self.height) // BOARD)
        fields = [(x, y) for y in range(0, self.height, edge) for x in range(0, self.width, edge) if (x // edge + y // edge) % 2]
        return "".join(f"M{x} {y}h{edge}v{edge}h-{edge}z" for x, y in fields)


@dataclass(frozen=True)
class Figure:
    """Pictures of an image in a stage; ``registered``: `before` is the fixed image, and `after` the one laid on it."""

    stage: str
    title: str
    planes: Sequence[Plane]
    registered: bool = False
    segmented: bool = False
    labels: Mapping[int, str] = field(default_factory=dict)

    @property
    def compared(self) -> bool:
        """Whether there is something to compare."""
        return any(plane.before for plane in self.planes)

    @property
    def changed(self) -> bool:
        """Whether some plane has a picture of what changed."""
        return any(plane.change for plane in self.planes)

    @property
    def contoured(self) -> bool:
        """Whether there are contours to draw."""
        return any(plane.contours for plane in self.planes)

    @property
    def maps(self) -> list[str]:
        """What is laid over the pictures."""
        return list(dict.fromkeys(title for plane in self.planes for title, _ in plane.maps))

    @property
    def colours(self) -> dict[int, str]:
        """What each colour of the contours stands for."""
        return legend([self.labels])


def figures_of(name: str, seen: Seen, records: Records, gallery: Gallery) -> Iterator[Figure]:
    """Give the figures of an image in the order of the chain; their pictures are added to the gallery."""
    modality = (records.last[name].modality if name in records.last else "") or records.cohort.get(name, {}).get("modality", "")
    for position, stage in enumerate(records.stages):
        so_far, things = records.stages[: position + 1], seen.get(stage, {})
        now, before = _latest(seen, [stage], name), _latest(seen, records.stages[:position], name)
        labelled = any(thing.startswith(f"{name}+") and _is_labels(thing, records) for thing in things)
        laid = {end: planes_of(things[f"{name}{end}"]) for end in LAID_OVER if f"{name}{end}" in things}
        if now or ((labelled or laid) and before):
            shown = now or before
            labels, names = _labels(name, seen, so_far if labelled else records.stages, records, shown)
            planes = [_plane(gallery, plane, shown, before if now else {}, labels, laid, modality) for plane in shown]
            title = ("Before and after" if before else "As it was read") if now else ("Segmented" if labelled else "Classified")
            yield Figure(stage, title, planes, segmented=labelled, labels=names)
        yield from _registered(name, seen, position, records, gallery)


def others_of(name: str, seen: Seen, records: Records, gallery: Gallery) -> list[tuple[str, str, Pair]]:
    """Return stage, title and pictures of what else the stages left on an image; checkerboards are made by the figures themselves."""
    found = []
    for stage in records.stages:
        for thing, previews in sorted(seen.get(stage, {}).items()):
            if thing.split("+")[0] == name:
                plain = {view: picture for view, picture in previews.items() if view not in SLICES and not view.startswith("checkerboard")}
                found += [(stage, title, pair) for title, pair in extras(plain, thing, records, gallery)]
    return [(stage, "why this class" if title == why.TITLE else title, pair) for stage, title, pair in found]


def _latest(seen: Seen, stages: Sequence[str], thing: str) -> dict[str, Shown]:
    return next((planes for stage in reversed(stages) if (planes := planes_of(seen.get(stage, {}).get(thing, {})))), {})


def _is_labels(thing: str, records: Records) -> bool:
    row = records.last.get(thing)
    return row is not None and row.kind == "labels" and thing.endswith(("+seg", "+labels", "+mask"))


def _labels(
    name: str, seen: Seen, stages: Sequence[str], records: Records, shown: Mapping[str, Shown]
) -> tuple[dict[str, Shown], dict[int, str]]:
    """Return labels on the grid of what is shown, and their names; what was segmented before what the user gave."""
    things = sorted(
        {thing for stage in stages for thing in seen.get(stage, {}) if thing.startswith(f"{name}+") and _is_labels(thing, records)}
    )
    for thing in sorted(things, key=lambda thing: not thing.endswith("+seg")):
        planes = _latest(seen, stages, thing)
        if planes and all(planes[plane].pixels.shape == one.pixels.shape for plane, one in shown.items() if plane in planes):
            return planes, label_names(records.last[thing], [picture for one in planes.values() for picture in one.pixels], records)
    return {}, {}


def _plane(
    gallery: Gallery,
    name: str,
    shown: Mapping[str, Shown],
    before: Mapping[str, Shown],
    labels: Mapping[str, Shown],
    laid: Mapping[str, Mapping[str, Shown]],
    modality: str,
    subtract: bool = True,
) -> Plane:
    after = shown[name]
    count, height, width = after.pixels.shape
    earlier = fitted(before[name], after) if name in before else None
    on_grid = labels[name].pixels if name in labels and labels[name].pixels.shape == after.pixels.shape else None
    # Without its window a map's pixels are no shares.
    maps = [
        (MAPS[end], layer(gallery, planes[name]))
        for end, planes in laid.items()
        if name in planes and planes[name].window is not None and planes[name].pixels.shape == after.pixels.shape
    ]
    return Plane(
        name,
        width,
        height,
        count,
        after=sprite(gallery, after.pixels),
        before=sprite(gallery, earlier.pixels) if earlier is not None else "",
        change=change(gallery, earlier, after, modality) if earlier is not None and subtract else None,
        contours=contours(gallery, on_grid) if on_grid is not None else "",
        maps=maps,
    )


def _registered(name: str, seen: Seen, position: int, records: Records, gallery: Gallery) -> Iterator[Figure]:
    """Give a figure for every image that a stage laid on another one: the fixed one before, the moved one after."""
    stage, so_far = records.stages[position], records.stages[: position + 1]
    for thing in sorted(seen.get(stage, {})):
        row = records.last.get(thing)
        if not thing.startswith(f"{name}+") or row is None or row.kind != "image" or thing.endswith(LAID_OVER):
            continue
        moved, fixed = planes_of(seen[stage][thing]), _fixed(row, name, records)
        if not moved:
            continue
        there = _latest(seen, so_far, fixed) if fixed else {}
        labels, names = _latest(seen, [stage], f"{thing}seg"), {}
        if labels and f"{thing}seg" in records.last:
            names = label_names(records.last[f"{thing}seg"], [picture for one in labels.values() for picture in one.pixels], records)
        planes = [_plane(gallery, plane, moved, there, labels, {}, row.modality, subtract=False) for plane in moved]
        title = f"laid on {fixed}" if there else thing
        yield Figure(stage, title, planes, registered=True, labels=names)


def _fixed(row: Row, name: str, records: Records) -> str:
    return next((source for source in row.sources.split() if source != name and "+" not in source), "")
