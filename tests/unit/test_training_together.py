"""Several processes train one model: they see different images, agree on every step, and go on together after a kill."""

import json
import math
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.models.folder import read_card, read_model
from cohortex.training import loop
from cohortex.training.launch import over_nodes, watch, without_step
from cohortex.training.limit import TRY_AGAIN
from cohortex.training.objectives.pixel import squared_error
from cohortex.training.run import Order, how_many, interrupted
from cohortex.training.team import Team
from tests.train_together import BATCH, STEPS, digest, halves, network
from tests.workflow import ROOT, environment


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return what two processes found that trained together, and their folder."""
    out = tmp_path_factory.mktemp("pair")
    words = [sys.executable, "-m", "tests.train_together"]
    env = environment() | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([*words, str(rank), str(out / "place"), str(out)], cwd=ROOT, env=env) for rank in (0, 1)]
    assert watch(both, 10) == 0
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)], out


def test_half_a_batch_in_each_of_two_processes_trains_like_the_whole_batch_in_one(pair):
    alone = network()
    curves = loop.fit(alone, halves(0, 1), squared_error, steps=STEPS, seed=1, batch=BATCH, ema=0.0)
    for found in pair[0]:
        np.testing.assert_allclose(found["loss"], curves.loss, rtol=1e-4)
        for mine, value in zip(found["weights"], alone.state_dict().values(), strict=True):
            np.testing.assert_allclose(mine, value.numpy(), rtol=1e-4, atol=1e-6)
    start = next(iter(network().state_dict().values())).numpy()
    assert not np.allclose(pair[0][0]["weights"][0], start, atol=1e-4)


def test_all_processes_have_the_same_weights_and_each_draws_its_own_images(pair):
    first, second = pair[0]
    assert first["weights"] == second["weights"]
    assert first["classify"] == second["classify"]
    assert len({*first["drawn"], *second["drawn"]}) == 4


def test_a_network_and_its_critic_are_the_same_in_all_processes_and_after_many_attempts(pair):
    first, second = (found["adversarial"] for found in pair[0])
    assert first == second
    assert first["whole"] == first["attempt"]
    # two steps of the feature network, three of the training
    assert first["attempts"] == 5


def test_processes_whose_weights_differ_stop_with_a_sentence(pair):
    assert all("different weights" in found["apart"] for found in pair[0])


def test_what_one_process_says_all_know(pair):
    for found in pair[0]:
        assert [each["rank"] for each in found["gathered"]] == [0, 1]
        assert math.isnan(found["gathered"][1]["none"])
        assert found["agreed"] is True
        assert found["rows"] == [1.5, 2.5, 1.5]


def test_a_joint_training_of_two_processes_and_many_attempts_gives_the_bytes_of_one_attempt(pair):
    found, out = pair
    assert found[0]["attempts"] == found[1]["attempts"] > 5
    assert digest(out / "attempts") == digest(out / "whole")
    assert all(np.isfinite(value).all() for value in read_model(out / "whole")[1].values())
    ran = [read_card(out / name)["recipe"]["run"] for name in ("whole", "attempts")]
    assert [each.pop("resumed") for each in ran] == [0, found[0]["attempts"]]
    assert ran[0] == ran[1]
    assert (ran[0]["processes"], ran[0]["devices"], ran[0]["precision"]) == (2, {"cpu": 2}, "float32")
    assert ran[0]["global_batch"] == {"register": 2, "segment": 2}
    assert ran[0]["steps"] == {"register": 6, "segment.CT": 7, "segment.T1w": 7}
    assert not list(out.glob("*.checkpoint"))


@pytest.mark.parametrize(("batch", "size"), [(4, 4), (5, 2), (1, 3), (8, 3)])
def test_the_shares_of_a_batch_add_up_to_it_and_nobody_is_idle(batch, size):
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    assert sum(shares) == Team(0, size).whole(batch) == max(batch, size)
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1


def test_a_training_takes_a_process_for_each_gpu_that_its_job_has():
    assert how_many("auto", "cuda", 4, 1) == 4
    assert how_many("auto", "cuda", 8, 2) == 8
    assert how_many("auto", "cpu", 0, 1) == how_many("auto", "cuda", 0, 1) == 1
    assert how_many("auto", "cpu", 4, 3) == 3
    assert how_many(2, "cpu", 0, 1) == 2
    with pytest.raises(Refused, match="train:gpu=3"):
        how_many(3, "cuda", 2, 1)
    with pytest.raises(Refused, match="2 nodes"):
        how_many(3, "cpu", 0, 2)


def test_over_several_nodes_slurm_starts_the_processes_beside_the_step_of_the_job():
    inside = {"SLURM_JOB_ID": "7", "SLURM_CPU_BIND": "x", "SLURM_STEP_ID": "0", "SRUN_CPUS_PER_TASK": "1", "PATH": "/bin"}
    line = over_nodes(["python", "-m", "m"], 8, 2, 3, inside)
    assert line[0] == "srun"
    assert {"--jobid=7", "--overlap", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=3"} <= set(line)
    assert line[-3:] == ["python", "-m", "m"]
    assert without_step(inside) == {"SLURM_JOB_ID": "7", "PATH": "/bin"}


def sleeper(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", f"import os, time; {code}"])


def test_when_a_process_is_killed_the_training_ends_and_says_which(capfd):
    both = [sleeper("time.sleep(60)"), sleeper("time.sleep(60)")]
    both[1].kill()
    began = time.monotonic()
    assert watch(both, 0.2) == 1
    assert time.monotonic() - began < 30
    assert "process 2 of 2 of the training was ended by SIGKILL" in capfd.readouterr().err
    both[0].kill()
    both[0].wait()


def test_when_all_stop_for_another_attempt_the_training_says_so():
    assert watch([sleeper(f"os._exit({TRY_AGAIN})") for _ in range(2)], 20) == TRY_AGAIN


def test_a_training_that_needs_more_than_all_attempts_says_what_to_do():
    order = Order("denoise", [], [], "work", {}, 0, "cpu", 1)
    assert "the next attempt" in interrupted("training: step 3 of 10", order)
    said = interrupted("training: step 3 of 10", SimpleNamespace(**{**vars(order), "last": True}))
    assert "step 3 of 10" in said
    assert all(word in said for word in ("last attempt", "train:runtime", "--retries", "denoise.default.training"))
