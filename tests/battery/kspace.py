"""Raw data in HDF5: k-space and projections that are cut, lie elsewhere, lie about their size, or make no image."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np

from cohortex.items import Made
from cohortex.physics.ct import radon
from cohortex.physics.fourier import centred_fft
from tests.battery.case import SECRET, Case

NX, NY, COILS, SLICES = 24, 20, 3, 10


def truth() -> np.ndarray:
    """Return a positive image with axes (slice, y, x)."""
    data = np.random.default_rng(0).uniform(0.1, 1, (SLICES, NY, NX)).astype(np.float32)
    data[:, :5, :9] += 5
    return data


def coils() -> np.ndarray:
    """Return k-space with axes (slice, coil, ky, kx) of coils whose squared sensitivities add to one."""
    weights = np.sqrt(np.array([0.5, 0.3, 0.2]))[:, None, None] * np.exp(1j * np.arange(3))[:, None, None]
    return centred_fft((truth()[:, None] * weights).astype(np.complex64), axes=(-2, -1))


def header(matrix: Any = (NX, NY, 1), fov: Any = (240, 200, 5), trajectory: str = "cartesian") -> bytes:
    """Return an ISMRMRD header that names a patient."""

    def space(tag: str) -> str:
        sizes = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", matrix, strict=True))
        lengths = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", fov, strict=True))
        return f"<{tag}><matrixSize>{sizes}</matrixSize><fieldOfView_mm>{lengths}</fieldOfView_mm></{tag}>"

    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<subjectInformation><patientName>{SECRET}</patientName></subjectInformation><encoding>"
        + space("encodedSpace")
        + space("reconSpace")
        + f"<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def raw(change: Callable[[Any], None] | None = None, kspace: np.ndarray | None = None, xml: bytes | None = None) -> Callable[[Path], Path]:
    """Return a maker of a file in the layout of fastMRI that `change` may spoil."""

    def make(folder: Path) -> Path:
        with h5py.File(folder / "a.h5", "w") as file:
            if kspace is not None or change is None:
                file["kspace"] = coils() if kspace is None else kspace
            if xml is not None:
                file["ismrmrd_header"] = xml
            if change is not None:
                change(file)
        return folder / "a.h5"

    return make


def half(folder: Path) -> Path:
    path = raw()(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def elsewhere(kind: str) -> Callable[[Path], Path]:
    """Return a maker of a file whose k-space lies in another file."""

    def make(folder: Path) -> Path:
        raw()(folder).rename(folder / "secret.h5")
        (folder / "secret.raw").write_bytes(b"\1" * 4096)
        with h5py.File(folder / "a.h5", "w") as file:
            if kind == "link":
                file["kspace"] = h5py.ExternalLink("secret.h5", "/kspace")
            elif kind == "raw":
                file.create_dataset("kspace", (1, 2, 8, 8), "c8", external=[(str(folder / "secret.raw"), 0, 1024)])
            elif kind == "virtual":
                layout = h5py.VirtualLayout(shape=(SLICES, COILS, NY, NX), dtype="c8")
                layout[:] = h5py.VirtualSource("missing.h5", "kspace", shape=(SLICES, COILS, NY, NX))
                file.create_virtual_dataset("kspace", layout)
            else:
                file["kspace"] = h5py.SoftLink("/kspace")
        return folder / "a.h5"

    return make


def dangling(file: Any) -> None:
    file["kspace"] = h5py.SoftLink("/nowhere")


WRITER = """
import os, signal, sys, h5py, numpy as np
file = h5py.File(sys.argv[1], "w")
file.create_dataset("kspace", (10, 3, 20, 24), "c8", chunks=(1, 3, 20, 24))
for z in range(3):
    file["kspace"][z] = np.ones((3, 20, 24), np.complex64)
file.flush() if sys.argv[2] == "flushed" else None
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(when: str) -> Callable[[Path], Path]:
    """Return what has another process write a file and be killed in the middle."""

    def make(folder: Path) -> Path:
        subprocess.run([sys.executable, "-c", WRITER, str(folder / "a.h5"), when], check=False)
        return folder / "a.h5"

    return make


def huge(file: Any) -> None:
    file.create_dataset("kspace", (10**6, 10**3, 10**3), "c16", chunks=(1, 100, 100), compression="gzip")


def hard_cycle(file: Any) -> None:
    group = file.create_group("kspace")
    group["again"] = group


def unknown_filter(file: Any) -> None:
    # an optional filter that nobody has: the data are written without it, the file still names it
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((SLICES, COILS, NY, NX))
    plist.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((SLICES, COILS, NY, NX))
    found = h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype("c8"), logical=True), space, plist)
    found.write(h5py.h5s.ALL, h5py.h5s.ALL, coils())


def busy(folder: Path) -> Path:
    """Write a file that says that somebody writes to it, as one that was killed leaves it."""
    path = folder / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["kspace"] = coils()
    content = bytearray(path.read_bytes())
    # flags of the superblock of version 3: open for writing
    content[11] |= 1
    path.write_bytes(content)
    return path


def acquisitions(xml: bytes, kspace: np.ndarray | None = None, bare: bool = False) -> Callable[[Path], Path]:
    """Return a maker of a file of ISMRMRD acquisitions."""

    def make(folder: Path) -> Path:
        data, values = ismrmrd.Dataset(str(folder / "a.h5"), "dataset", create_if_needed=True), coils() if kspace is None else kspace
        data.write_xml_header(xml)
        for z in range(values.shape[0]):
            for y in range(values.shape[2]):
                scan = ismrmrd.Acquisition.from_array(np.ascontiguousarray(values[z, :, y]))
                scan.center_sample, scan.idx.kspace_encode_step_1, scan.idx.slice = NX // 2, y, z
                scan.read_dir, scan.phase_dir, scan.slice_dir = (1, 0, 0), (0, 1, 0), (0, 0, 1)
                scan.position[:] = (0, 0, 5 * z)
                data.append_acquisition(scan)
        data.close()
        if bare:
            with h5py.File(folder / "a.h5", "a") as file:
                del file["dataset/xml"]
        return folder / "a.h5"

    return make


