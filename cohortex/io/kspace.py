"""Raw Cartesian k-space to a magnitude image: centred inverse FFT and root-sum-of-squares over the coils.

Layouts: fastMRI (dataset ``kspace``), ISMRMRD (acquisitions under ``dataset``, see `cohortex.io.ismrmrd`) and plain ``.npy``.
Projections in the same container go to `cohortex.io.sinogram`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import centred_affine, check_affine
from cohortex.io.hdf5 import attribute, member, opened, text_of
from cohortex.io.ismrmrd import Encoding, encoding_of, read_acquisitions
from cohortex.io.paths import check_file, shown_name
from cohortex.io.series import Frames, Note, read_step
from cohortex.io.slices import Slices
from cohortex.physics.fourier import centred_ifft, root_sum_of_squares
from cohortex.volume import Volume

METHOD = "centred inverse FFT, root sum of squares"
AFFINE_ATTRIBUTE = "cohortex_affine"


def read_raw(
    path: Path,
    role: str = "image",
    frames: Frames = "skip",
    name: str | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> list[Volume]:
    """Reconstruct raw data, k-space or projections (`cohortex.io.sinogram`), a slice at a time when it is indexed.

    fastMRI layout: ``kspace`` with axes (slices, coils, ky, kx), or (slices, ky, kx) for a single coil; the optional
    ``ismrmrd_header`` gives the fields of view, from which voxel sizes follow and to which the image is cropped (readout
    oversampling). Its position is not in the file, so the grid is axial around the isocentre, unless the attribute
    ``cohortex_affine`` (16 numbers, indices (x, y, z) of the reconstructed grid to RAS mm) is there. ``.npy``: (coils, ky, kx)
    or (slices, coils, ky, kx).

    Returns
    -------
    list of Volume
        One image, float32, axes (x, y, z). In memory there are the samples of one slice and all its coils, which the Fourier transform
        and the sum over the coils need together; for ISMRMRD see `cohortex.io.ismrmrd`.

    Raises
    ------
    BadInput
        ``not-kspace``, ``bad-shape``, ``bad-header``, ``non-cartesian``, those of `cohortex.io.hdf5`, `cohortex.io.ismrmrd` and
        `cohortex.io.sinogram`; while slices are reconstructed ``non-finite``, ``all-zero``, ``corrupt``.
    Skip
        ``four-d`` by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    if role != "image":
        raise BadInput("bad-labels", f"{name} is raw data, but the table calls it {role}: correct its role.")
    if path.suffix.lower() == ".npy":
        return [_volume(_npy(path, name), lambda: nullcontext(_npy(path, name)), None, None, "npy", name)]

    @contextmanager
    def again() -> Iterator[Any]:
        with opened(path, name) as file:
            yield member(file, "kspace", name)

    with opened(path, name) as file:
        kspace = member(file, "kspace", name)
        if kspace is not None and hasattr(kspace, "shape"):
            header = member(file, "ismrmrd_header", name)
            encoding = None if header is None else encoding_of(text_of(header, name), name)
            affine = _attribute(file, kspace, name)
            return [_volume(kspace, again, encoding, affine, "fastMRI", name)]
        exchange = member(file, "exchange", name)
        if exchange is not None and hasattr(exchange, "keys"):
            from cohortex.io.sinogram import read_projections

            return read_projections(path, exchange, name, spacing_mm)
        dataset = member(file, "dataset", name)
        if dataset is None or not hasattr(dataset, "keys"):
            raise BadInput(
                "not-kspace",
                f"{name} has neither `kspace`, `dataset` nor `exchange`: give the layout of fastMRI, ISMRMRD or Data Exchange.",
            )
        return read_acquisitions(path, dataset, frames, name)


def _npy(path: Path, name: str) -> np.ndarray:
    check_file(path, name)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # a damaged header fails in the parser of Python's literals in many ways
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput("corrupt", f"{name} is no complete .npy array of numbers: save it again.") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4):
        raise BadInput("bad-shape", f"{name} is not an array with axes (coils, ky, kx) or (slices, coils, ky, kx): save it again.")
    return array[None] if array.ndim == 3 else array


