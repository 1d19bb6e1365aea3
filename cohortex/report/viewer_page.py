"""The viewer of a subject in three dimensions: which of its volumes may be shown, their small copies in a script file, and the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from cohortex.blocks import plan, planned
from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.publish import atomic_path, write_text
from cohortex.records import pairs
from cohortex.report import html
from cohortex.report.faces import of_image
from cohortex.report.pictures import colour, label_names
from cohortex.report.previews import grey_window
from cohortex.report.records import Records, Row
from cohortex.report.sprites import LINES
from cohortex.report.viewer import MAPS
from cohortex.report.viewer_volume import as_levels, factors_for, levels_of, packed, reduced
from cohortex.volume import Volume

VERSION = 1
"""Raised when the same volumes give another file."""
LIMIT = 3_000_000
"""Bytes of the volumes of a subject in the report, at most."""
DENSE, SPARSE = 0.55, 0.06
"""What is left of a byte of an image and of labels when they are packed, about."""
READ_MB = 32_000
"""So much of the results is read for all viewers of a report; what lies beyond costs a report its time."""
FULL_MB = 600
"""What a browser is sent of an image and its layers is not larger in memory."""
TEXTURE = 2048
"""Voxels along an axis that graphics cards take everywhere."""
LIBRARY = "niivue.js"
"""What draws, beside the report."""
VENDORED = "niivue.umd.js"
SCRATCH_MB = 512
"""Memory for blocks; arrays above an eighth of it are decoded into a scratch file."""

FACE = (
    "No volume of it is in this report, since a face may be recognised in it: the stage deface did not take it away. Put deface into "
    "stages, behind acquire, and run again, or allow it with report: faces: show where your rules do."
)
TOO_MUCH = f"The volumes that come before it are {READ_MB // 1000} GB already, which is what a report reads; open the file of the results."


@dataclass(frozen=True)
class Thing:
    """A volume of the results: an image, labels or a map that lies over one."""

    row: Row
    title: str
    kind: str

    @property
    def path(self) -> str:
        """Where it lies in the results."""
        return self.row.measures["exported"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(int(n) for n in self.row.shape.split("x"))

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel in mm."""
        return tuple(float(n) for n in self.row.spacing_mm.split("x"))

    @property
    def size_mb(self) -> float:
        """Of the volume in memory."""
        return prod(self.shape) * 4 / 1e6

    def full(self, room_mb: float) -> str:
        """Return its address beside the page of a subject, empty where a browser that has room for so much could not take it."""
        fits = self.size_mb <= room_mb and max(self.shape) <= TEXTURE and self.path.endswith(".nii.gz")
        return "../../" + quote(self.path) if fits else ""


