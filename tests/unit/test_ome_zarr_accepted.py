"""What is written as OME-Zarr, in the hands of others: the models of the format (ome-zarr-models) and plain zarr."""

import zipfile

import numpy as np
import ome_zarr_models
import pytest
import zarr
from ome_zarr_models.v05 import Image

from cohortex.io.sharded import Sharded, publish_sharded
from cohortex.volume import Volume
from tests.unit.test_export import item, run

AFFINE = np.diag([1.5, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = -10, 5, 7


def exported(kind, tmp_path):
    """Return what the export writes of a volume that is too large for NIfTI, unpacked, and the volume."""
    data = np.random.default_rng(0).random((70, 65, 9, 3) if kind == "field" else (70, 65, 9)) * 9
    volume = Volume(data.astype("u1" if kind == "labels" else "f4"), AFFINE, "T1w", kind)
    name = {"image": "001_T1w", "labels": "001_T1w+seg", "field": "001_T1w+field"}[kind]
    (made,) = run([item(name, volume, "T1w", kind)], tmp_path / "results", nifti_limit_mb=1e-6)
    assert made.measures["exported"].endswith(".ozx")
    with zipfile.ZipFile(tmp_path / "results" / made.measures["exported"]) as archive:
        archive.extractall(tmp_path / "a.ome.zarr")
    return tmp_path / "a.ome.zarr", volume


def sharded(tmp_path):
    """Return a folder that several machines write together, and its volume."""
    data = np.random.default_rng(1).random((130, 20, 9)).astype("f4")
    array = Sharded.create(tmp_path, data.shape)
    for low in (0, 128):
        array[low : min(low + 128, 130), 0:20, 0:9] = data[low : low + 128]
    publish_sharded(tmp_path / "b.ome.zarr", Volume(array, AFFINE, "CT"))
    return tmp_path / "b.ome.zarr", Volume(data, AFFINE, "CT")


@pytest.mark.parametrize("kind", ["image", "labels", "field", "sharded"])
def test_the_models_of_the_format_take_it_and_zarr_finds_every_voxel_where_it_is(kind, tmp_path):
    folder, volume = sharded(tmp_path) if kind == "sharded" else exported(kind, tmp_path)
    group = zarr.open_group(folder, mode="r")
    model = ome_zarr_models.open_ome_zarr(group)
    assert isinstance(model, Image)
    (image,) = model.attributes.ome.multiscales
    axes = "czyx" if kind == "field" else "zyx"
    assert "".join(axis.name for axis in image.axes) == axes
    assert [axis.unit for axis in image.axes if axis.type == "space"] == ["millimeter"] * 3
    array = group[image.datasets[0].path]
    assert array.metadata.dimension_names == tuple(axes)
    assert np.array_equal(np.asarray(array[...]).T if kind != "field" else array[...].transpose(3, 2, 1, 0), volume.array())
    scale, shift = image.datasets[0].coordinateTransformations
    # axes of this grid run along the world's, so scale and translation are all of the affine
    assert np.allclose(scale.scale[-3:], AFFINE.diagonal()[2::-1]) and np.allclose(shift.translation[-3:], AFFINE[2::-1, 3])
    assert len(scale.scale) == len(shift.translation) == len(axes)


def test_the_models_refuse_an_image_whose_axes_are_wrong(tmp_path):
    folder, _ = exported("image", tmp_path)
    text = (folder / "zarr.json").read_text()
    (folder / "zarr.json").write_text(text.replace('"name": "x"', '"name": "q"').replace('"space"', '"place"'))
    with pytest.raises((ValueError, RuntimeError)):
        ome_zarr_models.open_ome_zarr(zarr.open_group(folder, mode="r"))
