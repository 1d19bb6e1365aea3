"""Volume: an array on a grid in the world, and what has been done to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, Protocol

import numpy as np

SLAB_ROWS = 64
SLAB_BYTES = 128 * 2**20
"""A slab is a row of chunks thick, or what this many bytes hold."""

Kind = Literal["image", "labels", "field"]


class ArrayLike(Protocol):
    """What `Volume.data` needs: numpy, zarr and dask arrays all have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along every axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of a value."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Volume:
    """An image, a label map or a displacement field on a regular grid.

    Parameters
    ----------
    data : array-like
        Axes (x, y, z); a picture has shape (x, y, 1). Images are float32 or integers, labels are
        unsigned integers, fields have axes (x, y, z, 3) and hold displacements in mm along the world's
        R, A and S axes: a point p of the grid goes to p + field(p). May be lazy (a zarr array).
    affine : (4, 4) float64 array
        Voxel indices to world coordinates in mm, RAS+ (x to the patient's right, y to the front, z up).
    modality : str
        BIDS suffix: T1w, T2w, FLAIR, PDw, CT, XR, US, ...
    kind : {"image", "labels", "field"}
    body_part : str
        Lower case, empty when not known: head, chest, abdomen, prostate, ...
    history : tuple of mappings
        One entry a step, oldest first: what was done, with its parameters (ends in the sidecar).
    date : str
        The day of acquisition as the file says it, for `acquire`, which tells it or not; never written.
    """

    data: ArrayLike
    affine: np.ndarray
    modality: str = ""
    kind: Kind = "image"
    body_part: str = ""
    history: tuple[Mapping[str, Any], ...] = field(default=())
    date: str = ""

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"an affine is 4 x 4, this one is {affine.shape}")
        wanted = 4 if self.kind == "field" else 3
        if len(self.data.shape) != wanted:
            raise ValueError(f"a volume of kind {self.kind} has {wanted} axes, this one has shape {self.data.shape}")
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        x, y, z = self.data.shape[:3]
        return int(x), int(y), int(z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres in mm along x, y and z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def array(self, dtype: Any = None) -> np.ndarray:
        """Return the whole data in memory, C-contiguous, as `dtype` (as stored when None)."""
        return np.ascontiguousarray(np.asarray(self.data[...]), dtype=dtype)

    def with_data(self, data: ArrayLike, affine: np.ndarray | None = None, step: Mapping[str, Any] | None = None, **changes: Any) -> Volume:
        """Return a volume with new data (and grid), its history longer by `step`."""
        history = self.history + ((dict(step),) if step else ())
        return replace(self, data=data, affine=self.affine if affine is None else affine, history=history, **changes)

    def sha256(self) -> str:
        """Hash of data and geometry (not of the history), hexadecimal; a lazy volume is read in slabs along x."""
        dtype, shape = np.dtype(self.data.dtype), tuple(int(n) for n in self.data.shape)
        digest = hashlib.sha256(f"{self.kind}|{dtype.str}|{shape}".encode())
        digest.update(np.round(self.affine, 9).tobytes())
        rows = max(1, min(SLAB_ROWS, SLAB_BYTES // max(1, prod(shape[1:]) * dtype.itemsize)))
        for start in range(0, shape[0], rows):
            slab = np.ascontiguousarray(np.asarray(self.data[start : start + rows]))
            digest.update(slab.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()
