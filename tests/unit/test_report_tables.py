"""The tables of the results: what their columns mean, and Parquet that holds the same."""

import json

import pyarrow.parquet as pq
import pytest

from cohortex.io.dataset import write_dataset
from cohortex.report.dictionary import STATUSES, described, dictionary
from cohortex.report.page import write_report
from cohortex.report.tables import write_parquet
from cohortex.tables import read_table
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of a cohort that never ran."""
    folder = tmp_path_factory.mktemp("tables")
    config = {**CONFIG, "work": str(folder / "work"), "output": str(folder / "results")}
    write_fake_cohort(folder / "work", pictures=False)
    people = folder / "work" / "cohort" / "participants.tsv"
    people.write_text("subject\tage\tcode\tnote\tgood\n001\t61.5\t007\t=1+1\ttrue\n002\tn/a\t12\t\tfalse\n")
    for subject in ("001", "002"):
        (folder / "results" / f"sub-{subject}").mkdir(parents=True)
    write_report(folder / "work", folder / "results", config, STAGES)
    write_dataset(folder / "results", config)
    return folder / "results"


def tables(results):
    found = {"manifest": results / "manifest.tsv", "participants": results / "participants.tsv"}
    return found | {path.stem: path for path in (results / "tables").glob("*.tsv")}


def as_text(value):
    """Return a cell of Parquet as the text table has it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def test_every_table_has_a_dictionary_of_all_its_columns_and_a_parquet_with_the_same_rows(results):
    assert set(tables(results)) >= {"manifest", "participants", "acquire", "regseg"}
    for name, path in tables(results).items():
        rows = read_table(path)
        told = json.loads(path.with_suffix(".json").read_text())
        assert list(rows[0]) == list(told) or set(rows[0]) == set(told), name
        assert all(entry["Description"] for entry in told.values())
        found = pq.read_table(results / "tables" / f"{name}.parquet").to_pylist()
        assert len(found) == len(rows)
        for row, typed in zip(rows, found, strict=True):
            for column, text in row.items():
                value = as_text(typed[column])
                assert (float(text) == value) if isinstance(value, float | int) else (value == ("" if text == "n/a" else text)), (
                    name,
                    column,
                )


def test_columns_have_types_and_ids_stay_text(results):
    manifest = pq.read_schema(results / "tables" / "manifest.parquet")
    assert str(manifest.field("subject").type) == "string" and str(manifest.field("regseg.folding_percent").type) == "double"
    people = pq.read_schema(results / "tables" / "participants.parquet")
    kinds = {field.name: str(field.type) for field in people}
    assert kinds == {"participant_id": "string", "age": "double", "code": "string", "note": "string", "good": "bool"}


def test_the_same_records_give_the_same_bytes(results, tmp_path):
    for name, path in tables(results).items():
        kept = results / "tables" / f"{name}.parquet"
        for again in ("a", "b"):
            write_parquet(path, tmp_path / again, lambda _: "")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert kept.stat().st_mode & 0o777 == 0o640


def test_tables_of_stages_that_left_the_chain_go(results, tmp_path):
    folder = tmp_path / "results"
    config = {**CONFIG, "work": str(tmp_path / "work"), "output": str(folder)}
    write_fake_cohort(tmp_path / "work", pictures=False)
    write_report(tmp_path / "work", folder, config, STAGES)
    assert (folder / "tables" / "denoise.tsv").is_file()
    write_report(tmp_path / "work", folder, config, ["acquire", "preprocess", "export"])
    assert not list((folder / "tables").glob("denoise.*")) and (folder / "tables" / "acquire.parquet").is_file()


def test_a_column_that_is_not_what_was_declared_is_still_written(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('image\tvoxels\tflag\tempty\n1\t3\ttrue\t\n2\t3.5\tperhaps\t\n3\tn/a\t"\t\n')
    write_parquet(path, tmp_path / "a.parquet", {"voxels": "count", "flag": "flag", "image": "word"}.get)
    found = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert found == {"image": ["1", "2", "3"], "voxels": [3.0, 3.5, None], "flag": ["true", "perhaps", '"'], "empty": [None] * 3}


def test_a_table_without_rows_is_written_all_the_same(tmp_path):
    (tmp_path / "a.tsv").write_text("image\tvoxels\n")
    write_parquet(tmp_path / "a.tsv", tmp_path / "a.parquet", lambda _: "")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0


def test_blocks_of_a_long_table_become_groups_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("cohortex.report.tables.BLOCK", 1000)
    (tmp_path / "a.tsv").write_text("n\tx\n" + "".join(f"{n}\t{n if n < 900 else n / 7:.6g}\n" for n in range(1000)))
    write_parquet(tmp_path / "a.tsv", tmp_path / "a.parquet", lambda _: "")
    found = pq.ParquetFile(tmp_path / "a.parquet")
    assert found.num_row_groups > 2 and str(found.schema_arrow.field("x").type) == "double"
    assert found.read().column("n").to_pylist() == list(range(1000))


def test_every_measure_that_a_stage_is_known_to_leave_is_described(root):
    golden = json.loads((root / "tests" / "golden.json").read_text())["stages"]
    known = {(stage, name.split()[-1]) for stage, told in golden.items() for name in told["numbers"] if " sum " not in name}
    known = {(stage, name) for stage, name in known if name not in ("mean", "sd")}  # of the voxels, which no manifest has
    assert len(known) > 20
    assert [one for one in known if not described(*one).type] == []
    assert described("regseg", "uncertainty_white_matter").text == "Entropy of the labels where the label is white matter"
    assert described("classify", "p_tumour").text == "Probability of the class tumour"


def test_a_dictionary_says_units_and_what_values_mean():
    told = dictionary(["status", "regseg.volume_lesion_ml", "regseg.deformation"])
    assert told["regseg.volume_lesion_ml"] == {"Description": "Volume of the label lesion", "Units": "ml"}
    assert told["status"]["Levels"] == {status: words for status, (_, words) in STATUSES.items()}
    assert set(told["regseg.deformation"]["Levels"]) == {"kept", "left-out", "folded", "none"}


def test_what_a_bids_input_says_of_its_participants_is_kept(tmp_path):
    source, results = tmp_path / "bids", tmp_path / "results"
    (results / "sub-1").mkdir(parents=True)
    (tmp_path / "cohort").mkdir()
    source.mkdir()
    (tmp_path / "cohort" / "participants.tsv").write_text("subject\tage\tsex\n1\t7\tF\n")
    (source / "participants.json").write_text(json.dumps({"age": {"Description": "Age", "Units": "year", "Secret": "x"}}))
    write_dataset(results, {"input": str(source), "work": str(tmp_path), "stages": ["acquire", "export"]})
    told = json.loads((results / "participants.json").read_text())
    assert told["age"] == {"Description": "Age", "Units": "year"} and set(told) == {"participant_id", "age", "sex"}
