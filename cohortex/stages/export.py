"""Write the BIDS derivatives of a subject: what every image, label map, transform and table has become.

This stage is the one that knows a folder: the results, which other people's viewers and scripts read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex import __version__, threads
from cohortex.blocks import over_blocks
from cohortex.io.bids import build_name, folder
from cohortex.io.dataset import LISTS, remove_files, write_dataset
from cohortex.items import HEAD_LABELS, Image, Made, settings_for
from cohortex.publish import atomic_path, file_sha256, link_or_copy, sweep, write_json, write_text
from cohortex.report.faces import is_defaced
from cohortex.stages.classify_why import TAGS
from cohortex.volume import Volume

__all__ = ["export", "write_dataset"]


@dataclass
class Written:
    """The DICOM objects of a subject.

    Attributes
    ----------
    files : list of str
        Paths relative to the results.
    of : dict
        Path by the id of the thing that it shows.
    left : dict
        By id, why there is no object of a thing that was to have one.
    """

    files: list[str] = field(default_factory=list)
    of: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Where one thing goes: the entities, suffix and ending of its name."""

    image: Image
    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def path(self) -> str:
        """Path relative to the results."""
        image = self.image
        return f"{folder(image.subject, image.session, image.modality)}/{build_name(self.entities, self.suffix, self.extension)}"

    @property
    def sidecar(self) -> str:
        """Path of its JSON file, relative to the results."""
        return self.path.removesuffix(self.extension) + ".json"


def export(images: Sequence[Image], section: Mapping[str, Any], model: Any, seed: int) -> list[Made]:
    """Write everything of a subject into the results, with a sidecar each, and remove what only the last one wrote.

    Parameters
    ----------
    images : sequence of Image
        All of one subject.
    section : mapping
        ``default`` and entries by modality (``desc``, ``nifti_limit_mb``, ``dicom``, ``dicom_uids``), and ``results``: the folder to write
        to.

    Returns
    -------
    list of Made
        One for each thing, with ``exported`` (path relative to the results) and ``exported_sha256`` of the file; ``dicom``, its DICOM
        object, or status ``warned`` and code ``no-dicom`` where one was asked for and cannot be.

    Notes
    -----
    Names, sidecars and URIs follow the BIDS specification 1.10, https://bids-specification.readthedocs.io, chapter derivatives.
    Transforms are ITK text files and displacement fields ITK vector images, both in LPS mm.
    """
    results = Path(section["results"])
    for subject in {image.subject for image in images}:
        # of an attempt that was killed
        sweep(results / f"sub-{subject}", deep=True)
        sweep(results / LISTS, f"{subject}.json")
    targets = name_all(images, section)
    sums: dict[str, str] = {}
    labels: dict[str, dict[str, str]] = {}
    for target in targets:
        write_content(results, target)
        _write_json(results / target.sidecar, sidecar(target, targets))
        for name in (target.path, target.sidecar):
            sums[name] = file_sha256(results / name)
        if target.suffix == "dseg":
            labels.setdefault(target.entities["desc"], {}).update(label_names(target.image))
    objects = _write_dicom(results, targets, section)
    sums |= {name: file_sha256(results / name) for name in objects.files}
    made = [_word(target, sums, objects) for target in targets]
    if images:
        _replace_list(results, images[0].subject, {"files": sums, "labels": labels})
    return made


def _write_dicom(results: Path, targets: Sequence[Target], section: Mapping[str, Any]) -> Written:
    """Write what the settings ask for in DICOM, beside the files that are there."""
    if not any(settings_for(section, target.image.modality).get("dicom") for target in targets):
        return Written()
    from cohortex.stages.export_dicom import write_objects

    found = {target.path: _reference(target, targets) for target in targets if target.image.kind in ("image", "labels")}
    return write_objects(results, targets, section, {path: uri.removeprefix("bids::") for path, uri in found.items() if uri != "orig"})


def _word(target: Target, sums: Mapping[str, str], objects: Written) -> Made:
    """Return the row of a thing: its file, and its DICOM object or why there is none."""
    name = target.image.id
    measures = {"exported": target.path, "exported_sha256": sums[target.path]}
    if name in objects.of:
        measures["dicom"] = objects.of[name]
    if name not in objects.left:
        return Made(of=name, measures=measures)
    reason = f"No DICOM object was written: {objects.left[name]}; the other files are complete."
    return Made(of=name, measures=measures, status="warned", code="no-dicom", reason=reason)


