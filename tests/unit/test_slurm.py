"""What Slurm says, read and judged: the texts were recorded from Slurm 22.05 and are never waited for."""

import asyncio
import os
import threading
from types import SimpleNamespace

import pytest

from cohortex import slurm
from cohortex.errors import Refused
from cohortex.slurm import NoAnswer, read_queue
from cohortex.slurm.head import check_requests, guard
from cohortex.slurm.orphans import forget_runs, let_old_jobs_end, note_run
from cohortex.slurm.requests import Request, minutes_of, plain, read_nodes, refusals
from cohortex.slurm.watchdog import AGAIN_S, GRACE_LOOKS, PATIENCE_LOOKS, PULSE_S, Watch, advice

DOWN = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
QUEUE = f"""\
1|CANCELLED|JobHeldUser|cpu||run1|rule_acquire_wildcards_b00002
6|FAILED|BadConstraints|cpu||run1|rule_export_wildcards_b00007
7|PENDING|PartitionTimeLimit|cpu||run1|rule_export_wildcards_b00008
8|PENDING|DependencyNeverSatisfied|cpu||run1|rule_report
3|PENDING|JobHeldUser|cpu||run1|rule_denoise_wildcards_b00004
2|PENDING|JobHeldAdmin|cpu||run1|rule_denoise_wildcards_b00003
4|RUNNING|None|cpu|c1|run1|rule_export_wildcards_b00005
11|PENDING|{DOWN}|gpu||run1|rule_classify_wildcards_b00009
10|COMPLETED|None|gpu|g1|run1|rule_train_wildcards_denoise
12|PENDING|PartitionDown|paid||run1|rule_classify_wildcards_b00010
14|PENDING|Priority|cpu||run1|rule_export_wildcards_b00011
15|PENDING|launch failed requeued held|cpu||run1|rule_export_wildcards_b00012
"""
NODES = """\
cpu*|1:00:00|4|6000|(null)
gpu|1:00:00|4|6000|gpu:fake:2
fat|2-00:00:00|64|500000+|(null)
"""


def job(state="PENDING", reason="None", number="1"):
    return read_queue(f"{number}|{state}|{reason}|cpu||run1|rule_denoise_wildcards_b00001")[0]


def looks(watch, jobs, count, start=0.0, step=20.0):
    """Let a watch look several times at the same queue; return all that it said and wanted cancelled."""
    said, cancelled = [], []
    for number in range(count):
        lines, hopeless = watch.look(jobs, start + number * step)
        said += lines
        cancelled += hopeless
    return said, cancelled


def test_the_queue_is_read_with_rule_and_batch():
    jobs = {row.job: row for row in read_queue(QUEUE)}
    assert (jobs["8"].what, jobs["2"].what, jobs["10"].what) == ("report", "denoise b00003", "train denoise")
    assert jobs["11"].reason == DOWN
    assert [number for number, row in jobs.items() if row.ended] == ["1", "6", "10"]


def test_every_wait_is_told_in_plain_words_with_what_to_do_and_hopeless_ones_end():
    said, cancelled = looks(Watch(), read_queue(QUEUE), PATIENCE_LOOKS)
    text = "\n".join(said)
    assert sorted(cancelled) == ["15", "2", "7", "8"], "held by an administrator or by Slurm, too long, never satisfied"
    for number in ("2", "3", "7", "8", "11", "12", "15"):
        assert f"waits for job {number} (" in text
    assert "7 (export b00008) in partition cpu: it asks for more time than its partition gives (PartitionTimeLimit)" in text
    assert "--set-resources export:mem_mb=N" in text
    assert "scontrol release 3 lets it go on" in text, "what the user holds is told, not cancelled"
    assert "sinfo -R says why" in text
    assert not [line for line in said if " 4 (" in line or " 14 (" in line], "what runs or waits for its turn is not news"


def test_a_state_is_told_once_and_again_after_an_hour():
    watch, jobs = Watch(), [job(reason="JobHeldUser")]
    assert looks(watch, jobs, GRACE_LOOKS - 1)[0] == []
    assert len(looks(watch, jobs, 50, start=100)[0]) == 1
    assert len(watch.look(jobs, 200 + AGAIN_S)[0]) == 1
    watch.look([job("RUNNING")], 210 + AGAIN_S)
    assert len(looks(watch, jobs, GRACE_LOOKS, start=220 + AGAIN_S)[0]) == 1, "a state that comes back is news"


