"""Workers on other nodes write one sharded folder, and the result is that of one process."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import zarr
from scipy import ndimage

from cohortex import blocks, cluster
from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput, NoWorkers, WorkersDied
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.io.sharded import Sharded, publish_sharded
from cohortex.items import Made
from cohortex.stage import run_job
from cohortex.volume import Volume
from tests.unit.test_stage import job, manifest  # noqa: F401

AFFINE = np.array([[0.9, 0.1, 0, -71.1], [-0.1, 0.9, 0, 12.3], [0, 0, 2.5, 1 / 3], [0, 0, 0, 1]])


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Return a sharded volume of 140 x 130 x 20 voxels and its data."""
    data = noise((140, 130, 20))
    data[:64] = 0
    array = Sharded.create(tmp_path, data.shape)
    for x, y in [(0, 0), (0, 128), (128, 0), (128, 128)]:
        here = (slice(x, min(x + 128, 140)), slice(y, min(y + 128, 130)), slice(0, 20))
        array[here] = data[here]
    publish_sharded(tmp_path / "a.ome.zarr", Volume(array, AFFINE, "CT", body_part="head", history=({"step": "read"},)))
    return tmp_path / "a.ome.zarr", data


def test_a_sharded_volume_comes_back_with_everything(folder):
    path, data = folder
    back = read_ozx(path)
    assert np.array_equal(back.array(), data)
    assert np.array_equal(back.data[3:140:2, 7, ...], data[3:140:2, 7])
    assert np.array_equal(back.affine, AFFINE)
    assert (back.modality, back.body_part, back.history) == ("CT", "head", ({"step": "read"},))
    assert back.sha256() == Volume(data, AFFINE).sha256()
    group = zarr.open_group(path, mode="r")
    assert np.array_equal(group["0"][:].T, data)
    assert group.attrs["ome"]["version"] == "0.5"
    assert not list(path.parent.glob(".scratch.*"))


def test_a_missing_or_damaged_shard_is_never_read_as_zeros(folder):
    path, _ = folder
    shard = path / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 255
    shard.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read_ozx(path).array()
    assert caught.value.code == "corrupt"
    shard.unlink()
    with pytest.raises(BadInput) as caught:
        read_ozx(path)
    assert caught.value.code == "missing-chunks"
    meta = json.loads((path / "0" / "zarr.json").read_text())
    (path / "0" / "zarr.json").write_text(json.dumps({**meta, "data_type": "complex64"}))
    with pytest.raises(BadInput) as caught:
        read_ozx(path)
    assert caught.value.code == "unsupported-type"


def test_a_sharded_array_takes_whole_shards_and_is_not_published_without_all(tmp_path):
    array = Sharded.create(tmp_path, (140, 20, 20))
    with pytest.raises(ValueError, match="whole shards"):
        array[64:128, 0:20, 0:20] = np.zeros((64, 20, 20))
    array[0:128, 0:20, 0:20] = noise((128, 20, 20))
    assert array.missing() == 1
    with pytest.raises(ValueError, match="1 shards"):
        publish_sharded(tmp_path / "b.ome.zarr", Volume(array, np.eye(4)))


def filtered(values):
    return ndimage.gaussian_filter(values, 1.0, mode="reflect", truncate=4.0)


def test_workers_of_a_cluster_give_the_bytes_of_one_process(tmp_path):
    distributed = pytest.importorskip("distributed")
    data = noise((140, 70, 66))
    write_ozx(tmp_path / "in.ozx", Volume(data, AFFINE))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local,
        distributed.Client(local) as client,
        planned(Plan(memory_mb=0, scratch=tmp_path, scheduler="slurm")),
    ):
        cluster.use_client(client)
        try:
            lazy, found = blocks.at_hand(read_ozx(tmp_path / "in.ozx").data, look=lambda box, block: block.size)
            made = blocks.map_blocks(filtered, lazy, halo=(4, 4, 4))
            who = set(cluster.run_on_cluster(lambda box: os.getpid(), [((0, 1),)] * 16))

            def broken(values):
                raise BadInput("corrupt", "a chunk is damaged")

            with pytest.raises(BadInput) as caught:
                blocks.map_blocks(broken, lazy)
        finally:
            cluster.use_client(None)
    assert caught.value.code == "corrupt"
    assert os.getpid() not in who
    assert sum(found) == data.size
    assert isinstance(made, Sharded)
    assert made[...].tobytes() == filtered(data).tobytes()


def test_a_job_does_not_wait_for_workers_for_ever_and_says_why(capsys):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local,
        distributed.Client(local) as client,
        pytest.raises(NoWorkers, match=r"no worker .* \(none could be submitted\): give jobqueue\.slurm\.queue"),
    ):
        cluster.wait_for_a_worker(client, limit_s=0.5, pause_s=0.1)
    assert "waits for Slurm's workers: none could be submitted" in capsys.readouterr().err


def test_workers_that_do_not_come_are_no_images_fault(job):  # noqa: F811
    def nobody(image, settings, model, seed):
        raise NoWorkers("no worker came")

    with pytest.raises(SystemExit, match="no worker came"):
        run_job(job, nobody)


def test_a_volume_of_several_machines_goes_through_a_job_as_a_folder(job):  # noqa: F811
    def spread(image, settings, model, seed):
        array = Sharded.create(blocks.plan().folder, image.volume.shape)
        array[:, :, :] = image.volume.array() + 1
        return Made(image.volume.with_data(array))

    run_job(job, spread)
    row = manifest(job)["001_T2w"]
    assert (row["status"], row["path"]) == ("ok", "001_T2w.ome.zarr")
    back = read_ozx(job.images / "001_T2w.ome.zarr")
    assert np.array_equal(back.array(), read_ozx(job.before / "001_T2w.ozx").array() + 1)
    assert back.sha256() == row["sha256"]


def test_a_block_on_which_workers_die_again_and_again_comes_home_as_want_of_memory():
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")

    def greedy(box):
        if box[0][1] > 64:
            os.kill(os.getpid(), signal.SIGKILL)
        return box[0][1]

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as local,
        distributed.Client(local) as client,
    ):
        cluster.use_client(client)
        try:
            assert cluster.run_on_cluster(greedy, [((0, 64),)]) == [64]
            with pytest.raises(WorkersDied):
                cluster.run_on_cluster(greedy, [((0, 128),)])
        finally:
            cluster.use_client(None)


@pytest.mark.parametrize(("needs", "status"), [(300, "ok"), (0, "failed")])
def test_where_workers_die_smaller_blocks_are_tried_before_the_image_is_set_aside(job, needs, status):  # noqa: F811
    def by_workers(image, settings, model, seed):
        if image.id == "1_T1w" and blocks.plan().memory_mb > needs:
            raise WorkersDied
        return Made(image.volume.with_data(image.volume.array() + 1))

    run_job(replace(job, blocks={"memory_mb": 1024}), by_workers)
    rows = manifest(job)
    assert rows["1_T1w"]["status"] == status
    assert rows["1_T1w"]["code"] == ("" if status == "ok" else "out-of-memory")
    assert {row["status"] for name, row in rows.items() if name != "1_T1w"} == {"ok"}
    said = job.log.read_text()
    assert "workers died of blocks for 1024 MB; it goes on with smaller ones" in said and "512 MB" in said
