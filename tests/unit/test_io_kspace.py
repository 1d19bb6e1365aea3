"""Raw k-space: the image that was sampled comes back, in its place, and nothing outside the file is read."""

from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
from scipy import fft

from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.io.series import notes_of, settled
from cohortex.physics.fourier import centred_fft, centred_ifft, root_sum_of_squares

NX, NY, COILS, SLICES = 24, 20, 3, 4


def truth() -> np.ndarray:
    """A positive image with axes (slice, y, x)."""
    data = np.random.default_rng(0).uniform(0.1, 1, (SLICES, NY, NX)).astype(np.float32)
    data[:, :5, :9] += 5
    return data


def coils(image: np.ndarray) -> np.ndarray:
    """K-space of three coils whose squared sensitivities add to one; axes (slice, coil, ky, kx)."""
    weights = np.sqrt(np.array([0.5, 0.3, 0.2]))[:, None, None] * np.exp(1j * np.arange(3))[:, None, None]
    return centred_fft((image[:, None] * weights).astype(np.complex64), axes=(-2, -1))


def header(
    matrix: Any = (NX, NY, 1), fov: Any = (240, 200, 5), recon: Any = None, recon_fov: Any = None, trajectory: str = "cartesian"
) -> bytes:
    def space(tag: str, size: Any, mm: Any) -> str:
        sizes = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", size, strict=True))
        fovs = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", mm, strict=True))
        return f"<{tag}><matrixSize>{sizes}</matrixSize><fieldOfView_mm>{fovs}</fieldOfView_mm></{tag}>"

    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        + space("encodedSpace", matrix, fov)
        + space("reconSpace", recon or matrix, recon_fov or fov)
        + f"<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def fastmri(path: Path, kspace: np.ndarray, xml: bytes | None = None, affine: np.ndarray | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if xml is not None:
            file["ismrmrd_header"] = xml
        if affine is not None:
            file.attrs["cohortex_affine"] = affine.reshape(-1)
    return path


def code(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        [volume.array() for volume in read(path)]
    assert path.name in caught.value.sentence
    return caught.value.code


def test_the_fourier_pair_is_unitary_and_centred() -> None:
    x = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.complex64)
    k = centred_fft(x, axes=(1, 2))
    assert k.dtype == np.complex64
    assert np.allclose(centred_ifft(k, axes=(1, 2)), x, atol=1e-5)
    assert np.linalg.norm(k) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    assert k[0, 3, 3] == pytest.approx(x[0].sum() / np.sqrt(42), abs=1e-4)
    assert np.allclose(k[0], fft.fftshift(fft.fft2(fft.ifftshift(x[0]), norm="ortho")), atol=1e-5)
    assert np.allclose(root_sum_of_squares(np.array([[3j], [4.0]]), axis=0), [5])


def test_the_input_of_a_transform_is_left_alone() -> None:
    x = np.ones((4, 4), np.complex64)
    centred_fft(x, axes=(0, 1))
    assert (x == 1).all()


@pytest.mark.parametrize("single", [False, True])
def test_the_fastmri_layout_gives_the_image_back(tmp_path: Path, single: bool) -> None:
    kspace = centred_fft(truth().astype(np.complex64), axes=(-2, -1)) if single else coils(truth())
    volume = read(fastmri(tmp_path / "a.h5", kspace))[0]
    assert volume.array().dtype == np.float32
    assert np.allclose(volume.array(), truth().T, atol=1e-5)
    assert "isocentre" in str(volume.history[0]["position"])
    centre = volume.affine @ [(NX - 1) / 2, (NY - 1) / 2, (SLICES - 1) / 2, 1]
    assert np.allclose(centre[:3], 0)
    assert not notes_of(volume)


def test_the_affine_of_the_file_is_used(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 11], [0, 1.9, 0.1, 5], [0, -0.1, 1.9, -3], [0, 0, 0, 1]])
    volume = read(fastmri(tmp_path / "a.h5", coils(truth()), affine=affine))[0]
    assert np.array_equal(volume.affine, affine)
    assert "position" not in volume.history[0]


def test_readout_oversampling_is_cropped_to_the_field_of_view_of_the_header(tmp_path: Path) -> None:
    # fastMRI's readout is second to last: 20 samples over 200 mm, of which 100 mm are wanted
    xml = header(matrix=(NY, NX, 1), fov=(200, 240, 5), recon=(10, NX, 1), recon_fov=(100, 240, 5))
    volume = read(fastmri(tmp_path / "a.h5", coils(truth()), xml))[0]
    assert volume.shape == (NX, 10, SLICES)
    assert volume.spacing == pytest.approx((10, 10, 5))
    assert np.allclose(volume.array(), truth().T[:, 5:15], atol=1e-5)