def test_a_hopeless_job_is_cancelled_once():
    assert looks(Watch(), [job(reason="JobHeldAdmin")], 5 * PATIENCE_LOOKS)[1] == ["1"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Resources", "turn"),
        ("(Priority)", "turn"),
        ("PartitionNodeLimit", "hopeless"),
        ("BadConstraints", "hopeless"),
        ("InvalidAccount", "hopeless"),
        ("InvalidQOS", "hopeless"),
        ("AssocMaxMemPerJob", "hopeless"),
        ("QOSMaxWallDurationPerJobLimit", "hopeless"),
        ("job requeued in held state", "hopeless"),
        ("AssocMaxJobsLimit", "blocked"),
        ("AssocGrpCpuLimit", "blocked"),
        ("QOSMaxJobsPerUserLimit", "blocked"),
        ("ReqNodeNotAvail, UnavailableNodes:c[1-2]", "blocked"),
        ("ReqNodeNotAvail, Reserved for maintenance", "blocked"),
        ("Reservation", "blocked"),
        ("a reason of tomorrow", "blocked"),
    ],
)
def test_every_reason_means_something(reason, kind):
    found = advice(job(reason=reason))
    assert found is not None and found.kind == kind and found.words and (found.fix or kind == "turn")


def test_a_job_that_runs_needs_no_advice_and_one_that_cannot_end_does():
    assert advice(job("RUNNING")) is None and advice(job("COMPLETED")) is None
    assert advice(job("REQUEUE_HOLD", "None")).kind == "hopeless"
    said, cancelled = looks(Watch(), [job("COMPLETING")], PATIENCE_LOOKS)
    assert "its node does not get rid of it" in said[0] and not cancelled


def test_a_wait_is_never_silent_for_long():
    jobs = [job(reason="Priority", number=str(number)) for number in range(3)] + [job("RUNNING", number="9")]
    said, _ = looks(Watch(), jobs, 200, step=60)
    assert len(said) == 200 * 60 // int(PULSE_S)
    assert said[0] == "1 jobs run on Slurm, 3 wait there (3 Priority)"


def test_a_controller_that_is_silent_is_told_and_its_return_too():
    watch = Watch()
    watch.look([job("RUNNING")], 0)
    lines = [watch.no_answer("slurm_load_jobs error: Unable to contact\n slurm controller", 20.0 * number) for number in range(10)]
    assert [len(line) for line in lines] == [0, 0, 1] + [0] * 7
    assert "does not answer (slurm_load_jobs error: Unable to contact slurm controller)" in lines[2][0]
    assert watch.fate("1") == "", "nothing is given up while nobody can be asked"
    assert watch.look([job("RUNNING")], 300)[0] == ["Slurm answers again; the run goes on"]


def test_a_job_that_slurm_forgot_is_given_up_after_some_looks():
    watch = Watch()
    watch.look([job("RUNNING")], 0)
    looks(watch, [], GRACE_LOOKS - 1)
    assert watch.fate("1") == ""
    watch.look([], 0)
    assert "does not know job 1 any more" in watch.fate("1")


def test_a_job_that_was_gone_before_the_first_look_is_given_up():
    watch = Watch()
    watch.look([], 0)
    assert [bool(watch.fate("5")) for _ in range(GRACE_LOOKS)] == [False] * (GRACE_LOOKS - 1) + [True]


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL", "CANCELLED", "REVOKED"])
def test_an_end_that_the_plugin_does_not_understand_is_an_end(state):
    watch = Watch()
    looks(watch, [job(state)], GRACE_LOOKS - 1)
    assert watch.fate("1") == "", "a job may be on its way back into the queue"
    watch.look([job(state)], 0)
    assert f"ended as {state}" in watch.fate("1")


# --- the plugin ---------------------------------------------------------------------------------------------------


