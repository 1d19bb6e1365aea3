"""The page of the configuration, docs/configuration.md, written out of config.yaml, its comments and the schemas.

``python -m cohortex.config_reference`` writes it, with ``--check`` it only says whether the page is what it would write.
"""

from __future__ import annotations

import argparse
import html
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cohortex.schema import Schema, follow, read_schema
from cohortex.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
FILE = "config.schema.json"
HEAD = """\
# Configuration reference

<!-- Written by `python -m cohortex.config_reference` out of config.yaml and schemas/: change those. -->

Every key, in the order of `config.yaml`. How to give your own values, and how an entry of a modality is laid over `default`, is told under
[Settings](guide/settings.md). A key below a section is written with dots: `denoise.default.strength` is

```yaml
denoise:
  default: {strength: 0.8}
```

An unknown key is refused with the nearest known one, and so is a value of another type or outside its range, before anything starts.
"""
KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "null": "`null`",
    "object": "mapping",
}
AGAIN = ("as above", "the same")
"""How a comment of config.yaml begins that only points to one above it."""


@dataclass(frozen=True)
class Key:
    """One row: where it stands (without ``default`` of a stage), what may be said, the default, what it means."""

    path: tuple[str, ...]
    shown: str
    allowed: str
    default: str
    meaning: str


def comments(text: str) -> dict[tuple[str, ...], str]:
    """Return the comment above every key of config.yaml, by the path of the key."""
    found: dict[tuple[str, ...], str] = {}
    open_keys: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        word, indent = line.strip(), len(line) - len(line.lstrip())
        if word.startswith("#"):
            above.append(word.lstrip("# "))
            continue
        if key := re.match(r"([\w-]+):", word):
            open_keys = [each for each in open_keys if each[0] < indent] + [(indent, key[1])]
            if above:
                found[tuple(name for _, name in open_keys)] = " ".join(above)
        above = []
    return found