def test_plain_arrays_are_one_slice(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", coils(truth())[0])
    volume = read(tmp_path / "a.npy")[0]
    assert np.allclose(volume.array()[:, :, 0], truth()[0].T, atol=1e-5)


def test_k_space_without_signal_or_with_nan_is_refused_and_a_dead_coil_told(tmp_path: Path) -> None:
    kspace = coils(truth())
    assert code(fastmri(tmp_path / "zero.h5", kspace * 0)) == "all-zero"
    broken = kspace.copy()
    broken[1, 1, 3] = np.nan
    assert code(fastmri(tmp_path / "nan.h5", broken)) == "non-finite"
    kspace[:, 1] = 0
    volume = read(fastmri(tmp_path / "dead.h5", kspace))[0]
    volume.array()
    assert notes_of(settled(volume))[0][0] == "dead-coil"


def test_what_is_not_k_space_is_refused(tmp_path: Path) -> None:
    assert code(fastmri(tmp_path / "real.h5", truth())) == "not-kspace"
    assert code(fastmri(tmp_path / "flat.h5", coils(truth())[0, 0])) == "bad-shape"
    assert code(fastmri(tmp_path / "none.h5", np.zeros((2, 0, 8, 8), np.complex64))) == "bad-shape"
    (tmp_path / "text.h5").write_text("hello" * 300)
    assert code(tmp_path / "text.h5") == "not-hdf5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    assert code(tmp_path / "other.h5") == "not-kspace"
    np.save(tmp_path / "object.npy", np.array([{}] * 3, dtype=object))
    assert code(tmp_path / "object.npy") == "corrupt"
    whole = fastmri(tmp_path / "whole.h5", coils(truth())).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    assert code(tmp_path / "half.h5") == "truncated"


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    fastmri(tmp_path / "secret.h5", coils(truth()))
    (tmp_path / "secret.raw").write_bytes(b"\1" * 4096)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink("secret.h5", "/kspace")
    with h5py.File(tmp_path / "soft.h5", "w") as file:
        file["kspace"] = h5py.SoftLink("/kspace")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("kspace", (1, 2, 8, 8), "c8", external=[(str(tmp_path / "secret.raw"), 0, 1024)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=(SLICES, COILS, NY, NX), dtype="c8")
        layout[:] = h5py.VirtualSource("missing.h5", "kspace", shape=(SLICES, COILS, NY, NX))
        file.create_virtual_dataset("kspace", layout)
    for name in ("link", "soft", "raw", "virtual"):
        assert code(tmp_path / f"{name}.h5") == "foreign-data", name


def test_a_declared_size_is_not_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("kspace", (10**4, 10**2, 10**3, 10**3), "c16", chunks=(1, 1, 100, 100), compression="gzip")
    assert (tmp_path / "huge.h5").stat().st_size < 10000
    assert code(tmp_path / "huge.h5") == "truncated"


def test_a_bad_xml_header_is_refused(tmp_path: Path) -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "' + b"x" * 100 + b'"><!ENTITY c "' + b"&b;" * 1000 + b'">]><a>&c;</a>'
    for i, xml in enumerate([bomb, b"<a", b"<a/>", header(matrix=(0, 1, 1)), header(fov=("nan", 1, 1))]):
        assert code(fastmri(tmp_path / f"{i}.h5", coils(truth()), xml)) == "bad-header", i


def acquisitions(
    path: Path, kspace: np.ndarray, xml: bytes, repetitions: int = 1, centres: Any = None, three_d: bool = False, noise: bool = True
) -> Path:
    """Write ISMRMRD acquisitions of k-space with axes (slice or kz, coil, ky, kx), in a shuffled order."""
    data = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    data.write_xml_header(xml)
    lines = [(r, z, y) for r in range(repetitions) for z in range(kspace.shape[0]) for y in range(kspace.shape[2])]
    np.random.default_rng(0).shuffle(lines)
    if noise:
        scan = ismrmrd.Acquisition.from_array(np.full((kspace.shape[1], 64), 1e6, np.complex64))
        scan.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        data.append_acquisition(scan)
    for r, z, y in lines:
        scan = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[z, :, y]))
        scan.center_sample = kspace.shape[3] // 2
        scan.idx.kspace_encode_step_1, scan.idx.repetition = y, r
        if three_d:
            scan.idx.kspace_encode_step_2 = z
        else:
            scan.idx.slice = z
        scan.read_dir, scan.phase_dir, scan.slice_dir = (0, 1, 0), (0, 0, 1), (1, 0, 0)
        centre = (0, 0, 0) if three_d or centres is None else centres[z]
        scan.position[:] = centre
        data.append_acquisition(scan)
    data.close()
    return path