class Executor:
    """What `guard` touches of the plugin's executor, with its two faults: it drops all jobs when squeue fails, and waits for ever."""

    def __init__(self):
        self.answers, self.errors, self.ran, self.next_seconds_between_status_checks = True, [], [], 180

    async def check_active_jobs(self, jobs):
        if self.answers:
            for one in jobs:
                yield one

    def report_job_error(self, job_info, msg=None, **more):
        self.errors.append((job_info.external_jobid, msg))

    def report_job_success(self, job_info):
        pass

    def run_job(self, job):
        self.ran.append(job)

    def shutdown(self):
        pass


def guarded():
    executor, watch, ended = Executor(), Watch(), threading.Event()
    guard(executor, watch, ended, longest_s=60)
    active = [SimpleNamespace(external_jobid=str(number), job=SimpleNamespace(name="denoise")) for number in (1, 2)]

    async def check():
        return [one async for one in executor.check_active_jobs(active)]

    return executor, watch, ended, active, lambda: asyncio.run(check())


def test_jobs_that_the_plugin_drops_are_given_back():
    executor, _, _, active, check = guarded()
    executor.answers = False
    assert check() == active
    assert executor.next_seconds_between_status_checks == 60, "and it looks again soon"


def test_a_job_of_which_no_more_will_be_heard_is_reported_and_the_others_stay():
    executor, watch, _, active, check = guarded()
    looks(watch, [job("RUNNING", number="1"), job("RUNNING", number="2")], 1)
    looks(watch, [job("RUNNING", number="2")], GRACE_LOOKS)
    assert check() == active[1:]
    assert executor.errors[0][0] == "1" and "does not know job 1" in executor.errors[0][1]


def test_nothing_is_submitted_while_the_controller_is_silent():
    executor, watch, ended, _, _ = guarded()
    executor.run_job("a")
    watch.no_answer("silent", 0)
    waiting = threading.Thread(target=executor.run_job, args=("b",))
    waiting.start()
    waiting.join(0.2)
    assert executor.ran == ["a"]
    executor.shutdown()
    waiting.join(5)
    assert ended.is_set() and executor.ran == ["a", "b"]


def test_an_error_of_sbatch_is_followed_by_what_to_change(capsys):
    executor, *_ = guarded()
    info = SimpleNamespace(external_jobid=None, job=SimpleNamespace(name="denoise"))
    executor.report_job_error(
        info, msg="SLURM sbatch failed. The error message was 'sbatch: error: Invalid generic resource (gres) specification'."
    )
    assert "denoise could not be submitted" in capsys.readouterr().err


# --- requests -----------------------------------------------------------------------------------------------------


def request(**given):
    return Request(**{"rule": "denoise", "what": "denoise of b00001", "partition": None, "account": None, "cpus": 1, "mem_mb": 1000}
                   | {"minutes": 10, "gpus": 0} | given)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, None),
        ({"partition": "gpu", "gpus": 2}, None),
        ({"mem_mb": 7000}, ["7000 MB", "default partition cpu has 6000 MB", "denoise:slurm_partition=fat"]),
        ({"mem_mb": 700000}, ["700000 MB", "blocks.memory_mb"]),
        ({"gpus": 1}, ["asks for 1 GPU", "denoise:slurm_partition=gpu"]),
        ({"partition": "gpu", "gpus": 3}, ["asks for 3 GPU", "device: cpu"]),
        ({"partition": "cpuu"}, ["cpuu", "cpu, fat, gpu", "slurm_partition"]),
        ({"partition": "cpu,fat", "mem_mb": 7000}, None),
        ({"cpus": 8}, ["8 processors", "--set-threads denoise=N"]),
        ({"minutes": 61}, ["61 minutes", "60 at most"]),
        ({"minutes": 61, "partition": "fat"}, None),
    ],
)
def test_what_no_node_can_give_is_refused_naming_what_to_change(given, words):
    found = refusals([request(**given)], read_nodes(NODES))
    assert bool(found) == (words is not None)
    assert all(word in found[0] for word in words or [])


def test_one_sentence_for_each_rule_however_many_batches():
    nodes = read_nodes(NODES)
    assert len(refusals([request(mem_mb=7000), request(mem_mb=8000), request(mem_mb=8000, rule="export")], nodes)) == 2