SIZE, BINS, VIEWS = 33, 51, 90


def exchange(**change: Any) -> Callable[[Path], Path]:
    """Return a maker of projections in the Data Exchange layout."""

    def make(folder: Path) -> Path:
        x, y = np.meshgrid(np.arange(SIZE) - SIZE // 2, np.arange(SIZE) - SIZE // 2, indexing="ij")
        body = np.stack([0.02 * (x**2 + y**2 < (14 - z / 4) ** 2) for z in range(9)], axis=2).astype(np.float32)
        angles = np.linspace(0, 180, VIEWS, endpoint=False)
        integrals = radon(body, np.radians(angles), 0.5, BINS).transpose(0, 2, 1)
        content: dict[str, Any] = {
            "data": (50 + 900 * np.exp(-integrals)).astype(np.float32),
            "data_white": np.full((3, 9, BINS), 950, np.float32),
            "data_dark": np.full((2, 9, BINS), 50, np.float32),
            "theta": angles,
        }
        for key, value in change.items():
            content[key] = value(content[key]) if callable(value) else value
        with h5py.File(folder / "a.h5", "w") as file:
            for key, values in content.items():
                if values is not None:
                    file[f"exchange/{key}"] = values
        return folder / "a.h5"

    return make


def dead(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, 1] = 0
    return values


def with_nan() -> np.ndarray:
    values = coils()
    values[2, 1, 3] = np.nan
    return values


def dark_spots(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, 4, 20:22] = 30.0
    return values


def finite(made: Made) -> None:
    assert np.isfinite(np.asarray(made.content.data[...])).all(), "not finite"  # type: ignore[union-attr]


BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "' + b"x" * 100 + b'"><!ENTITY c "' + b"&b;" * 1000 + b'">]><a>&c;</a>'
MM = {"settings": {"spacing_mm": (0.5, 0.5, 1.0)}, "modality": "CT"}
FOREIGN = ("foreign-data",)
BAD = ("bad-header",)
CASES = [
    Case("K01", "half of a file", "", "set aside", ("truncated",), half),
    Case("K01b", "its writer killed before anything was flushed", "", "set aside", (), killed("early")),
    Case("K01c", "its writer killed after three of ten slices", "zeros", "set aside", (), killed("flushed")),
    Case("K02", "k-space is a link into another file", "followed", "set aside", FOREIGN, elsewhere("link")),
    Case("K03", "k-space lies in a file of the host", "read", "set aside", FOREIGN, elsewhere("raw")),
    Case("K04", "k-space is virtual, its source missing", "zeros", "set aside", FOREIGN, elsewhere("virtual")),
    Case("K05", "10^12 complex numbers in 1 kB", "allocate 16 TB", "set aside", ("truncated",), raw(huge)),
    Case("K06a", "a link to itself", "", "set aside", FOREIGN, elsewhere("soft")),
    Case("K06b", "a group that holds itself", "walk for ever", "set aside", ("bad-shape", "not-kspace", "bad-header"), raw(hard_cycle)),
    Case("K06c", "a link to nothing", "", "set aside", FOREIGN, raw(dangling)),
    Case("K07a", "one axis", "", "set aside", ("bad-shape",), raw(kspace=coils()[0, 0, 0])),
    Case("K07b", "no coils", "", "set aside", ("bad-shape",), raw(kspace=coils()[:, :0])),
    Case(
        "K07c", "a matrix that is not that of the readouts", "", "set aside", ("bad-shape",), acquisitions(header(matrix=(NX, NY // 2, 1)))
    ),
    Case("K07d", "a spiral", "", "set aside", ("non-cartesian",), acquisitions(header(trajectory="spiral"))),
    Case("K08a", "a dead coil", "", "warned", ("dead-coils", "dead-coil"), raw(kspace=dead(coils()))),
    Case("K08b", "all zero", "", "set aside", ("all-zero",), raw(kspace=coils() * 0)),
    Case("K08c", "a readout of NaN", "", "set aside", (), raw(kspace=with_nan())),
    Case("K09a", "no header", "", "set aside", BAD, acquisitions(header(), bare=True)),
    Case("K09b", "a header that blows up", "expanded", "set aside", BAD, raw(kspace=coils(), xml=BOMB)),
    Case("K09c", "a header that is no XML", "", "set aside", BAD, raw(kspace=coils(), xml=b"<a")),
    Case("K10a", "angles that are not even", "", "set aside", BAD, exchange(theta=np.sqrt(np.arange(float(VIEWS)))), **MM),
    Case("K10b", "an angle twice", "", "set aside", (), exchange(theta=lambda t: np.where(np.arange(VIEWS) == 4, t[3], t)), **MM),
    Case("K10c", "fewer angles than projections", "", "set aside", BAD, exchange(theta=np.arange(7.0)), **MM),
    Case("K10d", "angles over 120 degrees", "", "set aside", ("limited-angle",), exchange(theta=lambda t: t * 2 / 3), **MM),
    Case("K11", "counts below the dark current", "infinite", "warned", (), exchange(data=dark_spots), check=finite, **MM),
    Case("K12", "a filter that is not installed", "load a plug-in", "set aside", ("unsupported-filter",), raw(unknown_filter)),
    Case("K13", "a file that is being written", "", "set aside", ("busy", "truncated"), busy),
]
