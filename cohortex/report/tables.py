"""The cohort as tables for other programs: every table as text with a data dictionary beside it, and as Parquet with typed columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cohortex.publish import atomic_path, write_json
from cohortex.report.dictionary import column, described, dictionary
from cohortex.report.harmonise import Harmonised
from cohortex.report.records import Records, Row, safe_cell
from cohortex.tables import write_table

FOLDER = "tables"
"""Below the results: a table of measures for each stage, and all tables as Parquet."""

ABOUT = ("subject", "session", "image", "kind", "role", "modality", "body_part", "status", "code", "reason")
"""What stands before the measures of a stage."""

BATCH = "batch"
"""Column of harmonised tables: what of."""

MISSING = ["", "n/a"]
BLOCK = 1 << 25
"""Bytes of text that become one group of rows."""


def write_tables(results: Path, records: Records, made: Harmonised | None = None) -> None:
    """Write ``tables/<stage>.tsv`` for every stage that has a word on something, dictionaries, and Parquet of them and the manifest.

    Harmonised measures come as ``tables/<stage>_harmonised.tsv``.

    Parameters
    ----------
    results : path
        The output folder; ``manifest.tsv`` is there.
    records : Records
    made : Harmonised, optional
    """
    folder = results / FOLDER
    folder.mkdir(exist_ok=True, mode=0o750)
    written = {"manifest"}
    for stage in records.stages:
        rows = records.told.get(stage, [])
        if not rows:
            continue
        names = sorted({name for row in rows for name in row.measures})
        path = folder / f"{stage}.tsv"
        write_table(path, [*ABOUT, *names], (_cells(row) for row in sorted(rows, key=lambda row: row.image)))
        write_json(path.with_suffix(".json"), dictionary([*ABOUT, *names], stage))
        write_parquet(path, path.with_suffix(".parquet"), lambda name, stage=stage: described(stage, name).type)
        written.add(stage)
        if made and made.columns(stage):
            written.add(_write_harmonised(folder, records, made, stage))
    manifest = results / "manifest.tsv"
    with manifest.open(encoding="utf-8", newline="") as file:
        columns = file.readline().rstrip("\n").split("\t")
    write_json(manifest.with_suffix(".json"), dictionary(columns))
    write_parquet(manifest, folder / "manifest.parquet", lambda name: column(name).type)
    for path in folder.iterdir():
        # of a chain with other stages; participants are written with the dataset
        if path.stem not in written | {"participants"} and path.suffix in (".tsv", ".json", ".parquet"):
            path.unlink()
    for path in (*folder.iterdir(), manifest.with_suffix(".json")):
        path.chmod(0o640)


def _write_harmonised(folder: Path, records: Records, made: Harmonised, stage: str) -> str:
    """Write the harmonised measures of a stage and return the name of their table."""
    names, rows = made.columns(stage), {row.image: row for row in records.told.get(stage, [])}
    found = []
    for part in made.parts:
        if part.stage == stage:
            for image, batch, values in zip(part.images, part.batches, part.values.tolist(), strict=True):
                told = {name: value for name, value in zip(part.measures, values, strict=True) if value == value}
                about = {name: safe_cell(getattr(rows[image], name)) for name in ABOUT}
                found.append({**about, BATCH: safe_cell(batch), **told})
    path = folder / f"{stage}_harmonised.tsv"
    columns = [*ABOUT, BATCH, *names]
    write_table(path, columns, sorted(found, key=lambda row: row["image"]))
    told = dictionary([*ABOUT, *names], stage)
    for name in names:
        told[name]["Description"] += "; shift and scale of the batch taken out by ComBat"
    told[BATCH] = {"Description": "Batch whose shift and scale were taken out (report: harmonise: batch)"}
    write_json(path.with_suffix(".json"), {name: told[name] for name in columns})
    kinds = dict.fromkeys(names, "number") | {BATCH: "word"}
    write_parquet(path, path.with_suffix(".parquet"), lambda name: kinds.get(name) or described(stage, name).type)
    return path.stem


def _cells(row: Row) -> dict[str, str]:
    told = {name: getattr(row, name) for name in ABOUT} | dict(row.measures)
    return {name: safe_cell(value) for name, value in told.items()}


def write_parquet(source: Path, target: Path, type_of: Callable[[str], str]) -> None:
    """Write a table of text as Parquet.

    Parameters
    ----------
    source : path
        Tabs between the cells, no quotes.
    type_of : callable
        Declared type of a column (`cohortex.report.dictionary.Described`). A column whose cells are not all of it is text; one without
        a declared type is what its cells are: whole numbers, numbers, true and false, or text.

    Notes
    -----
    Empty cells and ``n/a`` are null. The table is read twice, a block at a time, so memory does not grow with the cohort; the same
    table gives the same bytes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with source.open(encoding="utf-8", newline="") as file:
        names = file.readline().rstrip("\n").split("\t")
    order = {"count": [pa.int64(), pa.float64()], "number": [pa.float64()], "flag": [pa.bool_()], "word": []}
    types = {name: [*order.get(type_of(name), [pa.int64(), pa.float64(), pa.bool_()]), pa.string()] for name in names}
    declared = {name: bool(type_of(name)) for name in names}
    empty = set(names)
    for batch in _batches(source, names):
        for name, values in zip(names, batch.columns, strict=True):
            if values.null_count < len(values):
                empty.discard(name)
            while len(types[name]) > 1 and not _fits(values, types[name][0], declared[name]):
                types[name].pop(0)
    schema = pa.schema([(name, types[name][0] if name not in empty or declared[name] else pa.string()) for name in names])
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in _batches(source, names):
            columns = [pc.cast(values, field.type) for values, field in zip(batch.columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _fits(values: Any, kind: Any, declared: bool) -> bool:
    """Tell whether all cells of a column can be of a type; a code such as 007 is no number unless it is declared to be one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not declared and any(re.match(r"[+-]?0\d", text or "") for text in values.unique().to_pylist()):
        return False
    try:
        pc.cast(values, kind)
    except pa.ArrowInvalid:
        return False
    return True


def _batches(source: Path, names: list[str]) -> Iterator[Any]:
    """Give the cells of a table as text, a block of lines at a time."""
    import pyarrow as pa
    from pyarrow import csv

    kinds: Mapping[str, Any] = dict.fromkeys(names, pa.string())
    convert = csv.ConvertOptions(column_types=kinds, null_values=MISSING, strings_can_be_null=True)
    reading = csv.ReadOptions(block_size=BLOCK, use_threads=False)
    with csv.open_csv(source, reading, csv.ParseOptions(delimiter="\t", quote_char=False), convert) as reader:
        yield from reader
