"""ISMRMRD raw data: the XML header and Cartesian acquisitions, sorted into k-space, with the geometry of their headers.

Format: Inati et al., ISMRM Raw data format, Magn Reson Med 77 (2017) 411-421.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import new_array
from cohortex.errors import BadInput
from cohortex.io.geometry import centred_affine, check_affine, lps_to_ras
from cohortex.io.hdf5 import check_heaps, member, opened, text_of
from cohortex.io.series import Frames, Note, framed, read_step
from cohortex.io.slices import Once, Slices
from cohortex.physics.fourier import centred_ifft
from cohortex.volume import ArrayLike, Volume

# numbers of bits, counted from 1 as in the format's definition: noise, calibration only, navigation, phase correction,
# helper, surface coil correction, dummy
NOT_IMAGING = (19, 20, 23, 24, 25, 26, 27, 28, 29)
REVERSED = 22
MOST_SAMPLES = 2**31


@dataclass(frozen=True)
class Encoding:
    """What the XML header says about the encoded and the reconstructed space (order x, y, z; x is the readout)."""

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]
    recon_matrix: tuple[int, int, int]
    recon_fov_mm: tuple[float, float, float]
    trajectory: str
    centre: tuple[int | None, int | None]

    @property
    def slice_mm(self) -> float:
        """Thickness of a slice, or of a partition of a 3-D acquisition."""
        return self.recon_fov_mm[2] / max(1, self.recon_matrix[2])


def encoding_of(xml: bytes, name: str) -> Encoding:
    """Read the first encoding of an ISMRMRD header.

    Raises
    ------
    BadInput
        ``bad-header``: no XML, entities in it (they can fill any memory), or sizes that are missing or impossible.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root = fromstring(xml, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        raise BadInput("bad-header", f"{name} has an ISMRMRD header that is no plain XML: write it again.") from None
    try:
        encoding: Any = root.find("{*}encoding")
        spaces = [encoding.find("{*}" + part) for part in ("encodedSpace", "reconSpace")]
        matrices = [tuple(int(space.find(f"{{*}}matrixSize/{{*}}{axis}").text) for axis in "xyz") for space in spaces]
        fovs = [tuple(float(space.find(f"{{*}}fieldOfView_mm/{{*}}{axis}").text) for axis in "xyz") for space in spaces]
        trajectory = (encoding.findtext("{*}trajectory") or "cartesian").strip().lower()
        centres = [encoding.findtext(f"{{*}}encodingLimits/{{*}}kspace_encoding_step_{i}/{{*}}center") for i in (1, 2)]
        centre = tuple(None if c is None else int(c) for c in centres)
    except (AttributeError, TypeError, ValueError):
        raise BadInput("bad-header", f"{name} has an ISMRMRD header without matrix sizes and fields of view: write it again.") from None
    numbers = np.array([*matrices, *fovs], dtype=np.float64)
    if not np.isfinite(numbers).all() or numbers[:, :2].min() <= 0 or numbers.max() > 1e5 or numbers.min() < 0:
        raise BadInput("bad-header", f"{name} has an ISMRMRD header with impossible matrix sizes or fields of view: write it again.")
    return Encoding(_three(matrices[0]), _three(fovs[0]), _three(matrices[1]), _three(fovs[1]), trajectory, (centre[0], centre[1]))


def _three(values: Any) -> Any:
    return (values[0], values[1], values[2])


def read_acquisitions(path: Path, group: Any, frames: Frames, name: str) -> list[Volume]:
    """Reconstruct the Cartesian acquisitions of an ISMRMRD group, 2-D multi-slice or 3-D.

    Averages and segments are averaged; contrasts, phases and repetitions make a series. Readout oversampling (and any other) is
    cropped to the reconstructed field of view. Position and directions are those of the acquisition headers.

    Returns
    -------
    list of Volume
        Of 2-D slices one after the other is reconstructed when it is indexed, from its own readouts. Of a 3-D acquisition the Fourier
        transform mixes all three axes, so a volume is made as a whole when it is first looked at: its samples lie in a scratch file where
        they do not fit into memory, and in memory are those of one coil, their transform and the sum over the coils. The headers of all
        readouts are in memory in either case.

    Raises
    ------
    BadInput
        ``not-kspace``, ``bad-header``, ``non-cartesian``, ``mixed-geometry``, ``bad-shape``; while slices are reconstructed ``bad-shape``,
        ``non-finite``, ``all-zero``.
    Skip
        ``four-d`` by policy.
    """
    from cohortex.io.kspace import METHOD

    xml, table = member(group, "xml", name), member(group, "data", name)
    if xml is None:
        raise BadInput("bad-header", f"{name} is ISMRMRD without its XML header (dataset/xml): write it again.")
    if table is None or getattr(table.dtype, "names", None) is None or not {"head", "data"} <= set(table.dtype.names):
        raise BadInput("not-kspace", f"{name} is ISMRMRD without acquisitions (dataset/data): write it again.")
    encoding = encoding_of(text_of(xml, name), name)
    if encoding.trajectory != "cartesian":
        raise BadInput("non-cartesian", f"{name} was not sampled on a Cartesian grid: reconstruct it before.")
    check_heaps(path, name)
    heads = table.fields("head")[:]
    wanted = np.array([not any(int(flags) >> (bit - 1) & 1 for bit in NOT_IMAGING) for flags in heads["flags"]], dtype=bool)
    if not wanted.any():
        raise BadInput("not-kspace", f"{name} holds no acquisition of an image (noise or calibration only): give the scan itself.")
    rows = np.flatnonzero(wanted)
    heads = heads[rows]
    slices = sorted({int(s) for s in heads["idx"]["slice"]})
    series = sorted({(int(i["contrast"]), int(i["phase"]), int(i["repetition"])) for i in heads["idx"]})
    affine, order, located = _affine(encoding, heads, slices, name)
    scan = Scan(path, name, encoding, heads, rows)
    position = "acquisition headers" if located else "not in the file: axial, centred on the isocentre"
    step = read_step("ISMRMRD", reconstruction=METHOD, coils=int(heads["active_channels"].max()), position=position)
    return framed(lambda index: scan.volume(order, series[index]), len(series), frames, affine, "image", name, step)


@dataclass(frozen=True)
class Scan:
    """The acquisitions of a file that are of an image: their headers, and the rows of the table where their samples are."""

    path: Path
    name: str
    encoding: Encoding
    heads: Any
    rows: np.ndarray

    def volume(self, order: Sequence[int], series: tuple[int, int, int]) -> ArrayLike:
        """Return the image of one contrast, phase and repetition, lazy: its slices, or the stacks of its slabs."""
        nx, ny, nz = _sizes(self.encoding)
        odd: dict[int, list[Note]] = {}

        def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
            for z in wanted:
                yield self._stack(order[z], series, odd.setdefault(z, []))[:, :, 0]

        def make() -> ArrayLike:
            whole = new_array((nx, ny, nz * len(order)), np.float32, shared=False)
            for z, number in enumerate(order):
                whole[:, :, z * nz : (z + 1) * nz] = self._stack(number, series, odd.setdefault(z, []))
            return whole

        def told() -> list[Note]:
            return [note for z in sorted(odd) for note in odd[z]]

        if max(1, self.encoding.matrix[2]) == 1:
            return Slices((nx, ny, len(order)), np.float32, read, told)
        return Once((nx, ny, nz * len(order)), np.float32, make, told)

    def _stack(self, number: int, series: tuple[int, int, int], notes: list[Note]) -> np.ndarray:
        """Reconstruct a slice (of one partition) or a slab, axes (x, y, z)."""
        from cohortex.io.kspace import check_coils

        chosen = np.array([i for i, head in enumerate(self.heads) if _is(head, number, series)], dtype=np.int64)
        kspace, count = self._gridded(chosen)
        coils, nz, ny, nx = kspace.shape
        energy, power = np.zeros(coils), np.zeros((nz, ny, nx), np.float32)
        for coil in range(coils):
            samples = np.asarray(kspace[coil]) / np.maximum(count, 1)[:, :, None]
            energy[coil] = (np.abs(samples) ** 2).sum()
            image = centred_ifft(samples, axes=(0, 1, 2))
            power += np.real(image) ** 2 + np.imag(image) ** 2
        notes.clear()
        check_coils(energy, self.name, notes)
        return _cropped(np.sqrt(power).T, self.encoding)

    def _gridded(self, chosen: np.ndarray) -> tuple[Any, np.ndarray]:
        """Sort readouts into k-space with axes (coil, kz, ky, kx), repeated lines added up; return it and how often each line was read."""
        name, encoding = self.name, self.encoding
        if not len(chosen):
            raise BadInput("bad-shape", f"{name} lacks a whole slice of its series: write it again.")
        nx, ny, nz = encoding.matrix
        nz = max(1, nz)
        coils = int(self.heads["active_channels"][chosen[0]])
        if coils < 1 or coils * nx * ny * nz > MOST_SAMPLES:
            raise BadInput("bad-shape", f"{name} declares {coils} coils on a {nx}x{ny}x{nz} matrix, which cannot be: write it again.")
        kspace = new_array((coils, nz, ny, nx), np.complex64, shared=False)
        count = np.zeros((nz, ny), dtype=np.float32)
        partitions = self.heads["idx"]["kspace_encode_step_2"][chosen].astype(np.int64)
        if encoding.centre[1] is not None and nz > 1:
            partitions = partitions + nz // 2 - encoding.centre[1]
        if partitions.min() < 0 or partitions.max() >= nz:
            raise self._outside()
        with opened(self.path, name) as file:
            table = file["dataset/data"]
            # a partition at a time, so that each is written once
            for z in range(nz):
                plane = np.zeros((coils, ny, nx), dtype=np.complex64)
                for i in chosen[partitions == z]:
                    y, x, line = self._readout(table, int(i), coils)
                    plane[:, y, x : x + line.shape[1]] += line
                    count[z, y] += 1
                kspace[:, z : z + 1] = plane[:, None]
        return kspace, count

    def _readout(self, table: Any, i: int, coils: int) -> tuple[int, int, np.ndarray]:
        """Return where a readout lies in its partition (ky, first kx), and its samples (coil, kx)."""
        name, encoding, head = self.name, self.encoding, self.heads[i]
        nx, ny, _ = encoding.matrix
        samples, channels = int(head["number_of_samples"]), int(head["active_channels"])
        values = np.asarray(table.fields("data")[int(self.rows[i])], dtype=np.float32)
        if channels != coils or values.size != 2 * samples * channels:
            raise BadInput(
                "bad-shape",
                f"{name} has a readout of {values.size // 2} samples where {samples} x {channels} are declared: write it again.",
            )
        line = values.view(np.complex64).reshape(channels, samples)
        if not np.isfinite(line.view(np.float32)).all():
            raise BadInput("non-finite", f"{name} has NaN or infinite samples: make it again.")
        before, after = int(head["discard_pre"]), int(head["discard_post"])
        line = line[:, before : samples - after]
        if int(head["flags"]) >> (REVERSED - 1) & 1:
            line = line[:, ::-1]
        x = nx // 2 - (int(head["center_sample"]) - before)
        y = int(head["idx"]["kspace_encode_step_1"]) + (ny // 2 - encoding.centre[0] if encoding.centre[0] is not None else 0)
        if not (0 <= y < ny and x >= 0 and x + line.shape[1] <= nx):
            raise self._outside()
        return y, x, line

    def _outside(self) -> BadInput:
        nx, ny, nz = self.encoding.matrix
        return BadInput(
            "bad-shape",
            f"{self.name} has a readout outside its {nx}x{ny}x{max(1, nz)} matrix: its header and data disagree, write it again.",
        )


def _is(head: Any, number: int, series: tuple[int, int, int]) -> bool:
    idx = head["idx"]
    return int(idx["slice"]) == number and (int(idx["contrast"]), int(idx["phase"]), int(idx["repetition"])) == series


def _cropped(image: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Cut the reconstructed field of view out of an image with axes (x, y, z)."""
    keep = []
    for n, size in zip(image.shape, _sizes(encoding), strict=True):
        start = n // 2 - size // 2
        keep.append(slice(start, start + size))
    return image[tuple(keep)].astype(np.float32)


def _sizes(encoding: Encoding) -> list[int]:
    sizes = []
    for axis, n in enumerate(encoding.matrix):
        step = encoding.fov_mm[axis] / max(1, n)
        full = max(1, n)
        sizes.append(max(1, min(full, round(encoding.recon_fov_mm[axis] / step))) if step > 0 else full)
    return sizes


def _affine(encoding: Encoding, heads: Any, slices: list[int], name: str) -> tuple[np.ndarray, list[int], bool]:
    """Return the affine of the reconstructed grid, the slices in order along the normal, and whether headers gave it."""
    nx, ny, nz = _sizes(encoding)
    spacing = [encoding.fov_mm[i] / max(1, encoding.matrix[i]) for i in range(3)]
    firsts = {s: heads[int(np.flatnonzero(heads["idx"]["slice"] == s)[0])] for s in slices}
    axes = np.array([firsts[slices[0]][key] for key in ("read_dir", "phase_dir", "slice_dir")], dtype=np.float64)
    centres = np.array([firsts[s]["position"] for s in slices], dtype=np.float64)
    usable = np.isfinite(axes).all() and np.abs(axes @ axes.T - np.eye(3)).max() < 1e-2 and np.isfinite(centres).all()
    along = centres @ axes[2]
    if usable and len(slices) > 1:
        order = np.argsort(along)
        steps = np.diff(along[order])
        if steps.max() <= 1e-3:
            usable = False
        elif steps.max() - steps.min() > 0.05 * steps.mean():
            raise BadInput(
                "mixed-geometry", f"{name} has slices at uneven distances ({steps.min():.4g} to {steps.max():.4g} mm): split it."
            )
        else:
            slices = [slices[i] for i in order]
            centres = centres[order]
            spacing[2] = float(steps.mean())
    if not usable:
        spacing[2] = spacing[2] or 1.0
        depth = nz * len(slices)
        return check_affine(centred_affine((nx, ny, depth), (spacing[0], spacing[1], spacing[2])), name), slices, False
    affine = np.eye(4)
    affine[:3, :3] = axes.T * spacing
    middle = np.array([nx // 2, ny // 2, nz // 2 if len(slices) == 1 else 0])
    affine[:3, 3] = centres[0] - affine[:3, :3] @ middle
    return check_affine(lps_to_ras(affine), name), slices, True
