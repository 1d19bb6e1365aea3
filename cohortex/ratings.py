"""What raters said of the images: their tables, strictly read, and which images the report and trainings leave out.

The head process writes ``<work>/cohort/ratings.tsv`` (only when its content changes), which the rule of the report waits for. An image
that any rater rejects is left out, whatever others say of it. Imported by the head process of every run: nothing heavy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("image", "rating", "note", "rater", "date")
"""Of a table of ratings; ``image`` and ``rating`` must be there."""
RATINGS = ("accept", "reject", "unsure")
NAMED = 5
"""So many ids are named in one message."""


@dataclass(frozen=True)
class Rating:
    """What one rater said of one image."""

    image: str
    rating: str
    note: str = ""
    rater: str = ""
    date: str = ""


def make_ratings(config: Mapping[str, Any]) -> None:
    """Read the tables that the configuration names and write ``<work>/cohort/ratings.tsv``, unless it says the same already.

    Parameters
    ----------
    config : mapping
        As checked; ``ratings`` is None, a path or a list of paths. ``<work>/cohort/cohort.tsv`` must be there.

    Raises
    ------
    Refused
        See `read_ratings`.
    """
    from cohortex.cohort.table import write_if_changed
    from cohortex.tables import read_columns, table_text

    folder = Path(config["work"]) / "cohort"
    given = config.get("ratings") or []
    paths = [given] if isinstance(given, str) else list(given)
    ratings: list[Rating] = []
    if paths:
        ratings, told = read_ratings(paths, {image for (image,) in read_columns(folder / "cohort.tsv", ["image"])})
        _say(told)
    write_if_changed(folder / "ratings.tsv", table_text(COLUMNS, map(asdict, ratings)))


def read_ratings(paths: Sequence[str | Path], images: Iterable[str]) -> tuple[list[Rating], list[str]]:
    """Read tables of ratings of one or several raters.

    Parameters
    ----------
    paths : sequence of path
        Tables of tab-separated text. Where the column ``rater`` is empty or not there, the table's name stands for the rater.
    images : iterable of str
        Ids of the cohort.

    Returns
    -------
    ratings : list of Rating
        Of the cohort's images, sorted by image and rater, one a rater.
    told : list of str
        A sentence on each table that names images that are not in this cohort.

    Raises
    ------
    Refused
        Naming table and line: a column that is missing, a word that is no rating, an id that is written otherwise or is that of something
        derived, two different ratings of an image by one rater, a table of which no image is in the cohort.
    """
    from cohortex.cohort.table import read_table, some
    from cohortex.errors import Refused
    from cohortex.schema import nearest

    known = {name for name in images if "+" not in name}  # masks and labels go with their image
    folded = {name.casefold(): name for name in known}
    found: dict[tuple[str, str], tuple[Rating, str]] = {}
    told, problems = [], []
    for path in map(Path, paths):
        columns, rows = read_table(path, COLUMNS[:2])
        odd = [name for name in columns if name not in COLUMNS and name.lower() in COLUMNS]
        if odd:
            raise Refused(f"{path.name} line 1: the column {odd[0]} is written {odd[0].lower()}, in lower case.")
        elsewhere: list[str] = []
        for number, cells in rows:
            where = f"{path.name} line {number}"
            one = Rating(**{name: _unquoted(cells.get(name, "")) for name in COLUMNS})
            one = Rating(one.image, one.rating.lower(), one.note, one.rater or path.stem, one.date)
            if one.rating not in RATINGS:
                problems.append(f"{where}: the rating is {one.rating!r}{nearest(one.rating, list(RATINGS))}")
            elif one.image not in known and (problem := _misspelt(one.image, folded)):
                problems.append(f"{where}: {problem}")
            elif one.image not in known:
                elsewhere.append(one.image)
            else:
                before = found.setdefault((one.image, one.rater), (one, where))
                if before[0].rating != one.rating:
                    problems.append(
                        f"{before[1]} and {where}: {one.rater} rates {one.image} {before[0].rating} and {one.rating}; keep one of them"
                    )
                elif one.date > before[0].date:
                    found[one.image, one.rater] = one, where
        if rows and len(elsewhere) == len(rows) and not problems:
            raise Refused(f"{path.name}: none of its {len(rows)} images is in this cohort; is it a table of another one?")
        if elsewhere:
            more = f" and {len(elsewhere) - NAMED} more" if len(elsewhere) > NAMED else ""
            told.append(f"{path.name}: not in this cohort, so not looked at: {', '.join(elsewhere[:NAMED])}{more}.")
    if problems:
        raise Refused(f"Ratings: {some(problems)}.")
    return [rating for _, (rating, _) in sorted(found.items())], told


def ratings_of(work: Path) -> list[Rating]:
    """Return the ratings that hold for a run; none where its folder has no table of them."""
    from cohortex.tables import read_columns

    path = work / "cohort" / "ratings.tsv"
    return [Rating(*cells) for cells in read_columns(path, COLUMNS)] if path.is_file() else []


def left_out(ratings: Iterable[Rating]) -> dict[str, list[Rating]]:
    """Return by image the ratings that reject it: one is enough, whatever others say.

    Examples
    --------
    >>> left_out([Rating("001_T1w", "reject", rater="a"), Rating("001_T1w", "accept", rater="b"), Rating("002_T1w", "unsure")])
    {'001_T1w': [Rating(image='001_T1w', rating='reject', note='', rater='a', date='')]}
    """
    found: dict[str, list[Rating]] = defaultdict(list)
    for one in ratings:
        if one.rating == "reject":
            found[one.image].append(one)
    return dict(found)


def _misspelt(image: str, folded: Mapping[str, str]) -> str:
    """Say what is wrong with an id that the cohort does not have; nothing where it may be that of another cohort."""
    if not image:
        return "the cell image is empty"
    base, derived, _ = image.partition("+")
    if derived:
        return f"{image} is no image but goes with one; rate {base} itself"
    other = folded.get(image.casefold()) or folded.get(image.removeprefix("sub-").casefold())
    return f"the cohort has no image {image}; did you mean {other}?" if other else ""


def _unquoted(cell: str) -> str:
    """Return a cell without the apostrophe that kept a spreadsheet from computing it."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@") else cell


def _say(sentences: Iterable[str]) -> None:
    import sys

    for sentence in sentences:
        sys.stderr.write(f"cohortex: {sentence}\n")
