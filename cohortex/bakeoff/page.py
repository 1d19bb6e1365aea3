"""Writes the leaderboard of a bake-off: a table, a Markdown page, an HTML page, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.board import Board, leaderboard, read_scores, table
from cohortex.bakeoff.pictures import ENLARGED, SMALL, montage, pictures_of, save_png
from cohortex.bakeoff.words import about_search, beside, caption, cells, facts, gain, headings, trained
from cohortex.publish import atomic_path, write_text
from cohortex.report.html import environment, policy, source
from cohortex.report.pictures import png
from cohortex.tables import write_table


def write_page(scores: Sequence[Path], adjust: Path | None, folder: Path, config: Mapping[str, Any], task: str) -> Board:
    """Write ``leaderboard.tsv``, ``leaderboard.md``, ``index.html`` and ``pictures`` into a folder.

    Parameters
    ----------
    scores : sequence of Path
        What the scoring of each system left.
    adjust : Path or None
        What the search of settings left.
    folder : Path
    config : mapping
    task : str
    """
    scored = [read_scores(each) for each in scores]
    asked = config["bakeoff"][task]
    board = leaderboard(scored, task, asked["against"], float(asked.get("overlap", 0.5)))
    searched = json.loads((adjust / "evaluation.json").read_text(encoding="utf-8")) if adjust else None
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "leaderboard.tsv", *table(board))
    shown, factor = pictures_of(board, scored, ENLARGED)
    with atomic_path(folder / "pictures") as temporary:
        temporary.mkdir()
        if shown:
            save_png(montage(pictures_of(board, scored, SMALL)[0], board), temporary / "compared.png")
    write_text(folder / "leaderboard.md", markdown(board, config, searched, factor if shown else None))
    write_text(folder / "index.html", html(board, config, searched, shown, factor))
    return board


def markdown(board: Board, config: Mapping[str, Any], searched: Mapping[str, Any] | None, factor: float | None) -> str:
    """Return the page as Markdown."""
    lines = [f"# {board.kind.title}", "", *(f"- {sentence}" for sentence in facts(board, config)), "", "## Leaderboard", ""]
    # One interval: with those of all measures the table is too wide to be read. They are in leaderboard.tsv and on the page.
    first, named = board.ranked_by, headings(board)
    place = 2 + list(board.kind.measures).index(first)
    digits = board.kind.measures[first].digits
    rows = [[*(own := cells(line, board))[:place], gain(line, first, digits), *own[place:], trained(line)] for line in board.lines]
    lines += _table([*named[:place], "difference", *named[place:], "training"], rows)
    for each in beside(board):
        lines += ["", f"## {each.title}", "", each.about, "", *_table(each.headings, each.rows)]
    if searched is not None:
        lines += ["", "## Settings", "", about_search(searched)]
    if factor is not None:
        lines += ["", "## Pictures", "", caption(board, factor), "", "![The systems on one slice](pictures/compared.png)"]
    return "\n".join(lines) + "\n"


def html(
    board: Board,
    config: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    factor: float,
) -> str:
    """Return the page as one HTML file with its pictures inside."""
    templates = environment()
    style = source(templates, "style.css")
    measures = board.kind.measures
    return templates.get_template("bakeoff.html").render(
        title=board.kind.title,
        style=style,
        policy=policy(style),
        facts=facts(board, config),
        headings=headings(board),
        lines=[
            (line, cells(line, board), ["", *(gain(line, name, each.digits) for name, each in measures.items())], trained(line))
            for line in board.lines
        ],
        chosen=board.chosen,
        tables=beside(board),
        searched=about_search(searched) if searched else "",
        caption=caption(board, factor),
        pictures={
            name: {what: (png(picture), picture.shape[1], picture.shape[0]) for what, picture in some.items()}
            for name, some in shown.items()
        },
    )


def _table(named: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [named, ["---"] * len(named), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
