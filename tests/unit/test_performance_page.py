"""The tables of the pages in docs/ are what the records of the benchmarks give."""

import json
import re

import pytest

from benchmarks.record import ROOT, TARGETS, Run, Table, figure_line, markdown
from benchmarks.tables import BENCHMARKS, MODULES, PAGES, PLACE, RESULTS, about, command_of, page, read, summary

RECORD = {
    "benchmark": "blocks",
    "command": "python -m benchmarks.blocks",
    "date": "2026-01-01",
    "commit": "abc",
    "minutes": 1.5,
    "machine": {"processor": "P", "has": [], "cores": 2, "memory_gb": 4, "load": 0.1},
    "versions": {"Python": "3.11"},
    "tables": {"blocks": {"columns": {"volume": "", "CPU s": ".2f"}, "rows": [["a", 1.234], ["b", None]]}},
    "figures": {"outofcore_time": 1.3, "outofcore_equal": 1},
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_what_the_records_give(path):
    text = path.read_text()
    assert page(text, read()) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_recorded_table_has_a_place_on_its_page(path):
    places = {(benchmark, table) for _, benchmark, table, _ in PLACE.findall(path.read_text())}
    recorded = {(name, table) for name, record in read().items() if name in PAGES[path] for table in record["tables"]}
    assert all((name, table) in places or (name, "") in places for name, table in recorded)
    assert {benchmark for benchmark, _ in places} == {*PAGES[path], "figures"}


def test_every_benchmark_with_records_has_one_page():
    assert len(set(BENCHMARKS)) == len(BENCHMARKS)
    assert {*TARGETS, *read()} <= set(BENCHMARKS)


def test_the_records_hold_the_figures_that_are_asked_for_and_no_paths_of_a_machine():
    for name, record in read().items():
        assert name in TARGETS
        assert record["benchmark"] == name
        assert record["figures"].keys() <= TARGETS[name].keys()
        missing = {figure for figure, target in TARGETS[name].items() if target is not None} - record["figures"].keys()
        besides = ("transform_gap_db", "transform_vs_bm4d", "mr_gain_", "mr_vs_", "ct_gain")
        assert all(figure.startswith(besides) for figure in missing), "only BM4D and BM3D may be absent"
        assert not re.search(r"/(tmp|home|root|work)\b", json.dumps(record))


def test_places_are_filled_and_what_stands_outside_is_left():
    text = "a | b\n<!-- measured: blocks blocks -->\nold\n<!-- end -->\nprose\n<!-- measured: figures -->\n<!-- end -->\n"
    made = page(text, {"blocks": RECORD})
    assert made.startswith("a | b\n<!-- measured: blocks blocks -->\n")
    assert "| a | 1.23 |\n| b |  |\n\n<!-- end -->\nprose\n" in made
    assert "old" not in made
    assert page(made, {"blocks": RECORD}) == made
    whole = RECORD | {"tables": RECORD["tables"] | {"second": {"columns": {"n": "d"}, "rows": [[7]]}}}
    all_of_it = page("<!-- measured: blocks -->\n<!-- end -->\n", {"blocks": whole})
    assert "| a | 1.23 |" in all_of_it and "| 7 |" in all_of_it and all_of_it.count("commit abc") == 1


def test_a_table_that_there_is_not_is_refused_and_one_not_measured_is_said_to_be_absent():
    for place, message in {"blocks other": "record of 'blocks' has no table 'other'", "wavelets all": "record of 'wavelets'"}.items():
        with pytest.raises(KeyError, match=message):
            page(f"<!-- measured: {place} -->\n<!-- end -->\n", {"blocks": RECORD})
    for name in ("filters", "superresolve_proofs"):
        said = page(f"<!-- measured: {name} -->\n<!-- end -->\n", {"blocks": RECORD})
        assert f"Not measured yet: `python -m benchmarks.tables --run {name}`." in said
    assert "Not measured yet" in page("<!-- measured: filters libraries -->\n<!-- end -->\n", {"blocks": RECORD})


def test_the_table_of_figures_says_which_are_missed_and_which_were_not_measured():
    lines = summary({"blocks": RECORD})
    assert any("`outofcore_time` | at most 1.2 | 1.3 | **no**" in line for line in lines)
    assert any("`outofcore_equal` | at least 1 | 1 | yes" in line for line in lines)
    assert any("`labels_equal` | at least 0.995 |  | not measured" in line for line in lines)
    assert not any("files_of_batches" in line for line in lines), "of which nothing is asked"
    assert len(summary({"blocks": RECORD}, ["blocks"])) == 4
    smaller = RECORD | {"command": "python -m benchmarks.blocks --gib 0.1"}
    assert any("`outofcore_time` | at most 1.2 | 1.3 | other sizes" in line for line in summary({"blocks": smaller}))
    assert "load 0.1 when it began" in " ".join(about(RECORD))


def test_the_last_line_has_the_figures_in_their_order_and_no_others():
    assert figure_line("blocks", {"outofcore_equal": 1, "outofcore_time": 1.23456}) == "FIGURE outofcore_time=1.235 outofcore_equal=1"
    with pytest.raises(ValueError, match="no figures of blocks"):
        figure_line("blocks", {"speed": 1})


def test_a_run_leaves_its_record(tmp_path, capsys):
    run = Run("blocks", ["numpy"])
    table = Table({"what": "", "CPU s": ".1f"})
    table.add("it", 0.123456789)
    run.end({"blocks": table}, {"outofcore_time": 1.0}, tmp_path / "new" / "blocks.json")
    record = json.loads((tmp_path / "new" / "blocks.json").read_text())
    assert record.keys() == RECORD.keys()
    assert record["tables"]["blocks"]["rows"] == [["it", 0.12346]]
    assert record["machine"].keys() == RECORD["machine"].keys()
    assert capsys.readouterr().out.splitlines() == [*markdown(record["tables"]["blocks"]), "FIGURE outofcore_time=1"]


def test_every_benchmark_is_run_as_a_module_that_leaves_its_record():
    for name in {*TARGETS, *read()}:
        module = MODULES.get(name, (f"benchmarks.{name}",))[0]
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert command_of(name)[1:3] == ["-m", module] and command_of(name)[-1 if name != "scale" else -4] == str(RESULTS / f"{name}.json")


def test_the_pythons_of_other_packages_are_handed_to_those_that_compare_with_them():
    told = {name: command_of(name, bm4d="B4", bm3d="B3", peers="P") for name in BENCHMARKS}
    assert {name for name, words in told.items() if words[-2:] == ["--bm4d", "B4"]} == {"filters", "denoise"}
    assert {name for name, words in told.items() if words[-2:] == ["--bm3d", "B3"]} == {"denoise_ct"}
    assert {name for name, words in told.items() if words[-2:] == ["--peers", "P"]} == {"registration"}
    assert "--bm4d" not in command_of("denoise") and command_of("overhead", slurm=True)[-1] == "--slurm"