def test_ismrmrd_slices_lie_where_their_headers_say(tmp_path: Path) -> None:
    # sagittal slices along L in the order 2, 0, 3, 1 of their positions
    places = [12.0, 0.0, 18.0, 6.0]
    path = acquisitions(tmp_path / "a.h5", coils(truth()), header(), centres=[(p, 10, 20) for p in places])
    volume = read(path)[0]
    order = np.argsort(places)
    assert np.allclose(volume.array(), truth()[order].T, atol=1e-5)
    assert volume.spacing == pytest.approx((10, 10, 6))
    # the centre voxel of the first slice is its position (LPS 0, 10, 20 is RAS 0, -10, 20)
    assert np.allclose(volume.affine @ [NX // 2, NY // 2, 0, 1], [0, -10, 20, 1])
    # the readout runs to the back, the phase upwards, the slices to the left
    assert np.allclose(volume.affine[:3, :3], [[0, 0, -6], [-10, 0, 0], [0, 10, 0]])


@pytest.mark.parametrize("which", ["header", "samples"])
def test_a_heap_in_which_the_library_turns_for_ever_is_refused(tmp_path: Path, which: str) -> None:
    path = acquisitions(tmp_path / "a.h5", coils(truth()), header(), centres=[(z, 0, 0) for z in range(SLICES)])
    raw = bytearray(path.read_bytes())
    heaps = [at for at in range(0, len(raw), 8) if raw[at : at + 4] == b"GCOL"]
    # the first object of a heap becomes so long that the next one is itself, counted in 64 bits
    at = heaps[0] if which == "header" else heaps[-1]
    raw[at + 24 : at + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(raw)
    assert code(path) == "corrupt"


def test_a_header_that_lies_in_no_heap_or_is_too_long_is_refused(tmp_path: Path) -> None:
    path = fastmri(tmp_path / "a.h5", coils(truth()))
    with h5py.File(path, "a") as file:
        file.create_dataset("ismrmrd_header", data=header().decode(), dtype=h5py.string_dtype())
        at = file["ismrmrd_header"].id.get_offset()
    good = path.read_bytes()
    assert read(path)[0].shape
    for place, change, expected in (
        (at, b"\xff\xff\xff\x7f", "bad-header"),
        (at + 4, b"\xff" * 8, "corrupt"),
        (at + 12, b"\x07\0\0\0", "corrupt"),
    ):
        path.write_bytes(good[:place] + change + good[place + len(change) :])
        assert code(path) == expected


def test_a_three_dimensional_ismrmrd_scan_is_one_volume(tmp_path: Path) -> None:
    image = truth()
    kspace = centred_fft(image[None].astype(np.complex64), axes=(1, 2, 3)).transpose(1, 0, 2, 3)
    xml = header(matrix=(NX, NY, SLICES), fov=(240, 200, 8), recon=(12, NY, SLICES), recon_fov=(120, 200, 8))
    volume = read(acquisitions(tmp_path / "a.h5", kspace, xml, three_d=True))[0]
    assert volume.shape == (12, NY, SLICES)
    assert np.allclose(volume.array(), image.T[6:18], atol=1e-5)
    assert volume.spacing == pytest.approx((10, 10, 2))


def test_repetitions_are_a_series(tmp_path: Path) -> None:
    path = acquisitions(tmp_path / "a.h5", coils(truth()), header(), repetitions=2, centres=[(z, 0, 0) for z in range(SLICES)])
    with pytest.raises(Skip, match="2 volumes"):
        read(path)
    assert len(read(path, frames="each")) == 2


def test_bad_ismrmrd_files_are_refused(tmp_path: Path) -> None:
    kspace = coils(truth())
    assert code(acquisitions(tmp_path / "spiral.h5", kspace, header(trajectory="spiral"))) == "non-cartesian"
    assert code(acquisitions(tmp_path / "small.h5", kspace, header(matrix=(NX, NY // 2, 1)))) == "bad-shape"
    assert code(acquisitions(tmp_path / "zero.h5", kspace * 0, header())) == "all-zero"
    path = acquisitions(tmp_path / "bare.h5", kspace, header())
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
    assert code(path) == "bad-header"


def test_missing_positions_give_an_axial_stack_and_are_told_in_the_history(tmp_path: Path) -> None:
    volume = read(acquisitions(tmp_path / "a.h5", coils(truth()), header()))[0]
    assert volume.shape == (NX, NY, SLICES)
    assert "isocentre" in volume.history[0]["position"]
