"""Raw Cartesian k-space to a magnitude image: centred inverse FFT and root-sum-of-squares over the coils.

Layouts: fastMRI (dataset ``kspace``), ISMRMRD (acquisitions under ``dataset``, see `cohortex.io.ismrmrd`) and plain ``.npy``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import centred_affine, check_affine
from cohortex.io.hdf5 import member, opened, text_of
from cohortex.io.ismrmrd import Encoding, encoding_of, read_acquisitions
from cohortex.io.paths import check_file, shown_name
from cohortex.io.series import Frames, Note, read_step
from cohortex.physics.fourier import centred_ifft, root_sum_of_squares
from cohortex.volume import Volume

METHOD = "centred inverse FFT, root sum of squares"
AFFINE_ATTRIBUTE = "cohortex_affine"


def read_kspace(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Reconstruct raw k-space.

    fastMRI layout: ``kspace`` with axes (slices, coils, ky, kx), or (slices, ky, kx) for a single coil; the optional
    ``ismrmrd_header`` gives the fields of view, from which voxel sizes follow and to which the image is cropped (readout
    oversampling). Its position is not in the file, so the grid is axial around the isocentre, unless the attribute
    ``cohortex_affine`` (16 numbers, indices (x, y, z) of the reconstructed grid to RAS mm) is there. ``.npy``: (coils, ky, kx)
    or (slices, coils, ky, kx).

    Returns
    -------
    list of Volume
        One image, float32, axes (x, y, z).

    Raises
    ------
    BadInput
        ``not-kspace``, ``bad-shape``, ``bad-header``, ``non-finite``, ``all-zero``, ``non-cartesian``, those of
        `cohortex.io.hdf5` and `cohortex.io.ismrmrd`.
    Skip
        ``four-d`` by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    if role != "image":
        raise BadInput("bad-labels", f"{name} is raw k-space, but the table calls it {role}: correct its role.")
    if path.suffix.lower() == ".npy":
        return [_from_array(_npy(path, name), None, None, "npy", name)]
    with opened(path, name) as file:
        kspace = member(file, "kspace", name)
        if kspace is not None and hasattr(kspace, "shape"):
            header = member(file, "ismrmrd_header", name)
            encoding = None if header is None else encoding_of(text_of(header, name), name)
            affine = _attribute(file, kspace, name)
            return [_from_array(kspace, encoding, affine, "fastMRI", name)]
        dataset = member(file, "dataset", name)
        if dataset is None or not hasattr(dataset, "keys"):
            raise BadInput("not-kspace", f"{name} has neither `kspace` nor `dataset`: give the fastMRI or ISMRMRD layout.")
        return read_acquisitions(dataset, frames, name)


def _npy(path: Path, name: str) -> np.ndarray:
    check_file(path, name)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput("corrupt", f"{name} is no complete .npy array of numbers: save it again.") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4):
        raise BadInput("bad-shape", f"{name} is not an array with axes (coils, ky, kx) or (slices, coils, ky, kx): save it again.")
    return array[None] if array.ndim == 3 else array


def _attribute(file: Any, kspace: Any, name: str) -> np.ndarray | None:
    for place in (kspace, file):
        if AFFINE_ATTRIBUTE in place.attrs:
            values = np.asarray(place.attrs[AFFINE_ATTRIBUTE], dtype=np.float64).reshape(-1)
            if values.size != 16:
                raise BadInput("bad-header", f"{name} has a {AFFINE_ATTRIBUTE} of {values.size} numbers instead of 16: write it again.")
            return check_affine(values.reshape(4, 4), name)
    return None


def _from_array(kspace: Any, encoding: Encoding | None, affine: np.ndarray | None, form: str, name: str) -> Volume:
    shape = tuple(int(n) for n in kspace.shape)
    if np.dtype(kspace.dtype).kind != "c":
        raise BadInput("not-kspace", f"{name} holds numbers that are not complex: give raw k-space.")
    if len(shape) not in (3, 4) or min(shape) < 1 or min(shape[-2:]) < 2:
        raise BadInput("bad-shape", f"{name} has k-space of shape {_by(shape)}; (slices, coils, ky, kx) is expected: write it again.")
    notes: list[Note] = []
    spacing, grid, source = _grid(shape, encoding)
    image = np.empty((grid[0], grid[1], shape[0]), dtype=np.float32)
    energy = np.zeros(shape[1] if len(shape) == 4 else 1)
    for z in range(shape[0]):
        coils = np.asarray(kspace[z], dtype=np.complex64)
        coils = coils[None] if coils.ndim == 2 else coils
        power = np.array([np.vdot(coil, coil).real for coil in coils])
        if not np.isfinite(power).all() and not np.isfinite(coils).all():
            raise BadInput("non-finite", f"{name} has NaN or infinite samples in slice {z}: make it again.")
        energy += power
        magnitude = root_sum_of_squares(centred_ifft(coils, axes=(-2, -1)), axis=0)
        image[:, :, z] = crop(magnitude.T, (grid[0], grid[1]))
    check_coils(energy, name, notes)
    step = read_step(form, notes, reconstruction=METHOD, coils=int(energy.size), matrix=list(shape[-1:-3:-1]), voxel_size=source)
    if affine is None:
        affine = centred_affine((grid[0], grid[1], shape[0]), spacing)
        step["position"] = "not in the file: axial, centred on the isocentre"
    return Volume(image, check_affine(affine, name), history=(step,))


def check_coils(energy: np.ndarray, name: str, notes: list[Note]) -> None:
    """Refuse k-space without signal; note coils that received nothing.

    Raises
    ------
    BadInput
        ``all-zero``.
    """
    if not energy.any():
        raise BadInput("all-zero", f"{name} holds k-space without any signal: make it again.")
    dead = [str(i) for i in np.flatnonzero(energy == 0)]
    if dead:
        notes.append(("dead-coil", f"{name} has {len(dead)} of {energy.size} coils without signal ({', '.join(dead[:5])})."))


def crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the middle out of an image's first two axes, keeping index n // 2 at n // 2 of the result."""
    x, y = ((n // 2) - (m // 2) for n, m in zip(image.shape, size, strict=False))
    return image[x : x + size[0], y : y + size[1]]


def _grid(shape: tuple[int, ...], encoding: Encoding | None) -> tuple[tuple[float, float, float], tuple[int, int], str]:
    """Return spacing and number of the voxels along x and y after cropping, and where they come from.

    The files of fastMRI have the readout (the header's x) second to last. Which axis it is shows in the encoded matrix; where
    that says nothing, fastMRI's order is assumed.
    """
    rows, columns = shape[-2:]
    if encoding is None:
        return (1.0, 1.0, 1.0), (columns, rows), "unknown, 1 mm assumed"
    readout_last = (columns, rows) == encoding.matrix[:2] and (rows, columns) != encoding.matrix[:2]
    along_x, along_y = (0, 1) if readout_last else (1, 0)
    spacing, grid = [], []
    for n, axis in ((columns, along_x), (rows, along_y)):
        step = encoding.fov_mm[axis] / n
        spacing.append(step)
        grid.append(min(n, round(encoding.recon_fov_mm[axis] / step)))
    return (spacing[0], spacing[1], encoding.slice_mm), (grid[0], grid[1]), "ismrmrd_header"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
