"""Finds what belongs together among the images of a subject: scans, their labels, their registered partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.items import Image
from cohortex.models.classify.features import (
    LARGEST,
    TEXTURE_FAMILIES,
    pair_features,
    pair_names,
    scan_features,
    scan_names,
    texture_names,
    vector_names,
)
from cohortex.volume import ArrayLike


@dataclass(frozen=True)
class Grain:
    """How fine the texture features are, and which there are.

    Attributes
    ----------
    spacing_mm : float
        Isotropic grid on which texture is taken.
    bins : int
        Grey levels.
    families : tuple of str
        Families of texture, see `cohortex.models.classify.features.texture_names`; any sequence is taken.
    pictures : bool
        The scans are pictures without labels: the features are those of all of their foreground, see
        `cohortex.models.classify.pictures.picture_features`, whatever the spacing and the families.

    Raises
    ------
    ValueError
        When a family is unknown.
    """

    spacing_mm: float = 2.0
    bins: int = 32
    families: tuple[str, ...] = TEXTURE_FAMILIES
    pictures: bool = False

    def __post_init__(self) -> None:
        """Bring the families into one order, so that equal grains are equal."""
        asked = {name.split("_")[0] for name in texture_names(self.families)}
        given = [family for family in dict.fromkeys((*TEXTURE_FAMILIES, *sorted(asked))) if family in asked]
        object.__setattr__(self, "families", tuple(given))

    def scan_names(self) -> tuple[str, ...]:
        """Return the names of a scan's own features, without its modality, in their order."""
        if not self.pictures:
            return scan_names(self.families)
        from cohortex.models.classify.pictures import picture_names

        return picture_names()

    def vector_names(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of a subject's vector."""
        if not self.pictures:
            return vector_names(modalities, self.families)
        return tuple(f"{modality}_{name}" for modality in modalities for name in self.scan_names())


def plain_scans(images: Sequence[Image]) -> list[Image]:
    """Return the images that were acquired (nothing derived, no masks), sorted by id."""
    return sorted((i for i in images if i.kind == "image" and i.role == "image" and "+" not in i.id), key=lambda i: i.id)


def labels_of(scan: Image, images: Sequence[Image]) -> ArrayLike | None:
    """Return the label map that the pipeline made of a scan, on the scan's grid, as lazy as it is stored; None where there is none.

    Raises
    ------
    BadInput
        When it lies on another grid.
    """
    name = f"{scan.id}+seg"
    found = next((image for image in images if image.id == name and image.kind == "labels"), None)
    if found is None:
        return None
    if found.volume.shape != scan.volume.shape:
        raise BadInput(
            "labels-grid",
            f"The labels {name} have {found.volume.shape} voxels, their image {scan.volume.shape}; segment this subject again.",
        )
    return found.volume.data


@dataclass
class Vectors:
    """Computes the feature vectors of one subject's scans, each scan once.

    Attributes
    ----------
    images : sequence of Image
        Everything of the subject.
    grain : Grain
    known : dict
        By scan, what was computed before.
    refused : dict
        By scan, why its features are missing although it has labels.
    """

    images: Sequence[Image]
    grain: Grain = Grain()
    known: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, Skip] = field(default_factory=dict)

    def of_scan(self, scan: Image) -> dict[str, float] | None:
        """Return a scan's own features without its modality in their names; None without labels, or where they were `refused`.

        Where the grain is that of pictures, None for what is no picture.
        """
        if scan.id not in self.known and scan.id not in self.refused:
            if self.grain.pictures:
                return self._of_picture(scan)
            labels = labels_of(scan, self.images)
            if labels is None:
                return None
            try:
                self.known[scan.id] = scan_features(
                    scan.volume.data,
                    labels,
                    scan.volume.spacing,
                    scan.modality,
                    self.grain.spacing_mm,
                    self.grain.bins,
                    self.grain.families,
                )
            except Skip as skip:
                self.refused[scan.id] = skip
        return self.known.get(scan.id)

    def of_subject(self, scan: Image, modalities: Sequence[str]) -> dict[str, float]:
        """Return the vector of a scan of the first of `modalities` and its partners of the same session (`vector_names`).

        What is not there (no labels, no partner, nothing registered) is NaN.
        """
        vector = _named(scan.modality, self.of_scan(scan) or dict.fromkeys(self.grain.scan_names(), float("nan")))
        pairs: dict[str, float] = {}
        for modality in modalities[1:]:
            partner = next((p for p in plain_scans(self.images) if p.modality == modality and p.session == scan.session), None)
            own = self.of_scan(partner) if partner is not None else None
            vector |= _named(modality, own or dict.fromkeys(self.grain.scan_names(), float("nan")))
            if self.grain.pictures:
                continue
            pairs |= _named(f"{modality}_in_{scan.modality}", self._of_pair(scan, partner))
        return vector | pairs

    def _of_picture(self, scan: Image) -> dict[str, float] | None:
        """Return the features of a picture's foreground; None where it is none, or so large that they are refused."""
        from cohortex.models.classify.pictures import picture_features

        shape = scan.volume.shape
        if len(shape) != 3 or shape[2] != 1:
            return None
        if shape[0] * shape[1] > LARGEST:
            self.refused[scan.id] = Skip(
                "region-too-large",
                f"The picture has {shape[0]} x {shape[1]} pixels, and features are taken of at most {LARGEST}: resample it (preprocess: "
                "resample) to have them.",
            )
            return None
        values = np.asarray(scan.volume.data[:, :, :1], dtype=np.float64)
        self.known[scan.id] = picture_features(values, scan.volume.spacing, bins=self.grain.bins)
        return self.known[scan.id]

    def of_partners(self, scan: Image) -> dict[str, float]:
        """Return the features of every scan of the session that was registered to this one, under its labels, by full name."""
        found: dict[str, float] = {}
        for partner in plain_scans(self.images):
            if partner.session == scan.session and partner.modality != scan.modality:
                values = _named(f"{partner.modality}_in_{scan.modality}", self._of_pair(scan, partner))
                if any(value == value for value in values.values()):
                    found |= {name: value for name, value in values.items() if name not in found}
        return found

    def _of_pair(self, scan: Image, partner: Image | None) -> dict[str, float]:
        """Return the features of the partner under the scan's labels, NaN where it was not registered to the scan."""
        nothing = dict.fromkeys(pair_names(), float("nan"))
        if partner is None:
            return nothing
        warped = next((i for i in self.images if i.id == f"{partner.id}+warped" and i.kind == "image"), None)
        if (
            warped is None
            or warped.volume.shape != scan.volume.shape
            or not np.allclose(warped.volume.affine, scan.volume.affine, atol=1e-3)
        ):
            return nothing
        labels = labels_of(scan, self.images)
        if labels is None or scan.id in self.refused:
            return nothing
        return pair_features(warped.volume.data, labels, scan.volume.spacing, partner.modality)


def _named(modality: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{modality}_{name}": value for name, value in values.items()}
