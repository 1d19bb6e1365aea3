"""The training loop falls, repeats, resumes and keeps to its budget."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cohortex.items import Image
from cohortex.publish import atomic_path
from cohortex.training import checkpoint, loop, patches
from cohortex.training.limit import TRY_AGAIN, Interrupted, Limit, end_of_attempt, listen
from cohortex.training.team import Team, use_team
from tests.workflow import ROOT, environment


def network():
    return loop.fresh(lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)), 5)


def sample(rng, count):
    x = rng.normal(size=(count, 4)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


def error(made, target):
    return ((made - target) ** 2).mean()


def bytes_of(net):
    return b"".join(v.numpy().tobytes() for v in net.state_dict().values())


def test_the_loss_falls():
    curves = loop.fit(network(), sample, error, steps=200, seed=1, batch=16, rate=1e-2)
    assert curves.steps == 200
    assert curves.loss[-1] < 0.2 * curves.loss[0]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not():
    made = []
    for seed in (1, 1, 2):
        net = network()
        loop.fit(net, sample, error, steps=20, seed=seed)
        made.append(bytes_of(net))
    assert made[0] == made[1] != made[2]


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    network()
    assert torch.equal(first, torch.rand(1))


def counted(drawn):
    def sampler(rng, count):
        drawn.append(count)
        return sample(rng, count)

    return sampler


def test_the_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    images = [Image("1_T1w", "1", "", "T1w", "image", row={"sha256": "a", "split": "train"})]
    journal = checkpoint.open_journal(tmp_path / "m", images, {"steps": 5}, 1)
    loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=journal.of("network"))
    again = checkpoint.open_journal(tmp_path / "m", images, {"steps": 5}, 1)
    assert (again.resumed, again.of("network").load() is None) == (1, False)
    other = [replace(images[0], row={"sha256": "b", "split": "train"})]
    for given in ((images, {"steps": 5}, 2), (images, {"steps": 6}, 1), (other, {"steps": 5}, 1)):
        checkpoint.open_journal(tmp_path / "m", images, {"steps": 5}, 1)
        loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=journal.of("network"))
        anew = checkpoint.open_journal(tmp_path / "m", *given)
        assert (anew.resumed, anew.of("network").load()) == (0, None)


def test_a_kill_between_the_files_of_a_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    kept = checkpoint.Checkpoint(tmp_path / "c")
    kept.save({"a": torch.zeros(3)}, {"step": 1})
    calls = []

    @contextmanager
    def killed_at_the_second(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        with atomic_path(path) as temporary:
            yield temporary

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic_path", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            kept.save({"a": torch.ones(3)}, {"step": 2})
    tensors, note = kept.load()
    assert (note["step"], tensors["a"].sum()) == (1, 0)
    kept.save({"a": torch.ones(3)}, {"step": 2})
    assert len(list(tmp_path.iterdir())) == 2
    assert kept.load()[0]["a"].sum() == 3


def test_half_a_checkpoint_is_not_taken_up(tmp_path):
    loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    (tensors,) = tmp_path.glob("c.*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    drawn = []
    loop.fit(network(), counted(drawn), error, steps=5, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    assert len(drawn) == 5


@pytest.mark.parametrize("failed_at", [1, 7, 19])
def test_a_training_that_failed_goes_on_at_its_checkpoint_and_gives_the_bytes_of_one_that_did_not(tmp_path, monkeypatch, failed_at):
    monkeypatch.setattr(checkpoint, "EVERY_S", 0)
    whole = network()
    loop.fit(whole, sample, error, steps=20, seed=1)
    drawn = []

    def until(rng, count):
        drawn.append(1)
        if len(drawn) > failed_at:
            raise OSError
        return sample(rng, count)

    with pytest.raises(OSError):
        loop.fit(network(), until, error, steps=20, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    resumed, rest = network(), []
    curves = loop.fit(resumed, counted(rest), error, steps=20, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    assert bytes_of(resumed) == bytes_of(whole)
    assert len(rest) == 20 - failed_at
    assert curves.steps == 20


def test_a_training_of_many_short_attempts_gives_the_bytes_of_one_long_one(tmp_path):
    whole, attempts = network(), 0
    expected = loop.fit(whole, sample, error, steps=6, seed=1, validate=lambda net: 1.5)
    before = use_team(Team(limit=Limit(until=0)))
    try:
        while True:
            short = network()
            try:
                curves = loop.fit(
                    short, sample, error, steps=6, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"), validate=lambda net: 1.5
                )
                break
            except Interrupted as stopped:
                attempts += 1
                assert f"step {attempts} of 6" in str(stopped)
                assert "time limit" in str(stopped)
    finally:
        use_team(before)
    assert attempts == 6
    assert bytes_of(short) == bytes_of(whole)
    assert (curves.steps, curves.loss, curves.validation) == (expected.steps, expected.loss, expected.validation)


def test_a_signal_ends_an_attempt_after_its_step_and_the_next_one_goes_on(tmp_path):
    limit, drawn = Limit(), []

    def signalled(rng, count):
        drawn.append(1)
        if len(drawn) == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        return sample(rng, count)

    before, handlers = use_team(Team(limit=limit)), listen(limit)
    try:
        with pytest.raises(Interrupted, match=r"step 4 of 20.*SIGUSR1"):
            loop.fit(network(), signalled, error, steps=20, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    finally:
        use_team(before)
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert json.loads((tmp_path / "c.json").read_text())["step"] == 4


def test_a_signal_while_no_step_is_taken_ends_the_attempt_at_once():
    limit = Limit()
    handlers = listen(limit)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # the second one changes nothing
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert limit.reached()


ENDS = """
import os, signal, sys
from cohortex.training.limit import TRY_AGAIN, Limit, hear_no_more, listen
listen(Limit())
hear_no_more()
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)
signal.late = Late()  # goes with the modules, after Python has forgotten its handlers
sys.exit(TRY_AGAIN)
"""


def test_a_signal_that_comes_again_while_the_process_exits_does_not_change_its_status():
    assert subprocess.run([sys.executable, "-c", ENDS], cwd=ROOT, env=environment()).returncode == TRY_AGAIN


def test_a_checkpoint_is_read_without_unpickling_anything(tmp_path):
    loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=checkpoint.Checkpoint(tmp_path / "c"))
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".safetensors", ".json"]
    tensors = load_file(next(tmp_path.glob("c.*.safetensors")))
    assert {"network/0.weight", "average/0.weight", "optimiser/0/exp_avg", "optimiser/0/step", "optimiser/rate/0"} <= set(tensors)


def test_the_limit_leaves_a_tenth_of_the_time_and_knows_when_slurm_ends_the_job():
    now = time.time()
    assert end_of_attempt(0, {}) == float("inf")
    assert end_of_attempt(60, {}) == pytest.approx(now + 54 * 60, abs=5)
    assert end_of_attempt(60, {"SLURM_JOB_END_TIME": str(int(now) + 1800)}) == pytest.approx(now + 24 * 60, abs=5)


def test_in_bfloat16_the_loss_falls_and_weights_stay_float32():
    before = use_team(Team(precision="bfloat16"))
    try:
        net = network()
        curves = loop.fit(net, sample, error, steps=150, seed=1, batch=16, rate=1e-2)
    finally:
        use_team(before)
    assert curves.loss[-1] < 0.3 * curves.loss[0]
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}


def test_the_minutes_end_a_training_and_it_says_so():
    curves = loop.fit(network(), sample, error, steps=10**6, seed=1, minutes=0.002)
    assert curves.stopped == "minutes"
    assert 0 < curves.steps < 10**6


def test_validation_sees_the_averaged_weights_and_changes_nothing():
    plain, validated = network(), network()
    loop.fit(plain, sample, error, steps=20, seed=1)
    seen = []
    curves = loop.fit(validated, sample, error, steps=20, seed=1, validate=lambda net: (seen.append(bytes_of(net)), 1.5)[1])
    assert bytes_of(plain) == bytes_of(validated) == seen[-1]
    assert [step for step, _ in curves.validation] == [4, 8, 12, 16, 20]


def test_a_layer_with_no_share_of_the_rate_stays_as_it_is():
    net = network()
    before = net[2].weight.clone()
    loop.fit(net, sample, error, steps=5, seed=1, slower={"2.": 0.0})
    assert torch.equal(net[2].weight, before)
    assert not torch.equal(net[0].weight, network()[0].weight)


def test_the_rate_rises_to_its_largest_value_and_falls_to_zero():
    rates = [loop.schedule(step, 100) for step in range(100)]
    assert max(rates) == 1
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] < 0.01


def test_a_patch_holds_foreground_and_lies_inside():
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30, 10), bool)
    mask[15:, :4, 8:] = True
    places = patches.places(mask, rng)
    for _ in range(50):
        box = patches.random_box(mask.shape, (6, 6, 40), rng, places)
        assert [b - a for a, b in box] == [6, 6, 10]
        assert all(0 <= a < b <= n for (a, b), n in zip(box, mask.shape, strict=True))
        assert mask[tuple(slice(a, b) for a, b in box)].any()


def test_turning_keeps_input_and_target_together():
    rng = np.random.default_rng(0)
    array = rng.random((5, 5, 4))
    results = set()
    for _ in range(300):
        a, b = patches.turned([array, array * 2], rng, swap=(0, 1))
        np.testing.assert_array_equal(a * 2, b)
        results.add(a.tobytes())
    assert len(results) == 16