def name_all(images: Sequence[Image], section: Mapping[str, Any]) -> list[Target]:
    """Return where each thing of a subject goes; things that BIDS would call the same are told apart by their modality in ``desc``.

    Raises
    ------
    ValueError
        When two things have one name even so.
    """
    targets = [name(image, section) for image in images]
    many = Counter(target.path for target in targets)
    for i, target in enumerate(targets):
        if many[target.path] > 1:
            desc = target.image.modality + target.entities.get("desc", "")
            targets[i] = replace(target, entities={**target.entities, "desc": desc})
    twice = [path for path, count in Counter(target.path for target in targets).items() if count > 1]
    if twice:
        raise ValueError(f"two things of a subject would both be called {twice[0]}")
    return targets


def name(image: Image, section: Mapping[str, Any]) -> Target:
    """Return where one thing goes."""
    settings = settings_for(section, image.modality)
    tag = image.id.partition("+")[2]
    own = {key: image.entities[key] for key in ("space", "res", "den", "label", "desc") if image.entities.get(key)}
    entities = {"sub": image.subject, "ses": image.session, **_acq_run(image), **own}
    if image.kind in ("transform", "field"):
        between = {"from": image.entities.get("from", image.modality), "to": image.entities.get("to", "fixed"), "mode": "image"}
        entities = {**entities, **between}
        entities.pop("desc", None)
        return Target(image, entities, "xfm", ".txt" if image.kind == "transform" else _volume_extension(image, settings))
    if image.kind == "table":
        return Target(image, {"desc": tag, **entities}, "table", ".tsv")
    if image.kind == "labels":
        entities = {"space": image.modality, "desc": tag or image.role, **entities}
        return Target(image, entities, "mask" if image.role == "mask" else "dseg", _volume_extension(image, settings))
    entities = {"desc": tag or settings.get("desc", "cohortex"), **entities}
    return Target(image, entities, image.modality or "image", _volume_extension(image, settings))


def _acq_run(image: Image) -> dict[str, str]:
    """Return acq and run as the table has them; for a mask whose image was set aside, what is left of the id."""
    if "acq" in image.row:
        return {"acq": image.row["acq"], "run": image.row["run"]}
    start = "_".join(filter(None, [image.subject, image.session])) + "_"
    middle = image.id.partition("+")[0].removeprefix(start).split("_")[:-1]
    return {"acq": "".join(middle), "run": ""}


def _volume_extension(image: Image, settings: Mapping[str, Any]) -> str:
    data = image.volume.data
    size_mb = prod(data.shape) * np.dtype(data.dtype).itemsize / 1e6
    return ".ozx" if size_mb > settings.get("nifti_limit_mb", 2048) else ".nii.gz"


def write_content(results: Path, target: Target) -> None:
    """Write one thing, atomically, readable by the owner's group only."""
    path = results / target.path
    _make_folder(results, path.parent)
    content = target.image.content
    if target.extension == ".ozx":
        _write_ozx(path, target.image.volume)
    elif isinstance(content, Volume):
        from cohortex.io.nifti import write_nifti

        write_nifti(path, content, threads=threads.count())
    elif isinstance(content, np.ndarray):
        from cohortex.io.itk import write_affine

        write_affine(path, content)
    else:
        write_text(path, _table(content or {}))
    path.chmod(0o640)


def _write_ozx(path: Path, volume: Volume) -> None:
    stored = getattr(volume.data, "path", None)
    if isinstance(stored, Path) and stored.suffix == ".ozx":
        with atomic_path(path) as temporary:
            link_or_copy(stored, temporary)
        return
    from cohortex.io.ozx import write_ozx

    write_ozx(path, volume, threads.count())