def allowed(schema: Schema, file: str) -> str:
    """Say in words what a schema lets through: choices, types, ranges."""
    schema, file = follow(schema, file)
    if "enum" in schema:
        return ", ".join(_code(each) for each in schema["enum"])
    if "const" in schema:
        return _code(schema["const"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(allowed(each, file) for each in schema[choice]))
    types = schema.get("type", [])
    said = []
    for kind in [types] if isinstance(types, str) else types:
        if kind == "array":
            said.append(_listed(schema, file))
        elif kind in ("integer", "number"):
            said.append(f"{KINDS[kind]}{_range(schema)}")
        else:
            said.append(KINDS[kind])
    return " or ".join(said) or "anything"


def _listed(schema: Schema, file: str) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    many = str(least) if least == most else f"{least} to {most}" if most else f"at least {least}" if least > 1 else ""
    entries = schema.get("prefixItems") or [schema.get("items", {})]
    each = " and ".join(dict.fromkeys(allowed(entry, file) for entry in entries))
    return f"list of {each}" + (f" ({many} of them)" if many else "")


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    lower = f"from {low}" if low is not None else f"above {above}" if above is not None else ""
    upper = f"to {high}" if high is not None else f"below {below}" if below is not None else ""
    said = " ".join(filter(None, (lower, upper)))
    return f" {said}" if said else ""


def _code(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).replace("\n...", "").strip()
    return f"`{text}`"


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def _sentence(text: str, choices: Sequence[Any] = ()) -> str:
    """Return a comment or description as a sentence in a cell: no bars, mappings and lists as code, pages as links."""
    text = re.sub(r"\s+\|\s+", " / ", text.strip())
    first = re.match(r"[a-z]+(?=[ ,])", text)
    if first and first[0] not in {*map(str, choices), "null", "true", "false"} and not re.match(r"\S+ [/(]", text):
        text = text[:1].upper() + text[1:]
    pieces = [piece if code else html.escape(piece, quote=False) for code, piece in _coded(text)]
    text = re.sub(r"docs/([\w/]+\.md)", r"[\1](\1)", "".join(pieces))
    return text if not text or text.endswith((".", ":", "!", "?")) else f"{text}."


def _coded(text: str) -> Iterator[tuple[bool, str]]:
    """Yield a text in pieces, and whether each is code: what stands in backticks, braces or brackets, which gets backticks."""
    plain, depth, start = 0, 0, 0
    for at, sign in enumerate(text):
        ticked = sign == "`"
        if depth == 0 and (ticked or sign in "{["):
            yield False, text[plain:at]
            start, depth = at, 1
        elif sign in "{[" and text[start] != "`":
            depth += 1
        elif depth and ((ticked and text[start] == "`") or (sign in "}]" and text[start] != "`")):
            depth -= 1
            if depth == 0:
                yield True, text[start : at + 1] if ticked else f"`{text[start : at + 1]}`"
                plain = at + 1
    yield False, text[plain:]


def meaning(comment: str, description: str, choices: Sequence[Any] = ()) -> str:
    """Return what a key means: the comment of config.yaml, and the schema's description where that says something else."""
    comment = "" if comment.lower().startswith(AGAIN) else comment
    if not comment or not description:
        return _sentence(comment or description, choices)
    told = _words(description)
    if len(told & _words(comment)) > 0.4 * len(told):
        return _sentence(comment, choices)
    return f"{_sentence(description, choices)} {_sentence(comment, choices)}"


def keys(
    schema: Schema, file: str, path: tuple[str, ...], value: Any, told: Mapping[tuple[str, ...], str], section: int, shown: str = ""
) -> Iterator[Key]:
    """Yield the rows of a mapping's keys and of those below them.

    Parameters
    ----------
    path : tuple of str
        Of the mapping in config.yaml.
    value
        What config.yaml has there.
    told : mapping
        Comments by path.
    section : int
        How many keys of the path name the section.
    shown : str
        What the names of its keys begin with.
    """
    for name, given in schema.get("properties", {}).items():
        below, place = follow(given, file)
        own, label = (*path, name), f"{shown}{name}"
        has = isinstance(value, Mapping) and name in value
        default = value[name] if has else given.get("default", below.get("default", inspect.Parameter.empty))
        inner = next((each for each in (below, *below.get("anyOf", ()), *below.get("oneOf", ())) if "properties" in each), None)
        items, items_file = follow(below["items"], place) if "items" in below else ({}, place)
        said = below.get("description", "")
        parts = inner is not None and has and isinstance(value[name], Mapping)
        yield Key(
            path=own,
            shown=label,
            allowed="mapping" if parts else allowed(below, place),
            default="" if parts or default is inspect.Parameter.empty else _code(default),
            meaning=meaning("" if parts and said else told.get(own, ""), said, below.get("enum", ())),
        )
        if inner is not None:
            yield from keys(inner, place, own, value[name] if has else _defaults(own), told, section, f"{label}.")
        elif "properties" in items:
            yield from keys(items, items_file, own, {}, told, section, f"{label}[].")


def _defaults(path: tuple[str, ...]) -> dict[str, Any]:
    """Return the defaults of a filter's parameters, which are those of its function."""
    if path[0] != "preprocess" or "filters" not in path:
        return {}
    from cohortex.filters.chain import FILTERS

    parameters = inspect.signature(FILTERS[path[-1]]).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def anchor(path: Sequence[str]) -> str:
    """Return the anchor of a key: its path without ``default``, joined by hyphens."""
    return "-".join(part for number, part in enumerate(path) if not (number == 1 and part == "default" and path[0] in STAGES))


def table(rows: Sequence[Key]) -> list[str]:
    """Return the lines of a table of keys."""
    lines = ["| key | what may be said | default | what it means |", "|---|---|---|---|"]
    for row in rows:
        cells = (f'<a id="{anchor(row.path)}"></a>`{row.shown}`', row.allowed, row.default, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def page(root: Path = ROOT) -> str:
    """Return the whole page."""
    text = (root / "config.yaml").read_text(encoding="utf-8")
    config, told, schema = yaml.safe_load(text), comments(text), read_schema(FILE)
    parts = {name: follow(schema["properties"][name], FILE) for name in config}
    plain = [name for name, (below, _) in parts.items() if "properties" not in below]
    rest = [name for name in config if name not in plain]
    lines = [HEAD, "Sections: [general](#general), " + ", ".join(f"[{name}](#{name})" for name in rest) + ".", "", "## General", ""]
    general = {"properties": {name: schema["properties"][name] for name in plain}}
    lines += table(list(keys(general, FILE, (), config, told, 0)))
    for name in rest:
        lines += _section(name, *parts[name], schema["properties"][name], config[name], told)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, below: Schema, file: str, given: Schema, value: Any, told: Mapping[tuple[str, ...], str]) -> list[str]:
    lines = [f"## {name}", ""]
    description = re.sub(
        r": `default`, overlaid by the entry of an image's modality$",
        "",
        given.get("description") or below.get("description") or below.get("title", ""),
    )
    lines += [meaning(told.get((name,), ""), description), ""]
    if name in STAGES:
        inner, place = follow(below["properties"]["default"], file)
        lines += table(list(keys(inner, place, (name, "default"), value["default"], told, 2)))
        if shipped := {each: entry for each, entry in value.items() if each != "default"}:
            lines += ["As shipped, laid over `default` for images of these modalities:", "", *_yaml({name: shipped})]
    elif all("properties" in follow(each, file)[0] for each in below["properties"].values()):
        for part, schema in below["properties"].items():
            inner, place = follow(schema, file)
            lines += [f"### {name}.{part}", "", *([_sentence(inner["description"]), ""] if "description" in inner else [])]
            lines += table(list(keys(inner, place, (name, part), value.get(part, {}), told, 2)))
    else:
        lines += table(list(keys(below, file, (name,), value, told, 1)))
    for example in [*given.get("examples", ()), *(below.get("examples", ()) if below is not given else ())]:
        lines += ["For example:", "", *_yaml({name: example})]
    return lines


def _yaml(value: Any) -> list[str]:
    return ["```yaml", yaml.safe_dump(value, default_flow_style=None, sort_keys=False, width=120).rstrip(), "```", ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser("cohortex.config_reference", description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where the page is another")
    options = parser.parse_args(arguments)
    text = page()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.stderr.write("docs/configuration.md is not what config.yaml and schemas/ say: run python -m cohortex.config_reference\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
