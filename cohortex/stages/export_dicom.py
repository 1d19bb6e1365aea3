"""What of a subject's results a PACS is given: segmentations, parametric maps and a structured report, beside the BIDS files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex import __version__
from cohortex.io.bids import build_name, folder
from cohortex.io.dicom_codes import SCHEME, Code, named, private
from cohortex.io.dicom_objects import Placed, Study, image_object, placed, uid, write_object
from cohortex.items import Image, settings_for
from cohortex.stages.classify_why import TAGS
from cohortex.stages.export import Target, Written, label_names

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from cohortex.io.dicom_source import Source

CLASS = Code("class", SCHEME, "class")
MAPS: dict[str, tuple[Code, str]] = {
    "uncertainty": (Code("entropy", SCHEME, "Entropy of the label"), "entropy of the label, 0 (sure) to 1 (every label as likely)"),
    TAGS["grad_cam"]: (Code("130403", "DCM", "Gradient-weighted class activation"), "what speaks for the class, 0 to 1"),
    TAGS["occlusion"]: (Code("occlusion", SCHEME, "Occlusion sensitivity"), "what speaks for the class, 0 to 1"),
    TAGS["integrated_gradients"]: (private("integrated gradients"), "what speaks for the class, 0 to 1"),
}
"""What the values of a derived image are, by its tag; an image that is not here is no map."""

NO_IMAGE = "there is no image in whose space it lies"
TOO_LARGE = "it is above nifti_limit_mb, and a DICOM object is written out of memory"


@dataclass(frozen=True)
class Shown:
    """An image as objects refer to it: its DICOM slices, or the multi-frame image that was written for it."""

    study: Study
    frame_uid: str
    images: Sequence[Dataset]
    source: Source | None = None

    def grid_of(self, image: Image) -> Placed:
        """Return how the voxels of something over the image lie in frames."""
        return (self.source and self.source.grid_of(image.volume)) or placed(image.volume)


def write_objects(results: Path, targets: Sequence[Target], section: Mapping[str, Any], references: Mapping[str, str]) -> Written:
    """Write the DICOM objects of a subject that the settings ask for (``dicom``, ``dicom_uids``).

    Parameters
    ----------
    targets : sequence of Target
        Everything of the subject, with its path in the results; an object lies beside its NIfTI file, under the same name.
    references : mapping
        Path of the image in whose space a thing lies, by the path of the thing; without an entry it has none.

    Notes
    -----
    Identifiers follow from the subject's id and the sha256 of the data, so they are the same in every run and in no other cohort. The
    patient module holds the id of the cohort alone. With ``dicom_uids: source`` the study, the frame of reference and, where the grid is
    still that of the series, the slices are those of the scan's own DICOM files.
    """
    return _Writer(results, targets, section, references).write()


class _Writer:
    """Writes the objects of one subject; images that several of them refer to are written once."""

    def __init__(self, results: Path, targets: Sequence[Target], section: Mapping[str, Any], references: Mapping[str, str]):
        self.results, self.targets, self.section = results, targets, section
        self.by_path = {target.path: target for target in targets}
        self.references = references
        self.shown: dict[str, Shown] = {}
        self.segments: dict[str, tuple[Dataset, dict[int, int]]] = {}
        self.done = Written()

    def write(self) -> Written:
        """Write all of it."""
        for target in self.targets:
            asked = self._settings(target).get("dicom") or ()
            if target.image.kind == "labels" and "seg" in asked:
                self._object(target, self._segmentation)
            elif is_map(target.image) and "map" in asked:
                self._object(target, self._map)
        self._reports()
        return self.done

    def _settings(self, target: Target) -> Mapping[str, Any]:
        return settings_for(self.section, target.image.modality)

    def _object(self, target: Target, make: Any) -> None:
        try:
            if target.extension != ".nii.gz":
                raise ValueError(TOO_LARGE)
            origin = self._origin(target)
            if origin is None:
                raise ValueError(NO_IMAGE)
            found = make(target, self._show(origin))
        except ValueError as error:
            self.done.left[target.image.id] = str(error)
            return
        self.done.of[target.image.id] = self._keep(_dcm(target), found)

    def _keep(self, path: str, found: Dataset) -> str:
        write_object(self.results / path, found)
        (self.results / path).chmod(0o640)
        # what refers to it needs no pixels
        for keyword in ("PixelData", "FloatPixelData"):
            if keyword in found:
                delattr(found, keyword)
        self.done.files.append(path)
        return path

    def _origin(self, target: Target) -> Target | None:
        """Return the image in whose space a thing lies: the one that its sidecar names, or one on the same grid."""
        told = self.by_path.get(self.references.get(target.path, ""))
        if told is not None:
            return told
        own = target.image.volume
        for each in self.targets:
            image = each.image
            if (
                image.kind == "image"
                and not is_map(image)
                and image.volume.shape == own.shape
                and np.allclose(image.volume.affine, own.affine)
            ):
                return each
        return None

    def _show(self, origin: Target) -> Shown:
        """Return an image as objects refer to it; its own object is written at the first call."""
        if origin.path not in self.shown:
            self.shown[origin.path] = self._made_to_show(origin)
        return self.shown[origin.path]

    def _made_to_show(self, origin: Target) -> Shown:
        image = origin.image
        source = self._source(image)
        study = Study(image.subject, image.session, source.study_uid if source else self._studies[image.session])
        space = self.by_path.get(self.references.get(origin.path, ""))
        frame_uid = source.frame_uid if source else uid("frame", study.uid, (space or origin).image.id)
        if source and source.grid_of(image.volume):
            return Shown(study, frame_uid, [_with_patient(each, study) for each in source.slices], source)
        if origin.extension != ".nii.gz":
            raise ValueError(TOO_LARGE)
        found = image_object(
            image.volume, study, frame_uid, self._seed(study, image), self._number(origin), f"{image.modality} by Cohortex"
        )
        self.done.of[image.id] = self._keep(_dcm(origin), found)
        return Shown(study, frame_uid, [found], source)

    @cached_property
    def _studies(self) -> dict[str, str]:
        """Derived study UIDs by session: they follow from the subject and all its images of that session."""
        seeds: dict[str, list[str]] = {}
        for target in self.targets:
            if target.image.kind == "image" and "+" not in target.image.id:
                seeds.setdefault(target.image.session, []).append(_sha256(target.image))
        sessions = {target.image.session for target in self.targets}
        subject = self.targets[0].image.subject
        return {session: uid("study", subject, session, *sorted(seeds.get(session, []))) for session in sessions}

    def _source(self, image: Image) -> Source | None:
        if settings_for(self.section, image.modality).get("dicom_uids") != "source" or "+" in image.id:
            return None
        from cohortex.io.dicom_source import read_source

        return read_source(image.row)

    def _seed(self, study: Study, image: Image, *further: str) -> str:
        return "|".join((study.uid, image.id, _sha256(image), __version__, *further))

    def _number(self, target: Target) -> int:
        return 100 + list(self.by_path).index(target.path)

    def _segmentation(self, target: Target, shown: Shown) -> Dataset:
        from cohortex.io.dicom_seg import Origin, label_of, segmentation

        image = target.image
        names = {int(value): name for value, name in label_names(image).items()}
        found = segmentation(
            image.volume,
            shown.grid_of(image),
            names,
            Origin(shown.images, shown.frame_uid),
            self._seed(shown.study, image, str(sorted(names.items()))),
            self._number(target),
            target.entities.get("desc", "labels"),
            by_hand=is_users(image),
        )
        self.segments[image.id] = found, {label_of(each): int(each.SegmentNumber) for each in found.SegmentSequence}
        return found

    def _map(self, target: Target, shown: Shown) -> Dataset:
        from cohortex.io.dicom_seg import Origin, parametric_map

        image = target.image
        quantity, meaning = MAPS[_tag(image)]
        seed = self._seed(shown.study, image, str(quantity))
        origin = Origin(shown.images, shown.frame_uid)
        return parametric_map(image.volume, shown.grid_of(image), quantity, meaning, origin, seed, self._number(target), _tag(image))

    def _reports(self) -> None:
        """Write one structured report for each study in which something was measured."""
        from cohortex.io.dicom_sr import Group, report

        found: dict[str, tuple[Shown, list[Group]]] = {}
        for target in self.targets:
            if "sr" not in (self._settings(target).get("dicom") or ()) or target.extension == ".ozx":
                continue
            try:
                for shown, group in self._groups(target):
                    found.setdefault(shown.study.uid, (shown, []))[1].append(group)
            except ValueError as error:
                self.done.left[target.image.id] = str(error)
        names: set[str] = set()
        for number, (shown, groups) in enumerate(found.values(), 1):
            study = shown.study
            base = f"{folder(study.patient, study.session, 'sr')}/"
            entities = {"sub": study.patient, "ses": study.session, "desc": "measures"}
            path = base + build_name(entities, "sr", ".dcm")
            if path in names:
                path = base + build_name({**entities, "desc": f"measures{number}"}, "sr", ".dcm")
            names.add(path)
            seed = "|".join((study.uid, "report", __version__, *(str(group) for group in _facts(groups))))
            self._keep(path, report(groups, seed, 9000 + number, "Measures by Cohortex"))

    def _groups(self, target: Target) -> Iterator[tuple[Shown, Any]]:
        """Give what was measured of one thing: volumes of labels on their own grid, classes, boxes."""
        image = target.image
        if image.kind == "labels" and target.entities.get("space") == image.modality:
            origin = self._origin(target)
            if origin is None:
                raise ValueError(NO_IMAGE)
            shown = self._show(origin)
            for group in self._volumes(target, shown):
                yield shown, group
        elif image.kind == "table" and _tag(image) in ("class", "boxes", "truth"):
            scan = next((each for each in self.targets if each.image.id == image.id.partition("+")[0]), None)
            content = image.content
            if scan is None or not isinstance(content, Mapping) or not all(len(column) for column in content.values()):
                return
            shown = self._show(scan)
            for group in [_classes(image, content, shown)] if _tag(image) == "class" else _boxes(scan.image, image, content, shown):
                yield shown, group

    def _volumes(self, target: Target, shown: Shown) -> Iterator[Any]:
        from cohortex.io.dicom_sr import MM3, VOLUME, Group

        image = target.image
        segmented = self.segments.get(image.id)
        counts = np.bincount(image.volume.array().reshape(-1))
        voxel = abs(float(np.linalg.det(image.volume.affine[:3, :3])))
        for text, name in label_names(image).items():
            value = int(text)
            segment = (segmented[0], segmented[1][value]) if segmented else None
            measures = ((VOLUME, round(float(counts[value]) * voxel, 4), MM3),)
            yield Group(f"{image.id} {name}", shown.images, named(name)[1], measures, segment=segment)


def is_map(image: Image) -> bool:
    """Tell whether an image is a map of values beside a scan."""
    return image.kind == "image" and _tag(image) in MAPS


def is_users(image: Image) -> bool:
    """Tell whether labels came with the cohort."""
    return image.role in ("mask", "labels") and _tag(image) in ("mask", "labels", "warpedlabels")


def _tag(image: Image) -> str:
    return image.id.partition("+")[2]


def _sha256(image: Image) -> str:
    return image.row.get("sha256") or image.volume.sha256()


def _dcm(target: Target) -> str:
    return target.path.removesuffix(target.extension) + ".dcm"


def _with_patient(one: Dataset, study: Study) -> Dataset:
    """Return a slice of a source with the ids of the cohort where objects that refer to it look for a patient."""
    one.PatientID, one.StudyID = study.patient, study.session
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(one, keyword, "")
    return one


def _facts(groups: Sequence[Any]) -> list[Any]:
    return [(group.name, group.measures, group.words, None if group.box is None else group.box.round(4).tolist()) for group in groups]


def _classes(image: Image, content: Mapping[str, Any], shown: Shown) -> Any:
    """Return the class of a scan and the probability of every class."""
    from cohortex.io.dicom_sr import NO_UNIT, Group

    chances = [float(value) for value in content["probability"]]
    names = [str(name) for name in content["class"]]
    measures = [(private(f"probability of {name}"), chance, NO_UNIT) for name, chance in zip(names, chances, strict=True)]
    best = private(names[int(np.argmax(chances))])
    return Group(f"{image.id}", shown.images, CLASS, measures, [(CLASS, best)])


def _boxes(scan: Image, image: Image, content: Mapping[str, Any], shown: Shown) -> Iterator[Any]:
    """Give the boxes of a table with their scores and lengths."""
    from cohortex.io.boxes import CORNERS, CORNERS_MM, to_voxels
    from cohortex.io.dicom_sr import LENGTH, MM, NO_UNIT, PROBABILITY, Group, box_faces

    affine = scan.volume.affine
    for row in range(len(content["label"])):
        if all(name in content for name in CORNERS_MM):
            world = np.array([float(content[name][row]) for name in CORNERS_MM]).reshape(2, 3)
            corners = to_voxels(world, affine)
        else:
            corners = np.array([float(content[name][row]) for name in CORNERS]).reshape(2, 3)
        low, high = corners.min(axis=0), corners.max(axis=0)
        measures = []
        if "score" in content:
            measures.append((PROBABILITY, float(content["score"][row]), NO_UNIT))
        if "longest_mm" in content:
            measures.append((LENGTH, float(content["longest_mm"][row]), MM))
        name = str(content["label"][row])
        yield Group(f"{image.id} {row + 1} {name}", shown.images, named(name)[1], measures, box=box_faces(low, high, affine))
