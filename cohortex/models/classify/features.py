"""Which radiomic features describe a head scan, and the vector of a subject that a classifier sees."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from cohortex.errors import Skip
from cohortex.measures.components import find_components
from cohortex.models.classify.radiomics import radiomics
from cohortex.models.classify.regrid import LESION, TISSUES, bounding_box, brain, isotropic, robust_scale
from cohortex.volume import ArrayLike

REGIONS = (*TISSUES, "brain")
INTENSITIES = ("mean", "variance", "skewness", "p10", "p90")
TEXTURES = (
    "histogram_entropy",
    "glcm_contrast",
    "glcm_correlation",
    "glcm_joint_entropy",
    "glcm_inverse_difference",
    "glrlm_short",
    "glrlm_long",
    "glszm_short",
    "glszm_percentage",
)
TEXTURE_FAMILIES = ("histogram", "glcm", "glrlm", "glszm")
"""Families of texture that are looked at where nothing else is asked for."""
MORE_TEXTURES = (
    "gldzm_short",
    "gldzm_length_variance",
    "gldzm_entropy",
    "ngtdm_coarseness",
    "ngtdm_contrast",
    "ngtdm_busyness",
    "ngtdm_complexity",
    "ngtdm_strength",
    "ngldm_short",
    "ngldm_long",
    "ngldm_length_variance",
    "ngldm_entropy",
    "ngldm_energy",
)
"""Those of the families that have to be asked for."""
TEXTURED = ("lesion", "brain")
SHAPES = ("surface_to_volume", "sphericity", "maximum_diameter", "elongation", "flatness")
LARGEST = 2**25
"""Voxels of the box around a brain up to which features are taken, whatever the memory: some 40 bytes each, a brain at 0.4 mm."""
CALIBRATED = ("CT",)
"""Modalities whose values mean something by themselves (HU); all others are put in units of the brain's own spread."""