def _make_folder(results: Path, path: Path) -> None:
    """Make a folder and those above it, up to the results, for the owner and the group."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        if each.is_relative_to(results):
            each.chmod(0o750)


def _table(content: Mapping[str, Any]) -> str:
    """Return a table (column to values) as text, without anything that a spreadsheet would run."""
    from cohortex.report.records import safe_cell
    from cohortex.tables import cell

    columns = list(content)
    rows = zip(*(content[column] for column in columns), strict=True)
    lines = ["\t".join(columns), *("\t".join(safe_cell(cell(value)) or "n/a" for value in row) for row in rows)]
    return "\n".join(lines) + "\n"


def sidecar(target: Target, targets: Sequence[Target]) -> dict[str, Any]:
    """Return what stands in the JSON file beside a thing."""
    image = target.image
    steps = _plain(image.volume.history) if isinstance(image.content, Volume) else []
    models = {name: sha256 for step in steps for name, sha256 in step.get("models", {}).items()}
    own: dict[str, Any] = {"Version": __version__, "Image": image.id, "Kind": image.kind, "BodyPart": image.body_part, "History": steps}
    if models:
        own["Models"] = models
    if image.sources:
        own["MadeFrom"] = list(image.sources)
    content: dict[str, Any] = {"Sources": sources(image, targets), "Cohortex": {key: value for key, value in own.items() if value}}
    if image.kind in ("image", "labels"):
        content |= {"SpatialReference": _reference(target, targets), "SkullStripped": False, "Description": _told(image, steps)}
        if "res" in target.entities:
            content["Resolution"] = " x ".join(f"{size:.4g}" for size in image.volume.spacing) + " mm"
        if target.entities.get("desc") == "uncertainty":
            content["Units"] = "entropy of the label, 0 (sure) to 1 (every label as likely)"
        elif target.entities.get("desc") in TAGS.values():
            content["Units"] = "what speaks for the predicted class, 0 (nothing, or against it) to 1 (most of this image)"
        elif image.modality == "CT" and image.kind == "image":
            content["Units"] = "HU"
        if target.suffix == "mask":
            content["Type"] = "ROI"
        if is_defaced(steps):
            content["Defaced"] = True
    if image.kind == "transform":
        content["Description"] = "Affine transform of points of the fixed image (`to`) into the moving image (`from`), ITK text, LPS mm"
    if image.kind == "field":
        content["Description"] = (
            "Displacements in LPS mm on the grid of the fixed image (`to`): its point p corresponds to p + field(p) of the moving image "
            "(`from`); where there is an affine transform of the same name, that is applied to p + field(p)"
        )
    return content


def _told(image: Image, steps: Sequence[Mapping[str, Any]]) -> str:
    what = {"mask": "Mask", "labels": "Labels"}.get(image.role, "Labels" if image.kind == "labels" else image.modality)
    through = list(dict.fromkeys(str(step["stage"]) for step in steps if step.get("stage")))
    return f"{what} after the stages {', '.join(through)} of Cohortex" if through else f"{what}, as it came"


def sources(image: Image, targets: Sequence[Target]) -> list[str]:
    """Return the BIDS URIs of what a thing was made from: files of a BIDS input, for derived things their sources in the results.

    Paths of other inputs may hold a patient's name and are never written; where names are hidden there are tokens for all.
    """
    if "+" not in image.id:
        return _raw(image)
    wanted = image.sources or (image.id.partition("+")[0],)
    paths = {target.image.id: target.path for target in targets}
    return [f"bids::{paths[source]}" for source in wanted if source in paths]


def _raw(image: Image) -> list[str]:
    path, root = image.row.get("path", ""), image.row.get("root", "")
    if path.startswith("file-") and not root:
        return [path]
    relative = path.removeprefix(root).lstrip("/") if root and path.startswith(root) else ""
    return [f"bids:raw:{relative}"] if relative.startswith(f"sub-{image.subject}/") else []


def _reference(target: Target, targets: Sequence[Target]) -> str:
    """Return the URI of the image whose grid a thing is on; ``orig`` where that is its own."""
    image, space = target.image, target.entities.get("space", "")
    if image.kind == "image" and not space:
        return "orig"
    images = [each for each in targets if each.image.kind == "image" and "+" not in each.image.id]
    own = image.id.partition("+")[0] if space == image.modality and image.kind == "labels" else ""
    fits = [each for each in images if each.image.id == own]
    fits += [
        each for each in images if space in (each.image.modality, f"ses{each.image.session}") and each.image.id in (*image.sources, own)
    ]
    fits += [each for each in images if space in (each.image.modality, f"ses{each.image.session}")]
    return f"bids::{fits[0].path}" if fits else "orig"


def label_names(image: Image) -> dict[str, str]:
    """Return the names of the labels that are in a label map, by value: from its history (``label_names``), or of a segmented head."""
    told: dict[int, str] = {}
    for step in image.volume.history:
        told |= {int(value): str(text) for value, text in step.get("label_names", {}).items()}
    if not told and "seg" in image.id.partition("+")[2] and image.body_part == "head":
        told = HEAD_LABELS
    found = over_blocks(lambda _, block: np.unique(block), image.volume.data)
    values = [int(value) for value in np.unique(np.concatenate(found)) if value]
    return {str(value): told.get(value, f"label {value}") for value in values}


def _plain(value: Any) -> Any:
    """Return history as JSON can hold it, without absolute paths."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(below) for below in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, str | Path):
        return Path(value).name if str(value).startswith("/") else str(value)
    return value


def _replace_list(results: Path, subject: str, content: Mapping[str, Any]) -> None:
    """Remember what belongs to a subject, and delete what belonged to it before and does not any more."""
    file = results / LISTS / f"{subject}.json"
    _make_folder(results, file.parent)
    try:
        before = set(json.loads(file.read_text(encoding="utf-8"))["files"])
    except (FileNotFoundError, ValueError, KeyError):
        before = set()
    remove_files(results, subject, before - set(content["files"]))
    _write_json(file, content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_json(path, content)
    path.chmod(0o640)
