"""A machine with few open files, few processes, one core and no shared memory, and a file system on which outputs appear late."""

import os
import resource
import subprocess
import uuid
from pathlib import Path

import yaml

from cohortex.tables import read_table
from tests.run.test_engines import QSTAT, executable
from tests.workflow import ROOT, command, environment, need_generic_executor, write_cohort

FILES, PROCESSES = 64, 20
PIDS = Path("/sys/fs/cgroup/pids")
LATE = r"""#!/bin/sh
# Stands in for a cluster whose file system shows what a job wrote some seconds after the scheduler says that it is done.
number=$(($(cat {there}/count 2>/dev/null || echo 0) + 1))
echo $number > {there}/count
for last; do :; done
echo 0 > {there}/$number.ended
(sleep 2; setsid sh "$last" > {there}/$number.log 2>&1) > /dev/null 2>&1 &
echo $number.server
"""


def test_a_run_goes_through_with_few_files_and_processes_one_core_and_no_shared_memory(tmp_path):
    table = write_cohort(tmp_path, ["1", "2"])
    words = command(tmp_path, input=table, stages="[acquire,export]")
    words[words.index("--cores") + 1] = "1"
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        words = [*alone, *words]
    group = PIDS / f"cohortex-{uuid.uuid4().hex}"
    limited = os.access(PIDS, os.W_OK)

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
        if limited:
            group.mkdir()
            (group / "pids.max").write_text(str(PROCESSES))
            (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=limit,
            timeout=300,
        )
    finally:
        if group.exists():
            group.rmdir()
    assert done.returncode == 0, done.stdout[-4000:]
    assert {row["status"] for row in read_table(tmp_path / "results" / "manifest.tsv")} == {"ok"}


def test_an_output_that_appears_late_is_waited_for(tmp_path):
    for profile in ("slurm", "generic"):
        assert yaml.safe_load((ROOT / "profiles" / profile / "profile.v9+.yaml").read_text())["latency-wait"] >= 60
    need_generic_executor()
    there = tmp_path / "cluster"
    for name, text in (("qsub", LATE), ("qstat", QSTAT), ("qdel", "#!/bin/sh\n")):
        executable(there / name, text.format(there=there))
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "generic"), "--until", "acquire"]
    words += ["--seconds-between-status-checks", "1", "--retries", "0", "--config", f"input={write_cohort(tmp_path, ['1'])}"]
    there_first = {**environment(), "PATH": f"{there}:{environment()['PATH']}"}
    done = subprocess.run(
        [*words, "stages=[acquire,export]"], cwd=tmp_path, env=there_first, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Waiting at most 60 seconds for missing files" in done.stdout
    assert (there / "count").read_text().strip() == "1", "it was not run again"
    assert (tmp_path / "work" / "records" / "acquire" / "b00001" / "manifest.tsv").is_file()
