"""Checks a mapping against a JSON schema, in milliseconds and with sentences that a scientist understands.

The Snakefile is parsed again by every job, and the usual library takes longer to import than all the rest of the
parsing; so the part of JSON Schema 2020-12 that the files in ``schemas/`` use is read here. A test holds that they
use nothing else, and that both agree.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

Schema = Mapping[str, Any]

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"

NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
CHECKED = {
    *("$ref", "type", "enum", "const", "anyOf", "oneOf", "properties", "patternProperties", "additionalProperties", "required"),
    *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "propertyNames"),
}
"""The keywords that mean something here."""
SILENT = {"$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples"}
"""The keywords that only tell."""


@cache
def read_schema(name: str) -> Schema:
    """Return the schema `name` (a path inside ``schemas/``); an open one while there is no such file."""
    path = SCHEMAS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check(value: Any, name: str) -> tuple[Any, list[str]]:
    """Check `value` against the schema `name`.

    Returns
    -------
    value
        With defaults of absent keys filled in, whole floats where a whole number is wanted turned into one, and text
        read as the truth value or null that is wanted, inside a mapping also as the number (Snakemake's ``--config``
        hands over these as text, see `_from_text`).
    problems : list of str
        One sentence each; empty when all is well.
    """
    problems: list[str] = []
    return _check(value, read_schema(name), name, "", problems), problems


def known(kind: str, value: Any) -> bool:
    """Say whether a value is of a JSON type; a truth value is no number."""
    if kind == "integer":
        return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "object": isinstance(value, Mapping),
        "array": isinstance(value, list | tuple),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
    }[kind]


def shown(value: Any) -> str:
    """Say what a value is, for a message."""
    if isinstance(value, str):
        return f"the text '{value}'" if len(value) <= 60 else f"the text '{value[:57]}...'"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a mapping" if isinstance(value, Mapping) else "a list"


@cache
def pattern(expression: str) -> re.Pattern[str]:
    """Return a schema's expression as one whose closing ``$`` stands for the end and not for a last line break."""
    return re.compile(expression[:-1] + r"\Z" if expression.endswith("$") else expression)


