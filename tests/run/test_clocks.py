"""What a user reads when clocks do not agree, in real runs."""

import re
import socket
import subprocess

import pytest

from tests.workflow import command, environment, write_cohort

HOST = socket.gethostname()

AHEAD = """
import sys
if {who!r} in " ".join(sys.orig_argv):
    import time
    real = time.time
    time.time = lambda: real() + {seconds}
"""
"""A host whose clock is off; the time stamps of files are the kernel's, as a file server's would be."""

STAMPS = """
import os, time
real = os.utime
def utime(path, times=None, **more):
    if times is None and more.get("ns") is None and "/acquire/" in str(path):
        times = (time.time() + {seconds},) * 2
    real(path, times, **more)
os.utime = utime
"""
"""A file system that takes the time from the node that writes, and a node that is ahead, on which acquire runs."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Return the table of one subject."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), ["1"])


def run(folder, cohort, site):
    """Run with a `sitecustomize` that shifts clocks; return the exit code and what was said."""
    (folder / "sitecustomize.py").write_text(site)
    words = command(folder, input=cohort, stages="[acquire,export]")
    there = {**environment(), "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=there, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def test_a_host_whose_clock_is_minutes_off_is_refused_before_the_first_job(cohort, tmp_path):
    code, said = run(tmp_path, cohort, AHEAD.format(who="snakemake", seconds=400))
    assert code != 0 and "rule acquire" not in said
    (sentence,) = re.findall("^cohortex: .*", said, re.MULTILINE)
    assert f"the clock of host {HOST} is 7 minutes ahead of that of the file system of the work folder" in sentence
    assert "chronyc tracking" in sentence and "Traceback" not in said


def test_jobs_wait_for_what_a_node_made_that_is_seconds_ahead(cohort, tmp_path):
    code, said = run(tmp_path, cohort, STAMPS.format(seconds=20))
    assert code == 0, said[-4000:]
    (line,) = re.findall(r"^export b00001 .*waits so long.*", said, re.MULTILINE)
    assert re.search(rf"work/(records/)?acquire/b00001 was written by host {HOST} \d+ seconds ahead of the clock of host {HOST}", line)


def test_a_job_names_the_node_that_is_minutes_ahead(cohort, tmp_path):
    code, said = run(tmp_path, cohort, STAMPS.format(seconds=600))
    assert code != 0
    sentence = re.search(r"^cohortex: work/\S+ was written by .*$", said, re.MULTILINE)
    assert sentence, said[-4000:]
    assert f"by host {HOST} 10 minutes ahead of the clock of host {HOST}" in sentence.group()
    assert "Traceback" not in said and "This could indicate a clock skew problem" not in said
