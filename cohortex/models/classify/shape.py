"""Shape features: how large a region is and what form it has, in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMES = (
    "volume_mesh",
    "volume_voxels",
    "surface",
    "surface_to_volume",
    "compactness1",
    "compactness2",
    "spherical_disproportion",
    "sphericity",
    "asphericity",
    "maximum_diameter",
    "major_axis",
    "minor_axis",
    "least_axis",
    "elongation",
    "flatness",
)


def shape(mask: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Return the morphological features of a region.

    Parameters
    ----------
    mask : (x, y, z) bool array
    spacing : three floats
        Distance between voxel centres along x, y and z in mm.

    Returns
    -------
    dict of str to float
        `NAMES`, in mm, mm2 and mm3; all NaN for an empty region. The surface is a marching-cubes mesh at one half of the
        mask with a margin of background; axes are four standard deviations of the voxel centres, largest first. A region
        of a single voxel has axes of length 0 and no elongation or flatness (NaN).

    References
    ----------
    IBSI reference manual (arXiv:1612.07003), section 3.1; Lewiner et al., Efficient implementation of marching cubes'
    cases with topological guarantees, J. Graphics Tools 2003.
    """
    inside = np.nonzero(mask)
    if inside[0].size == 0:
        return dict.fromkeys(NAMES, float("nan"))
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in inside)
    steps = np.asarray(spacing, dtype=np.float64)
    vertices, surface, volume = _mesh(mask[box], steps)
    major, minor, least = _axes(np.stack(inside, axis=1) * steps)
    sphere = (36.0 * np.pi * volume**2) ** (1 / 3)
    compactness2 = 36.0 * np.pi * volume**2 / surface**3
    return {
        "volume_mesh": volume,
        "volume_voxels": float(inside[0].size * steps.prod()),
        "surface": surface,
        "surface_to_volume": surface / volume,
        "compactness1": volume / (np.sqrt(np.pi) * surface**1.5),
        "compactness2": compactness2,
        "spherical_disproportion": surface / sphere,
        "sphericity": sphere / surface,
        "asphericity": float((1.0 / compactness2) ** (1 / 3) - 1.0),
        "maximum_diameter": _diameter(vertices),
        "major_axis": major,
        "minor_axis": minor,
        "least_axis": least,
        "elongation": minor / major if major > 0 else float("nan"),
        "flatness": least / major if major > 0 else float("nan"),
    }


def _mesh(mask: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the vertices (mm), the area and the enclosed volume of the surface of a mask."""
    from skimage.measure import marching_cubes

    padded = np.pad(mask, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, 0.5, spacing=tuple(steps))
    vertices = vertices.astype(np.float64)
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    surface = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    volume = abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6.0
    return vertices, float(surface), float(volume)


def _axes(points: np.ndarray) -> tuple[float, float, float]:
    """Return the lengths of the principal axes of points, largest first."""
    centred = points - points.mean(axis=0)
    # the published reference values are those of the unbiased covariance
    spread = np.linalg.eigvalsh(centred.T @ centred / max(1, len(points) - 1))[::-1]
    major, minor, least = 4.0 * np.sqrt(np.clip(spread, 0.0, None))
    return float(major), float(minor), float(least)


def _diameter(vertices: np.ndarray) -> float:
    """Return the largest distance between two points; only corners of the convex hull can have it."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    return float(pdist(vertices[ConvexHull(vertices).vertices]).max())
