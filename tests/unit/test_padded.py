"""The benchmarks' copy of the workflow: the same stage functions, which take a given time and tell when they begin and end."""

import os
import time

from benchmarks.faults import Kill, lost
from benchmarks.overhead import at_work_s
from benchmarks.padded import Told, copy_workflow, padded, read_told
from cohortex.items import Image


def test_a_copy_pads_every_stage_and_nothing_else(root, tmp_path):
    snakefile = copy_workflow(tmp_path / "copy", 0.5, tmp_path / "told.tsv")
    assert snakefile.read_text() == (root / "Snakefile").read_text()
    changed = {
        path.stem for path in (tmp_path / "copy" / "scripts").glob("*.py") if path.read_text() != (root / "scripts" / path.name).read_text()
    }
    assert changed == {"acquire", "deface", "preprocess", "denoise", "superresolve", "regseg", "recognize", "classify", "export"}
    for stage in changed:
        compile((tmp_path / "copy" / "scripts" / f"{stage}.py").read_text(), stage, "exec")


def test_a_padded_function_takes_its_time_and_tells_of_it(tmp_path):
    slow = padded(lambda image, settings, model, seed: (image.id, settings, seed), "denoise", 0.2, str(tmp_path / "told.tsv"))
    started = time.monotonic()
    assert slow(Image("1_T1w", "1", "", "T1w", "image"), {"a": 1}, None, 7) == ("1_T1w", {"a": 1}, 7)
    assert time.monotonic() - started >= 0.2
    begin, end = read_told(tmp_path / "told.tsv")
    assert (begin.what, end.what, begin.stage, begin.item) == ("begin", "end", "denoise", "1_T1w")
    assert end.time - begin.time >= 0.19
    assert begin.pid == end.pid == os.getpid()


def test_a_stage_is_at_work_from_its_first_call_to_the_end_of_its_last():
    times = {"acquire": (1.0, 6.0, 7.0, 12.0), "export": (20.0, 25.0)}
    assert at_work_s([Told(time, "begin", stage, "a", 1) for stage, each in times.items() for time in each]) == 16.0
    assert at_work_s([]) == 0


def test_what_is_begun_again_is_lost_by_the_kill_of_its_process_or_by_the_first_one_after_its_beginning():
    kills = [Kill(2.0, "job", frozenset({10, 11})), Kill(2.5, "worker", frozenset({21})), Kill(8.0, "head", frozenset({1}))]
    told = [
        *(Told(1.0, "begin", "denoise", item, pid) for item, pid in (("a", 11), ("b", 11), ("c", 21))),
        Told(1.5, "end", "denoise", "a", 11),
        *(Told(3.0, "begin", "denoise", item, 31) for item in ("b", "c")),
        Told(4.0, "end", "denoise", "b", 31),
        Told(6.0, "begin", "export", "a", 41),
        Told(9.0, "begin", "export", "a", 51),
        Told(9.5, "begin", "export", "a", 61),
    ]
    assert lost(told, kills) == {0: 1, 1: 1, 2: 1, -1: 1}