def nearest(word: str, words: list[str]) -> str:
    """Return ``; did you mean X?`` for the nearest of `words`, or what there is to choose from."""
    near = difflib.get_close_matches(word.lower(), [each.lower() for each in words], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {next(each for each in words if each.lower() == near[0])}?"
    return f"; known here: {', '.join(words)}" if words else ""


def follow(schema: Schema, file: str) -> tuple[Schema, str]:
    """Return what a schema of a file stands for where it is a reference, and in which file that stands."""
    while "$ref" in schema:
        place, _, pointer = schema["$ref"].partition("#")
        if place:
            file = str((Path(file).parent / place).as_posix())
        schema = read_schema(file)
        for step in pointer.strip("/").split("/") if pointer else ():
            schema = schema[step]
    return schema, file


def _from_text(value: Any, types: list[str], inner: bool) -> Any:
    """Return what a text says where no text is wanted; the text itself where it says nothing.

    Snakemake's ``--config`` hands over ``true`` and ``null`` as text, and inside braces (`inner`) everything.
    """
    if not isinstance(value, str):
        return value
    if value == "null" and "null" in types:
        return None
    if "string" in types:
        return value
    if value.lower() in ("true", "false") and "boolean" in types:
        return value.lower() == "true"
    if inner and value.lower() in ("none", "") and "null" in types:
        return None
    if inner and ("integer" in types or "number" in types):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _check(value: Any, schema: Schema, file: str, path: str, problems: list[str]) -> Any:
    schema, file = follow(schema, file)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else list(types)
    value = _from_text(value, types or ["string"], inner="." in path or "[" in path)
    if types and not any(known(kind, value) for kind in types):
        hint = ""
        if "string" in types and not isinstance(value, Mapping | list):
            hint = "; put it in quotes" if "." in path else "; put it in quotes, or write ./ before a path that looks like a number"
        problems.append(f"{path or 'the configuration'} is {shown(value)}, expected {' or '.join(NAMES[kind] for kind in types)}{hint}.")
        return value
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            value = _choose(value, schema[choice], file, path, problems)
    if "enum" in schema and not any(
        value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in schema["enum"]
    ):
        allowed = ", ".join("null" if each is None else str(each) for each in schema["enum"])
        problems.append(f"{path} is {shown(value)}, allowed: {allowed}.")
    if "const" in schema and value != schema["const"]:
        problems.append(f"{path} is {shown(value)}, allowed: {schema['const']}.")
    if isinstance(value, Mapping):
        return _mapping(value, schema, file, path, problems)
    if isinstance(value, list | tuple):
        return _list(list(value), schema, file, path, problems)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        value = int(value)
    problems.extend(_bounds(value, schema, path))
    return value


def _choose(value: Any, choices: list[Schema], file: str, path: str, problems: list[str]) -> Any:
    """Take the first of several schemas that fits; tell what the nearest one minds."""
    tried: list[list[str]] = []
    for choice in choices:
        found: list[str] = []
        taken = _check(value, choice, file, path, found)
        if not found:
            return taken
        tried.append(found)
    kinds = [each for each in tried if not any(" expected " in problem and problem.startswith(f"{path} is ") for problem in each)]
    if kinds:
        problems.extend(kinds[0])
    else:
        wanted = dict.fromkeys(problem.split(" expected ", 1)[1].split(";")[0].rstrip(".") for each in tried for problem in each)
        problems.append(f"{path} is {shown(value)}, expected {' or '.join(wanted)}.")
    return value


def _mapping(value: Mapping[str, Any], schema: Schema, file: str, path: str, problems: list[str]) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    patterns: Mapping[str, Schema] = schema.get("patternProperties", {})
    rest = schema.get("additionalProperties", True)
    result: dict[str, Any] = {}
    for key, below in value.items():
        place = f"{path}.{key}" if path else str(key)
        if "propertyNames" in schema:
            _check(str(key), {"type": "string", **schema["propertyNames"]}, file, f"the key {place}", problems)
        fits = next((patterns[each] for each in patterns if pattern(each).search(str(key))), None)
        if key in properties:
            result[key] = _check(below, properties[key], file, place, problems)
        elif fits is not None:
            result[key] = _check(below, fits, file, place, problems)
        elif rest is False:
            problems.append(f"Unknown key {place}{nearest(str(key), list(properties))}")
        else:
            result[key] = _check(below, rest, file, place, problems) if isinstance(rest, Mapping) else below
    for key, below in properties.items():
        if key not in value and "default" in below:
            result[key] = below["default"]
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        wanted = f"exactly {least}" if least == most else f"at least {least}" if len(value) < least else f"at most {most}"
        choice = f" of {', '.join(properties)}" if properties else ""
        problems.append(f"{path} has {len(value)} keys, expected {wanted}{choice}.")
    missing = [key for key in schema.get("required", ()) if key not in value]
    problems.extend(f"The key {f'{path}.{key}' if path else key} is missing." for key in missing)
    return result


def _list(value: list[Any], schema: Schema, file: str, path: str, problems: list[str]) -> list[Any]:
    for i, each in enumerate(value):
        own = schema["prefixItems"][i] if i < len(schema.get("prefixItems", ())) else schema.get("items")
        if isinstance(own, Mapping):
            value[i] = _check(each, own, file, f"{path}[{i}]", problems)
    if len(value) < schema.get("minItems", 0):
        problems.append(f"{path} has {len(value)} entries, expected at least {schema['minItems']}.")
    if len(value) > schema.get("maxItems", len(value)):
        problems.append(f"{path} has {len(value)} entries, expected at most {schema['maxItems']}.")
    if schema.get("uniqueItems"):
        twice = [each for i, each in enumerate(value) if each in value[:i]]
        problems.extend(f"{path} names {each} more than once." for each in twice)
    return value


def _bounds(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if known("number", value):
        if value != value:
            yield f"{path} is not a number, expected one."
        limits = (
            ("minimum", "at least", lambda limit: value < limit),
            ("maximum", "at most", lambda limit: value > limit),
            ("exclusiveMinimum", "more than", lambda limit: value <= limit),
            ("exclusiveMaximum", "less than", lambda limit: value >= limit),
        )
        for keyword, words, outside in limits:
            if keyword in schema and outside(schema[keyword]):
                yield f"{path} is {value}, expected {words} {schema[keyword]}."
        if "multipleOf" in schema and abs(value / schema["multipleOf"] - round(value / schema["multipleOf"])) > 1e-9:
            yield f"{path} is {value}, expected a multiple of {schema['multipleOf']}."
    if isinstance(value, str):
        if "pattern" in schema and not pattern(schema["pattern"]).search(value):
            yield f"{path} is {shown(value)}, expected text that matches {schema['pattern']}."
        if len(value) < schema.get("minLength", 0):
            yield f"{path} is empty." if not value else f"{path} is shorter than {schema['minLength']} characters."
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{path} is longer than {schema['maxLength']} characters."