def _attribute(file: Any, kspace: Any, name: str) -> np.ndarray | None:
    for place in (kspace, file):
        if (said := attribute(place, AFFINE_ATTRIBUTE, name)) is not None:
            try:
                values = np.asarray(said, dtype=np.float64).reshape(-1)
            except (TypeError, ValueError):
                raise BadInput("bad-header", f"{name} has a {AFFINE_ATTRIBUTE} that is no numbers: write it again.") from None
            if values.size != 16:
                raise BadInput("bad-header", f"{name} has a {AFFINE_ATTRIBUTE} of {values.size} numbers instead of 16: write it again.")
            return check_affine(values.reshape(4, 4), name)
    return None


def _volume(
    kspace: Any,
    again: Callable[[], AbstractContextManager[Any]],
    encoding: Encoding | None,
    affine: np.ndarray | None,
    form: str,
    name: str,
) -> Volume:
    """Return the image of k-space, of which only shape and type are looked at now; `again` opens it when slices are wanted."""
    shape = tuple(int(n) for n in kspace.shape)
    if np.dtype(kspace.dtype).kind != "c":
        raise BadInput("not-kspace", f"{name} holds numbers that are not complex: give raw k-space.")
    if len(shape) not in (3, 4) or min(shape) < 1 or min(shape[-2:]) < 2:
        raise BadInput("bad-shape", f"{name} has k-space of shape {_by(shape)}; (slices, coils, ky, kx) is expected: write it again.")
    spacing, grid, source = _grid(shape, encoding)
    coils = Coils(shape[0], name)

    def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        for z in wanted:
            with again() as there:
                samples = np.asarray(there[z], dtype=np.complex64)
            yield reconstructed(samples[None] if samples.ndim == 2 else samples, z)

    def reconstructed(samples: np.ndarray, z: int) -> np.ndarray:
        power = np.array([np.vdot(coil, coil).real for coil in samples])
        if not np.isfinite(power).all() and not np.isfinite(samples).all():
            raise BadInput("non-finite", f"{name} has NaN or infinite samples in slice {z}: make it again.")
        coils.received(z, power)
        magnitude = root_sum_of_squares(centred_ifft(samples, axes=(-2, -1)), axis=0)
        return crop(magnitude.T, (grid[0], grid[1]))

    count = shape[1] if len(shape) == 4 else 1
    step = read_step(form, reconstruction=METHOD, coils=count, matrix=list(shape[-1:-3:-1]), voxel_size=source)
    if affine is None:
        affine = centred_affine((grid[0], grid[1], shape[0]), spacing)
        step["position"] = "not in the file: axial, centred on the isocentre"
    return Volume(Slices((grid[0], grid[1], shape[0]), np.float32, read, coils.odd), check_affine(affine, name), history=(step,))


class Coils:
    """What every coil received in the slices of a volume; judged when all of them were read.

    Parameters
    ----------
    slices : int
    name : str
        How messages call the file.
    """

    def __init__(self, slices: int, name: str):
        self.slices = slices
        self.name = name
        self.energy: dict[int, np.ndarray] = {}

    def received(self, z: int, energy: np.ndarray) -> None:
        """Note the energy that each coil received in a slice.

        Raises
        ------
        BadInput
            ``all-zero``, at the last slice of k-space that holds nothing.
        """
        self.energy[z] = energy
        if len(self.energy) == self.slices:
            check_coils(self._sum(), self.name, [])

    def odd(self) -> list[Note]:
        """Return a note on coils that received nothing."""
        notes: list[Note] = []
        if len(self.energy) == self.slices:
            check_coils(self._sum(), self.name, notes)
        return notes

    def _sum(self) -> np.ndarray:
        return np.sum(list(self.energy.values()), axis=0)


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