@dataclass
class Viewers:
    """Makes the viewers of a report's subjects, one after the other."""

    records: Records
    config: Mapping[str, Any]
    results: Path
    folder: Path
    scratch: Path
    left_mb: float = field(default_factory=lambda: READ_MB)
    made: set[str] = field(default_factory=set)
    """Files that belong to the viewers, in the folder of the pages."""

    def words_on(self, subject: str, names: Sequence[str], derived: Mapping[str, Sequence[Row]], title: str) -> dict[str, str]:
        """Write the viewer of a subject; return by image why it is not in there, empty where it is. Images without a volume have no word.

        Parameters
        ----------
        subject : str
        names : sequence of str
            Ids of its images.
        derived : mapping
            By image, the rows of what was made of it.
        title : str
            Of the cohort.
        """
        told, images, spent = {}, [], 0.0
        report = self.config.get("report")
        rows = [row for name in names for row in derived.get(name, ())]
        for name in names:
            row = self.records.last.get(name)
            if row is None or not _in_space(row):
                continue
            if not _may_be_seen(self.records, row, report):
                told[name] = FACE
                continue
            things = [Thing(row, name, "image"), *_layers(self.records, row, rows, report)]
            cost = sum(thing.size_mb for thing in things)
            told[name] = TOO_MUCH if spent + cost > self.left_mb else ""
            if not told[name]:
                spent += cost
                images.append(things)
        if images:
            content = self._content(subject, images, told)
            self.left_mb -= spent
            if content:
                self._page(subject, content, title)
        return told

    def finish(self) -> None:
        """Put what draws beside the report if a viewer needs it, and take away what does not belong to it any more."""
        library = self.folder.parent / LIBRARY
        if self.made:
            write_library(library)
        else:
            library.unlink(missing_ok=True)
        for path in self.folder.glob("sub-*.view.*"):
            if path.name not in self.made:
                path.unlink(missing_ok=True)

    def _content(self, subject: str, images: Sequence[Sequence[Thing]], told: dict[str, str]) -> list[dict[str, Any]]:
        """Write the script with the volumes of a subject, unless it is there already; return what the page says of each image."""
        path = self.folder / data_name(subject)
        facts = [
            [thing.row.image, thing.title, thing.kind, *(thing.row.measures.get(key) for key in ("exported", "exported_sha256", "model"))]
            for things in images
            for thing in things
        ]
        simulated = [things[0].row.image in self.records.simulated for things in images]
        key = hashlib.sha256(json.dumps([VERSION, LIMIT, facts, simulated]).encode()).hexdigest()
        content = _made_before(path, key)
        if content is None:
            content = []
            share = LIMIT // len(images)
            with planned(replace(plan(), memory_mb=SCRATCH_MB, threads=1, scheduler="threads", scratch=self.scratch)):
                for things in images:
                    try:
                        content.append(self._image(things, share))
                    except (BadInput, Skip, OSError, ValueError) as error:
                        told[things[0].row.image] = _unread(things[0], error)
            if content:
                # without its key what could not be read is tried again the next time
                first = key if len(content) == len(images) else ""
                write_text(path, f"// {first}\nwindow.cohortexView = {json.dumps({'images': content}, separators=(',', ':'))};\n")
                # as the volumes themselves: for the owner and the group
                path.chmod(0o640)
        return content

    def _image(self, things: Sequence[Thing], share: int) -> dict[str, Any]:
        """Return an image and its layers, as small as it takes for them to be of so many bytes."""
        inside = [thing for thing in things if thing.kind != "other"]
        dense = sum(thing.kind != "labels" for thing in inside)
        voxels = int(share * 3 / 4 / (DENSE * dense + SPARSE * (len(inside) - dense)))
        while True:
            factors = factors_for(things[0].shape, things[0].spacing, voxels)
            made = self._packed(things, factors)
            size = sum(len(layer.get("data", "")) for layer in made["layers"])
            if size <= share or voxels < 8:
                return made
            voxels = int(voxels * 0.9 * share / size)

    def _packed(self, things: Sequence[Thing], factors: Sequence[int]) -> dict[str, Any]:
        first, layers, affine, small, room = things[0], [], None, None, float(FULL_MB)
        for thing in things:
            full = thing.full(room)
            room -= thing.size_mb if full else 0
            layer: dict[str, Any] = {"id": thing.row.image, "title": thing.title, "kind": thing.kind, "full": full}
            if thing.kind == "other" and thing.row.modality == "CT":
                # its window needs none of its values
                none = Volume(np.zeros((1, 1, 1), np.float32), np.eye(4), "CT", body_part=thing.row.body_part)
                layer["window"] = list(grey_window(np.empty(0), none))
            if thing.kind != "other":
                volume = self._read(thing)
                if affine is not None and not np.allclose(volume.affine, affine, atol=1e-3):
                    # of the same size, but elsewhere
                    continue
                affine = volume.affine
                found = reduced(volume, factors)
                small = small or found
                layer |= self._encoded(thing, found)
            layers.append(layer)
        assert affine is not None and small is not None
        return {
            "id": first.row.image,
            "modality": first.row.modality,
            "unit": "HU" if first.row.modality == "CT" else "",
            "simulated": first.row.image in self.records.simulated,
            "shape": list(small.shape),
            "affine": np.round(small.affine, 6).reshape(-1).tolist(),
            "spacing": [round(step, 3) for step in small.spacing],
            "fullShape": list(first.shape),
            "fullSpacing": [round(step, 3) for step in first.spacing],
            "layers": layers,
        }

    def _encoded(self, thing: Thing, found: Volume) -> dict[str, Any]:
        data = np.asarray(found.data)
        if thing.kind == "labels":
            names = label_names(thing.row, [data], self.records)
            classes = [[value, name, "#" + "".join(f"{part:02x}" for part in LINES[colour(value) - 1])] for value, name in names.items()]
            return {"classes": classes, "data": packed(data)}
        levels, window = levels_of(found) if thing.kind == "image" else (np.linspace(0, 1, 256, dtype=np.float32), (0.0, 1.0))
        levels = np.array([float(f"{level:.6g}") for level in levels])
        return {"levels": levels.tolist(), "window": [float(f"{end:.6g}") for end in window], "data": packed(as_levels(data, levels))}

    def _read(self, thing: Thing) -> Volume:
        row = thing.row
        (volume,) = read(self.results / thing.path, "labels" if thing.kind == "labels" else "image", name=thing.path)
        if volume.shape != thing.shape:
            raise BadInput("wrong-grid", f"{thing.path} is not what the run wrote: run again to have it anew.")
        return replace(volume, modality=row.modality, body_part=row.body_part)

    def _page(self, subject: str, content: Sequence[Mapping[str, Any]], title: str) -> None:
        templates = html.environment()
        style = html.joined(templates, "style.css", "subject_view.css")
        script = html.source(templates, "subject_view.js")
        text = templates.get_template("subject_view.html").render(
            title=subject,
            cohort=title,
            subject=subject,
            back=f"sub-{subject}.html",
            images=[one["id"] for one in content],
            simulated=any(one["simulated"] for one in content),
            style=style,
            script=script,
            policy=html.policy(style, script, files=True),
            library=f"../{LIBRARY}",
            data=data_name(subject),
        )
        write_text(self.folder / view_name(subject), text)
        self.made |= {view_name(subject), data_name(subject)}


