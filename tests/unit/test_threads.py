"""Every thread pool has the size that was asked for."""

import subprocess
import sys


def test_threads_set_after_numba_began_leave_it_able_to_compile():
    code = (
        "import numba, numpy as np, os\n"
        "numba.njit(parallel=True)(lambda a: a.sum())(np.ones(9))\n"
        "from cohortex.threads import set_threads\n"
        "set_threads(1)\n"
        "assert numba.njit(lambda a: a + 1)(1) == 2\n"
        "assert numba.get_num_threads() == 1 and os.environ['OMP_NUM_THREADS'] == '1'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"NUMBA_NUM_THREADS": "2", "PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr


def test_a_worker_dies_with_its_parent():
    code = (
        "import os, signal, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    from cohortex.threads import die_with_parent\n"
        "    die_with_parent()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    import psutil

    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(10)
    assert not child.is_running()