def test_no_partition_where_there_is_no_default_is_refused():
    (sentence,) = refusals([request()], read_nodes(NODES.replace("*", "")))
    assert "no default one" in sentence and "slurm_partition (cpu, fat, gpu)" in sentence


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("(null)", 0), ("gpu:fake:2", 2), ("gpu:4(S:0-1)", 4), ("gpu:a100:4(S:0),gpu:v100:2", 6), ("gpu:1g.5gb:7", 7), ("gpu", 1)],
)
def test_gpus_are_counted_as_sites_write_them(gres, gpus):
    assert read_nodes(f"p|infinite|4|6000|{gres}")[0].gpus == gpus


@pytest.mark.parametrize(("text", "minutes"), [("infinite", float("inf")), ("30:00", 30), ("1:00:00", 60), ("2-01:00:00", 2940)])
def test_time_limits_are_read_as_slurm_writes_them(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified", "slurm_account=NAME"),
        ("Memory specification can not be satisfied", "larger nodes"),
        ("Requested node configuration is not available", "larger nodes"),
        ("Invalid feature specification", "constraint"),
        ("No partition specified or system default partition", "slurm_partition=NAME"),
        ("Unable to contact slurm controller (connect failure)", "tried again"),
    ],
)
def test_an_error_of_sbatch_says_what_to_change(error, words):
    assert words in plain(f"SLURM sbatch failed. The error message was 'sbatch: error: {error}'.")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Put a Slurm with accounts on the path: user somebody has the account lab."""
    said = {"sinfo": NODES, "scontrol": "AccountingStorageEnforce = associations,limits,qos\nMinJobAge = 300 sec\n", "sacctmgr": "lab\n"}
    for name, text in said.items():
        (tmp_path / f"{name}.txt").write_text(text)
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def one_job(**resources):
    given = {"mem_mb": 1000, "runtime": 10, **resources}
    return SimpleNamespace(
        resources=given, wildcards=SimpleNamespace(batch="b00001", keys=lambda: ["batch"]), rule=SimpleNamespace(name="denoise"), threads=1
    )


def test_an_account_that_the_user_has_not_is_refused_before_any_job(site):
    check_requests([one_job(), one_job(slurm_account="lab")])
    with pytest.raises(Refused, match="slurm_account is labb, but yours are lab"):
        check_requests([one_job(slurm_account="labb")])
    (site / "sacctmgr.txt").write_text("")
    with pytest.raises(Refused, match=r"demands an account, and user .* has none"):
        check_requests([one_job()])


def test_gpus_of_several_nodes_are_held_against_one_of_them(site):
    check_requests([one_job(slurm_partition="gpu", gpu=4, nodes=2)])
    with pytest.raises(Refused, match="asks for 4 GPU, and no node"):
        check_requests([one_job(slurm_partition="gpu", gpu=4)])


def test_a_controller_that_is_silent_at_the_start_refuses_nothing(site, capsys):
    (site / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    check_requests([one_job(mem_mb=10**7)])
    assert "what jobs ask for is not checked" in capsys.readouterr().err


def test_a_host_without_slurm_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="on a host that submits jobs, or use --profile local"):
        check_requests([one_job()])


# --- jobs of killed runs ------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    return {"work": str(tmp_path / "work")}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put a squeue that shows what stands in a file, and a scancel that empties it, on the path."""
    shown = tmp_path / "shown"
    shown.write_text("")
    for name, text in {"squeue": f"cat {shown}", "scancel": f"echo $@ >> {tmp_path}/cancelled; : > {shown}"}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return shown, tmp_path / "cancelled"


def test_jobs_of_a_killed_run_are_found_by_their_run_and_those_that_wait_are_cancelled(config, commands):
    shown, cancelled = commands
    note_run(config, "run1")
    shown.write_text(
        "4|PENDING|Priority|cpu||run1|rule_denoise_wildcards_b00001\n5|COMPLETED|None|cpu||run1|rule_denoise_wildcards_b00002\n"
    )
    said = []
    let_old_jobs_end(config, said.append, pause_s=0.01)
    assert cancelled.read_text() == "4\n"
    assert said == ["cancels 1 jobs of a run that was killed, which still waited in Slurm's queue"]
    said.clear()
    let_old_jobs_end(config, said.append)
    assert not said, "nothing is left to look for"


