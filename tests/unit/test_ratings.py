"""Tables of ratings are read strictly, and what a rater rejects leaves distributions and trainings."""

import re

import pytest

from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.ratings import Rating, left_out, make_ratings, ratings_of, read_ratings
from cohortex.report.measures import groups_of
from cohortex.report.page import write_report
from cohortex.report.records import read_records
from cohortex.tables import read_table, write_table
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort

IMAGES = ["001_T1w", "001_CT", "002_T1w", "001_T1w+labels"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_fake_cohort(tmp_path_factory.mktemp("plain") / "work", pictures=False)


def table(path, *rows, columns=("image", "rating", "note", "rater", "date")):
    path.write_text("\n".join(["\t".join(columns), *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def test_tables_of_several_raters_are_one_list(tmp_path):
    one = table(tmp_path / "anna.tsv", ("002_T1w", "Accept", "", "", ""), ("001_T1w", "reject", "'=moved", "", "2026-01-02"))
    two = table(tmp_path / "two.tsv", ("001_T1w", "unsure", "", "ben", ""))
    ratings, told = read_ratings([one, two], IMAGES)
    assert told == []
    assert ratings == [
        Rating("001_T1w", "reject", "=moved", "anna", "2026-01-02"),
        Rating("001_T1w", "unsure", "", "ben"),
        Rating("002_T1w", "accept", "", "anna"),
    ]
    assert list(left_out(ratings)) == ["001_T1w"], "one that rejects is enough, whatever another says"


def test_the_same_rating_twice_is_one_and_the_later_note_holds(tmp_path):
    rows = [
        ("001_CT", "reject", note, "anna", date) for note, date in (("old", "2026-01-01"), ("new", "2026-01-02"), ("older", "2025-01-01"))
    ]
    ratings, _ = read_ratings([table(tmp_path / "a.tsv", *rows)], IMAGES)
    assert [one.note for one in ratings] == ["new"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("001_T1w", "rejected", "", "a", "")], r"a\.tsv line 2: the rating is 'rejected'; did you mean reject\?"),
        ([("001_T1w", "", "", "a", "")], r"a\.tsv line 2: the rating is ''"),
        ([("001_t1w", "reject", "", "a", "")], r"line 2: the cohort has no image 001_t1w; did you mean 001_T1w\?"),
        ([("sub-001_T1w", "reject", "", "a", "")], r"did you mean 001_T1w\?"),
        ([("001_T1w+seg", "reject", "", "a", "")], r"line 2: 001_T1w\+seg is no image but goes with one; rate 001_T1w itself"),
        ([("001_T1w+labels", "reject", "", "a", "")], r"001_T1w\+labels is no image but goes with one; rate 001_T1w itself"),
        ([("", "reject", "", "a", "")], r"line 2: the cell image is empty"),
        (
            [("001_T1w", "reject", "", "a", ""), ("001_T1w", "accept", "", "a", "")],
            r"a\.tsv line 2 and a\.tsv line 3: a rates 001_T1w reject",
        ),
        ([("001_T1w", "reject")], r"a\.tsv: line 2 has 2 cells"),
        ([("900_T1w", "reject", "", "a", "")], r"a\.tsv: none of its 1 images is in this cohort"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_naming_file_and_line(tmp_path, rows, sentence):
    with pytest.raises(Refused, match=sentence):
        read_ratings([table(tmp_path / "a.tsv", *rows)], IMAGES)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (("image", "note"), "has no column rating"),
        (("rating", "note"), "has no column image"),
        (("image", "rating", "Note"), "the column Note is written note"),
    ],
)
def test_columns_that_are_missing_or_written_otherwise_are_refused(tmp_path, columns, sentence):
    with pytest.raises(Refused, match=rf"a\.tsv.*{sentence}"):
        read_ratings([table(tmp_path / "a.tsv", ("001_T1w", "accept", "")[: len(columns)], columns=columns)], IMAGES)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"a\.tsv cannot be read"):
        read_ratings([tmp_path / "a.tsv"], IMAGES)


def test_images_of_another_cohort_are_told_and_left_alone(tmp_path):
    rows = [("001_T1w", "reject", "", "a", ""), *((f"9{k}_T1w", "reject", "", "a", "") for k in range(7))]
    ratings, told = read_ratings([table(tmp_path / "a.tsv", *rows)], IMAGES)
    assert [one.image for one in ratings] == ["001_T1w"]
    assert told == ["a.tsv: not in this cohort, so not looked at: 90_T1w, 91_T1w, 92_T1w, 93_T1w, 94_T1w and 2 more."]


def test_the_key_takes_nothing_a_path_or_a_list():
    for value in (None, "ratings.tsv", ["a.tsv", "b.tsv"]):
        assert check_config({"ratings": value})["ratings"] == value
    for value in (3, ["a.tsv", 3], "", {"a": "b"}):
        with pytest.raises(Refused, match="ratings"):
            check_config({"ratings": value})
    with pytest.raises(Refused, match="ratings begins with ~"):
        check_config({"ratings": ["~/a.tsv"]})


def test_the_table_of_the_run_is_written_anew_only_when_it_says_something_else(tmp_path, plain):
    work = tmp_path / "work"
    (work / "cohort").mkdir(parents=True)
    (work / "cohort" / "cohort.tsv").write_bytes((plain / "cohort" / "cohort.tsv").read_bytes())
    made = work / "cohort" / "ratings.tsv"
    make_ratings({"work": str(work), "ratings": None})
    assert ratings_of(work) == [] and ratings_of(tmp_path) == []
    given = table(tmp_path / "a.tsv", ("001_T1w", "reject", "moved", "a", ""), ("002_T1w", "accept", "", "a", ""))
    make_ratings({"work": str(work), "ratings": str(given)})
    assert [one.image for one in ratings_of(work)] == ["001_T1w", "002_T1w"]
    before = made.stat().st_mtime_ns
    table(given, ("002_T1w", "accept", "", "a", ""), ("001_T1w", "reject", "moved", "a", ""))
    make_ratings({"work": str(work), "ratings": [str(given)]})
    assert made.stat().st_mtime_ns == before, "the order of the rows says nothing"


def rejecting(plain, folder, *images, note="moved"):
    import shutil

    work = shutil.copytree(plain, folder / "work")
    rows = [{"image": image, "rating": "reject", "note": note, "rater": "anna"} for image in images]
    rows += [{"image": images[0], "rating": "accept", "rater": "ben"}]
    write_table(work / "cohort" / "ratings.tsv", ("image", "rating", "note", "rater", "date"), rows)
    return work


def test_a_rejected_image_leaves_distributions_and_odd_ones_and_is_named_first(plain, tmp_path):
    page = write_report(plain, tmp_path / "before", CONFIG, STAGES).read_text()
    assert "006_T1w" in re.search(r'<table class="odd">.*?</table>', page, re.S)[0] and "Left out by a rater" not in page
    work = rejecting(plain, tmp_path, "006_T1w", note="moved & <b>blurred</b>")
    records = read_records(work, STAGES)
    assert all("006_T1w" not in group.images for group in groups_of(records))
    page = write_report(work, tmp_path / "after", CONFIG, STAGES).read_text()
    odd = re.search(r'<section id="odd".*?</section>', page, re.S)[0]
    assert "006_T1w" not in odd
    verdict = re.search(r'<section id="verdict".*?</section>', page, re.S)[0]
    for word in ("Left out by a rater", "006_T1w", "anna", "ben: accept", "moved &amp; &lt;b&gt;blurred&lt;/b&gt;"):
        assert word in verdict
    # the image itself, and what was measured on it, stay in the tables of all images
    rows = {row["image"]: row for row in read_table(tmp_path / "after" / "manifest.tsv")}
    assert float(rows["006_T1w"]["denoise.sigma_before"]) > 0
    classes = re.search(r'<table class="classes">.*?</table>', page, re.S)[0]
    assert '<th scope="row">006' not in classes and '<th scope="row">005' in classes


def test_ratings_that_cannot_be_read_do_not_stop_the_report(plain, tmp_path):
    work = rejecting(plain, tmp_path, "006_T1w")
    (work / "cohort" / "ratings.tsv").write_bytes(b"image\trating\xff\n\xff\n")
    assert "ratings.tsv cannot be read" in write_report(work, tmp_path / "results", CONFIG, STAGES).read_text()


def test_a_training_does_not_see_what_a_rater_rejected(tmp_path):
    from cohortex.records import write_manifest
    from cohortex.training.run import training_images

    names = ["a_T1w", "b_T1w", "c_T1w"]
    rows = [{"subject": name[0], "image": name, "modality": "T1w", "kind": "image", "role": "image", "status": "ok"} for name in names]
    rows += [{**rows[0], "image": "a_T1w+seg", "kind": "labels", "role": "labels"}]
    (tmp_path / "record" / "b1").mkdir(parents=True)
    write_manifest(tmp_path / "record" / "b1" / "manifest.tsv", [{**row, "path": f"{row['image']}.ozx"} for row in rows])
    write_table(tmp_path / "cohort" / "batches" / "b1.tsv", ("image", "split"), [{"image": name, "split": "train"} for name in names])
    found = [image.id for image in training_images(["images"], [str(tmp_path / "record" / "b1")], tmp_path)]
    assert sorted(found) == ["a_T1w", "a_T1w+seg", "b_T1w", "c_T1w"]
    write_table(tmp_path / "cohort" / "ratings.tsv", ("image", "rating"), [{"image": "a_T1w", "rating": "reject"}])
    found = [image.id for image in training_images(["images"], [str(tmp_path / "record" / "b1")], tmp_path)]
    assert found == ["b_T1w", "c_T1w"]
    write_table(tmp_path / "cohort" / "ratings.tsv", ("image", "rating"), [{"image": name, "rating": "reject"} for name in names])
    with pytest.raises(Refused, match="look at the ratings"):
        training_images(["images"], [str(tmp_path / "record" / "b1")], tmp_path)