def texture_names(families: Sequence[str] = TEXTURE_FAMILIES) -> tuple[str, ...]:
    """Return the texture features of a region that belong to some families.

    Raises
    ------
    ValueError
        When a family is unknown.
    """
    every = (*TEXTURES, *MORE_TEXTURES)
    known = dict.fromkeys(name.split("_")[0] for name in every)
    unknown = [family for family in families if family not in known]
    if unknown:
        raise ValueError(f"there is no family of textures {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(name for name in every if name.split("_")[0] in families)


def scan_names(families: Sequence[str] = TEXTURE_FAMILIES) -> tuple[str, ...]:
    """Return the names of a scan's features, without its modality, in their order; `families` of texture only."""
    return (
        *(f"{region}_volume_ml" for region in REGIONS),
        *(f"{region}_share" for region in TISSUES),
        *(f"{region}_{name}" for region in REGIONS for name in INTENSITIES),
        *(f"{region}_{name}" for region in TEXTURED for name in texture_names(families)),
        *(f"lesion_{name}" for name in SHAPES),
        "lesion_count",
        "lesion_largest_ml",
        "lesion_contrast",
    )


def pair_names() -> tuple[str, ...]:
    """Return the names of the features of one scan under another one's labels."""
    return (*(f"{region}_{name}" for region in TEXTURED for name in INTENSITIES), "lesion_contrast")


def vector_names(modalities: Sequence[str], families: Sequence[str] = TEXTURE_FAMILIES) -> tuple[str, ...]:
    """Return the columns of a subject's vector: every modality's own features, and the others seen under the first one's labels."""
    own = [f"{modality}_{name}" for modality in modalities for name in scan_names(families)]
    return (*own, *(f"{modality}_in_{modalities[0]}_{name}" for modality in modalities[1:] for name in pair_names()))


def scan_features(
    image: ArrayLike,
    labels: ArrayLike,
    spacing: Sequence[float],
    modality: str,
    step_mm: float = 2.0,
    bins: int = 32,
    families: Sequence[str] = TEXTURE_FAMILIES,
) -> dict[str, float]:
    """Return the features of a head scan; of a volume larger than memory only the box around the brain is read.

    Parameters
    ----------
    image : (x, y, z) array-like
        HU for CT. Other modalities may have any unit: they are centred on the brain's median and divided by the distance
        of its 10th to its 90th percentile.
    labels : (x, y, z) integer array-like
        1 CSF, 2 grey matter, 3 white matter, 6 lesion; the rest is not looked at.
    spacing : three floats
        mm. Volumes, shapes and intensities are taken on this grid, texture on an isotropic one of `step_mm`.
    modality : str
    step_mm : float
    bins : int
        Grey levels of histogram and texture.
    families : sequence of str
        Of texture; see `texture_names`.

    Returns
    -------
    dict of str to float
        `scan_names`. Without brain all are NaN; without lesion its volume, share and number are 0 and the rest is NaN.

    Raises
    ------
    Skip
        ``region-too-large`` when the box around the brain has more than `LARGEST` voxels.
    """
    cut = _cut(image, labels)
    if cut is None:
        return dict.fromkeys(scan_names(families), float("nan"))
    values, labels = cut
    inside = brain(labels)
    values = _scaled(values, inside, modality)
    millilitres = float(np.prod(spacing)) / 1000.0
    counts = {name: int((labels == label).sum()) for name, label in TISSUES.items()} | {"brain": int(inside.sum())}
    found = {f"{name}_volume_ml": count * millilitres for name, count in counts.items()}
    found |= {f"{name}_share": counts[name] / counts["brain"] for name in TISSUES}
    for name in REGIONS:
        region = inside if name == "brain" else labels == TISSUES[name]
        found |= _intensities(name, values, region, spacing)
    coarse, coarse_labels = isotropic(values, labels, spacing, step_mm)
    for name in TEXTURED:
        region = brain(coarse_labels) if name == "brain" else coarse_labels == TISSUES[name]
        textures = radiomics(coarse, region, (step_mm,) * 3, bins=bins, families=families)
        found |= {f"{name}_{texture}": textures[texture] for texture in texture_names(families)}
    lesion = labels == LESION
    forms = radiomics(values, lesion, spacing, families=("shape",))
    found |= {f"lesion_{name}": forms[f"shape_{name}"] for name in SHAPES}
    sizes = find_components(lesion).voxels
    found["lesion_count"] = float(sizes.size)
    found["lesion_largest_ml"] = float(sizes.max(initial=0)) * millilitres
    found["lesion_contrast"] = _contrast(values, lesion, inside)
    return {name: found[name] for name in scan_names(families)}


def pair_features(image: ArrayLike, labels: ArrayLike, spacing: Sequence[float], modality: str) -> dict[str, float]:
    """Return the features of a registered scan under the labels of the scan that it was brought to.

    Parameters, missing values and errors are those of `scan_features`; the names are `pair_names`.
    """
    cut = _cut(image, labels)
    if cut is None:
        return dict.fromkeys(pair_names(), float("nan"))
    values, labels = cut
    inside, lesion = brain(labels), labels == LESION
    values = _scaled(values, inside, modality)
    found = _intensities("lesion", values, lesion, spacing) | _intensities("brain", values, inside, spacing)
    return found | {"lesion_contrast": _contrast(values, lesion, inside)}


def _cut(image: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray] | None:
    """Return image and labels inside the box around the brain, None where there is none."""
    box = bounding_box(labels)
    if box is None:
        return None
    edges = [b - a for a, b in box]
    if prod(edges) > LARGEST:
        raise Skip(
            "region-too-large",
            f"The brain fills {' x '.join(map(str, edges))} voxels, and features are taken of at most {LARGEST} voxels: "
            "resample the scan (preprocess: resample) to have them.",
        )
    here = tuple(slice(a, b) for a, b in box)
    return np.asarray(image[here], dtype=np.float32), np.asarray(labels[here])


def _scaled(image: np.ndarray, inside: np.ndarray, modality: str) -> np.ndarray:
    """Return values in HU or in units of the brain's own spread."""
    if modality in CALIBRATED:
        return image.astype(np.float32)
    middle, scale = robust_scale(image[inside])
    return ((image - middle) / scale).astype(np.float32)


def _intensities(name: str, values: np.ndarray, region: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    every = radiomics(values, region, spacing, families=("firstorder",))
    return {f"{name}_{each}": every[f"firstorder_{each}"] for each in INTENSITIES}


def _contrast(values: np.ndarray, lesion: np.ndarray, inside: np.ndarray) -> float:
    """Return how far the lesion's median lies from the rest of the brain's, in units of the rest's spread."""
    if not lesion.any() or not (inside & ~lesion).any():
        return float("nan")
    middle, scale = robust_scale(values[inside & ~lesion])
    return (robust_scale(values[lesion])[0] - middle) / scale