def test_jobs_of_a_killed_run_that_run_are_waited_for(config, commands):
    shown, cancelled = commands
    note_run(config, "run1")
    shown.write_text("4|RUNNING|None|cpu|c1|run1|rule_denoise_wildcards_b00001\n")
    said = []

    def say(line):
        said.append(line)
        shown.write_text("")

    let_old_jobs_end(config, say, pause_s=0.01)
    assert "4 (denoise b00001 on c1)" in said[0] and "scancel --name=run1" in said[0]
    assert not cancelled.exists()


def test_a_new_run_where_slurm_cannot_be_asked_is_refused(config, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    let_old_jobs_end(config, print)
    note_run(config, "run1")
    with pytest.raises(Refused, match="squeue is not installed here"):
        let_old_jobs_end(config, print)
    forget_runs(config)
    let_old_jobs_end(config, print)


def test_a_job_that_had_a_running_folder_is_gone_before_the_next_one_writes(tmp_path, commands):
    from cohortex.job import become_owner
    from cohortex.owner import myself
    from cohortex.publish import write_json

    shown, cancelled = commands
    shown.write_text("17|RUNNING|None|cpu|c9|run1|rule_denoise_wildcards_b00001\n")
    write_json(tmp_path / "b00001" / "owner.json", {**myself(), "host": "elsewhere", "slurm_job": "17"})
    told = []
    become_owner(tmp_path / "b00001", "denoise b00001", told.append)
    assert cancelled.read_text() == "17\n"
    assert "cancels Slurm job 17 (RUNNING), left over from a run that was killed" in told[0]


def test_a_number_that_was_given_to_another_job_is_left_alone(commands):
    shown, cancelled = commands
    shown.write_text("17|RUNNING|None|cpu|c9|run1|rule_denoise_wildcards_b00002\n")
    assert slurm.cancel_and_wait("17", "denoise b00001", print, limit_s=1)
    assert not cancelled.exists()


def test_a_job_whose_end_nobody_tells_is_not_taken_for_gone(tmp_path, commands):
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho silence >&2; exit 1\n")
    said = []
    assert not slurm.cancel_and_wait("17", "denoise b00001", said.append, limit_s=1)
    assert said == ["waits, since Slurm does not say whether job 17 of a run that was killed still writes (silence)"]


def test_an_owner_that_is_a_job_elsewhere_is_asked_of_slurm(commands):
    from cohortex.owner import alive

    shown, _ = commands
    owner = {"host": "elsewhere", "pid": 1, "started": 1.0}
    assert alive(owner) is None
    shown.write_text("17|RUNNING|None|cpu|c9|head|\n")
    assert alive({**owner, "slurm_job": "17"}) is True
    shown.write_text("")
    assert alive({**owner, "slurm_job": "17"}) is False


def test_a_command_that_fails_tells_what_it_said():
    with pytest.raises(NoAnswer, match="no such thing"):
        slurm.ask("sh", "-c", "echo no such thing >&2; exit 1")
    with pytest.raises(NoAnswer, match="within"):
        slurm.ask("sleep", "5", timeout_s=0.1)


def test_a_command_that_cannot_be_started_or_writes_no_utf8_ends_no_watch(tmp_path):
    (tmp_path / "squeue").write_text("no program")
    with pytest.raises(NoAnswer, match="could not be started"):
        slurm.ask(str(tmp_path / "squeue"))
    assert slurm.ask("printf", r"7|RUNNING|None|cpu|c1|caf\351|rule_denoise").startswith("7|RUNNING")


def test_a_look_that_fails_in_an_unknown_way_is_said_and_ends_neither_the_watch_nor_submissions(monkeypatch, capsys):
    import threading

    from cohortex.slurm import head

    watch, ended, looks = Watch(), threading.Event(), []

    def queue(name):
        looks.append(name)
        if len(looks) == 2:
            ended.set()
        raise ValueError("no such column")

    monkeypatch.setattr(head, "queue", queue)
    watch.silent_looks = 3
    head.keep_watch(watch, "run1", 0.01, ended)
    assert len(looks) == 2
    assert watch.silent_looks == 0
    assert "a look at the queue failed (ValueError: no such column)" in capsys.readouterr().err