def view_name(subject: str) -> str:
    """Return the name of the page with a subject's viewer."""
    return f"sub-{subject}.view.html"


def data_name(subject: str) -> str:
    """Return the name of the script with a subject's volumes."""
    return f"sub-{subject}.view.js"


def write_library(path: Path) -> None:
    """Write what draws, behind the texts of its licences."""
    vendor = resources.files("cohortex.report") / "vendor"
    with atomic_path(path) as temporary:
        licence = (vendor / "LICENSE.txt").read_text(encoding="utf-8")
        temporary.write_bytes(f"/*!\n{licence}*/\n".encode() + (vendor / VENDORED).read_bytes())


def _in_space(row: Row) -> bool:
    """Say whether the results have a volume of three dimensions of something."""
    shape = [int(n) for n in row.shape.split("x")] if row.shape else []
    return bool(row.measures.get("exported")) and len(shape) == 3 and min(shape) > 1 and row.kind in ("image", "labels")


def _may_be_seen(records: Records, row: Row, report: Mapping[str, Any] | None) -> bool:
    """Ask whether a face may be in something: in itself, or in one of those that it was made from, whose form it has."""
    return all(of_image(records, name, row.stage, report) for name in (row.image, *row.sources.split()))


def _layers(records: Records, base: Row, rows: Sequence[Row], report: Mapping[str, Any] | None) -> Iterator[Thing]:
    """Give what lies over an image: labels and maps of it, and what was brought onto its grid."""
    order = {"labels": 0, "map": 1, "other": 2}
    found = []
    for row in rows:
        if not _in_space(row) or not _lies_on(row, base) or not _may_be_seen(records, row, report):
            continue
        image, _, tag = row.image.partition("+")
        own = image == base.image
        if row.kind == "labels":
            what = {"mask": "mask", "labels": "labels given"}.get(tag, "labels")
            found.append(Thing(row, what if own else f"{what} of {image}", "labels"))
        elif own and f"+{tag}" in MAPS:
            found.append(Thing(row, MAPS[f"+{tag}"], "map"))
        elif tag == "warped":
            found.append(Thing(row, f"{image}, laid on it", "other"))
    yield from sorted(found, key=lambda thing: (order[thing.kind], not thing.row.image.startswith(f"{base.image}+"), thing.row.image))


def _lies_on(row: Row, base: Row) -> bool:
    """Say whether something lies on an image's grid, as its record has it; `_packed` compares the places as well."""
    own = row.image.partition("+")[0] == base.image
    space = pairs(row.entities).get("space", "")
    there = space in (base.modality, f"ses{base.session}") if space else own
    related = own or base.image in row.sources.split()
    return there and related and (row.shape, row.spacing_mm) == (base.shape, base.spacing_mm)


def _made_before(path: Path, key: str) -> list[dict[str, Any]] | None:
    """Return what a script of volumes says if it was made of the same ones."""
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        return json.loads(rest.partition("=")[2].rstrip(";\n"))["images"] if first == f"// {key}" else None
    except (OSError, ValueError, KeyError):
        return None


def _unread(thing: Thing, error: Exception) -> str:
    why = str(error) if isinstance(error, BadInput | Skip) else f"{thing.path} cannot be read ({type(error).__name__})."
    return f"It could not be shown in three dimensions: {why}"
