"""Memory that a block freed is there for the next one."""

import subprocess
import sys

import pytest

LINES = """
import resource, sys
import numpy as np
from cohortex.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
else:
    print(True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    held = [np.ones(2**21, np.float32) for _ in range(3)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    lines = subprocess.run([sys.executable, "-c", LINES, how], check=True, capture_output=True, text=True).stdout.split()
    return lines[0] == "True", int(lines[1])


def test_pages_come_once():
    kept, some = faults("keep")
    if not kept:
        pytest.skip("there is no glibc here")
    _, many = faults("as it is")
    assert some < many / 3
