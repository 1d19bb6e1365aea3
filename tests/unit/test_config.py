"""What the configuration may say."""

import json
import subprocess
import sys
from datetime import date

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from cohortex import schema
from cohortex.config import canonical, check_config, check_files, let_said_win, resolve_weights, settings_for
from cohortex.errors import Refused
from cohortex.schema import CHECKED, SCHEMAS, SILENT, check
from cohortex.stages import STAGES, USUAL


@pytest.fixture
def config(root):
    """The shipped configuration."""
    return yaml.safe_load((root / "config.yaml").read_text())


def refused(config, **changes):
    with pytest.raises(Refused) as caught:
        check_config({**config, **changes})
    return str(caught.value)


def test_the_shipped_configuration_is_accepted_and_says_what_it_says(config):
    checked = check_config(config)
    assert {key: checked[key] for key in config} == config


def out_of_step(value, described, file, path):
    """Yield where a mapping of the shipped configuration and its schema have other keys or another default."""
    described, file = schema.follow(described, file)
    for key in {*value, *described["properties"]} if "properties" in described else ():
        place = f"{path}.{key}".lstrip(".")
        if key not in described["properties"] and "patternProperties" not in described:
            yield f"{place} is not in the schema"
        elif key in described["properties"] and key not in value:
            yield f"{place} is not in config.yaml"
        elif key in described["properties"]:
            below, _ = schema.follow(described["properties"][key], file)
            if isinstance(value[key], dict):
                yield from out_of_step(value[key], described["properties"][key], file, place)
            elif below.get("default", value[key]) != value[key]:
                yield f"{place} has another default in the schema"
            elif "description" not in below:
                yield f"{place} has no description in the schema"


def test_the_shipped_configuration_and_the_schema_have_the_same_keys_and_defaults(config):
    assert list(out_of_step(config, schema.read_schema("config.schema.json"), "config.schema.json", "")) == []


def test_every_key_of_the_shipped_configuration_stands_below_a_comment(root):
    """A mapping may be explained by the comment above it, or by comments above all its keys."""
    lines = (root / "config.yaml").read_text().splitlines()
    bare = []
    explained = {-1: False}  # by indentation: whether the mapping that is open there has a comment
    for number, line in enumerate(lines):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text or text.startswith(("#", "-")):
            continue
        explained = {column: said for column, said in explained.items() if column < indent}
        said = lines[number - 1].strip().startswith("#")
        if not text.endswith(":") and not said and not explained[max(explained)]:
            bare.append(line)
        # the comment above a stage's section or above all of it tells nothing of its keys
        explained[indent] = said and indent > 2 and text.endswith(":")
    assert bare == []


def test_the_schema_has_a_section_for_every_stage():
    properties = schema.read_schema("config.schema.json")["properties"]
    assert set(STAGES) <= set(properties)
    assert properties["stages"]["items"]["enum"] == list(STAGES)
    assert properties["stages"]["default"] == list(USUAL)


def test_an_unknown_key_is_named_with_the_nearest_known_one(config):
    assert refused(config, inptu="x") == "Unknown key inptu; did you mean input?"
    assert "Unknown key export.default.dsec; did you mean desc?" in refused(config, export={"default": {"dsec": "a"}})
    assert "Unknown key quarantine.tolerte; did you mean tolerate?" in refused(config, quarantine={"tolerte": 0.1})


def test_a_modality_in_the_wrong_case_is_refused_with_the_right_one(config):
    assert "Unknown key denoise.t1w; did you mean T1w?" in refused(config, denoise={"t1w": {}})
    assert check_config({**config, "denoise": {"default": {}, "CT": {}, "MyOwn": {}}})["denoise"]["MyOwn"] == {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": "four"}, "batch_size is the text 'four', expected a whole number."),
        ({"batch_size": "4"}, "batch_size is the text '4', expected a whole number."),
        ({"batch_size": True}, "batch_size is the truth value true, expected a whole number."),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1."),
        ({"seed": 1.5}, "seed is the number 1.5, expected a whole number."),
        ({"device": "gpu"}, "device is the text 'gpu', allowed: auto, cpu, cuda."),
        ({"fingerprint": False}, "fingerprint is the truth value false, allowed: mtime, size, sha256."),
        ({"stages": "acquire"}, "stages is the text 'acquire', expected a list."),
        ({"quarantine": {"tolerate": 1.5}}, "quarantine.tolerate is 1.5, expected at most 1."),
        ({"export": None}, "export is null, expected a mapping."),
        ({"select": {"session": [1]}}, "select.session[0] is the number 1, expected text; put it in quotes."),
        ({"input": 1}, "input is the number 1, expected text; put it in quotes, or write ./ before a path that looks like a number."),
        ({"input": ""}, "input is empty."),
        ({"output": None}, "output is null, expected text; put it in quotes, or write ./ before a path that looks like a number."),
        ({"body_part": "head\n"}, "body_part is the text 'head\n', expected text that matches ^[a-z0-9]+$."),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected_and_found(config, changes, sentence):
    assert sentence in refused(config, **changes)


def test_stages_are_known_stand_once_and_go_from_acquire_to_export(config):
    assert "stages[1] is the text 'denoize', allowed: acquire" in refused(config, stages=["acquire", "denoize", "export"])
    assert "stages names denoise more than once" in refused(config, stages=["acquire", "denoise", "denoise", "export"])
    assert "put acquire first" in refused(config, stages=["denoise", "export"])
    assert "put export last" in refused(config, stages=["acquire", "denoise"])
    assert "keep names denoise" in refused(config, stages=["acquire", "export"], keep=["denoise"])
    assert check_config({**config, "stages": ["acquire", "regseg", "denoise", "export"]})["stages"][1] == "regseg"


def test_every_problem_is_told_at_once(config):
    assert len(refused(config, inptu=1, device="gpu", batch_size=0).splitlines()) == 3


def test_results_are_never_written_into_the_input_or_the_work_folder(config, tmp_path):
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    assert "output and input are the same" in refused(config, input=str(data), output=str(data), work=str(tmp_path / "w"))
    assert "output lies inside input" in refused(config, input=str(data), output=str(data / "out"), work=str(tmp_path / "w"))
    assert "work lies inside input" in refused(config, input=str(data), output=str(tmp_path / "out"), work=str(data / "w"))
    assert "input lies inside output" in refused(config, input=str(data / "inner"), output=str(data), work=str(tmp_path / "w"))
    assert "output lies inside work" in refused(config, output=str(tmp_path / "w" / "out"), work=str(tmp_path / "w"))
    (tmp_path / "link").symlink_to(data)
    assert "output lies inside input" in refused(config, input=str(data), output=str(tmp_path / "link" / "out"), work=str(tmp_path / "w"))
    table = tmp_path / "cohort.tsv"
    table.write_text("subject\tmodality\tpath\n")
    assert check_config({**config, "input": str(table), "output": str(tmp_path / "out"), "work": str(tmp_path / "w")})


def test_numbers_and_truth_values_in_braces_on_the_command_line_arrive_as_text_and_are_understood(config):
    checked = check_config(
        {**config, "quarantine": {"tolerate": "0.5"}, "demo": {"subjects": "3"}, "select": {"session": ["01"], "acq": "null"}}
    )
    assert checked["quarantine"]["tolerate"] == 0.5
    assert checked["demo"]["subjects"] == 3
    assert checked["select"] == {"session": ["01"], "acq": None}
    assert "quarantine.tolerate is the text 'much', expected a number" in refused(config, quarantine={"tolerate": "much"})


def test_true_and_null_on_the_command_line_arrive_as_text_and_are_understood(config):
    checked = check_config({**config, "retrain": "true", "body_part": "null", "denoise": {"default": {"weights": "null"}}})
    assert (checked["retrain"], checked["body_part"], checked["denoise"]["default"]["weights"]) == (True, None, None)
    assert "retrain is the text 'yes', expected true or false" in refused(config, retrain="yes")


def test_what_is_left_out_gets_its_default():
    checked = check_config({})
    assert checked["batch_size"] == 4
    assert checked["denoise"] == {"default": {}}
    assert check_config({"batch_size": 4.0})["batch_size"] == 4
    assert isinstance(check_config({"batch_size": 4.0})["batch_size"], int)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\nexport:\n  default:\n    desc: a\n    desc: b\n")
    with pytest.raises(Refused, match=r"mine.yaml line 5: the key desc already stands on line 4"):
        check_files([path])


def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(Refused, match=r"mine.yaml line 1: the tag .* is not allowed"):
        check_files([path])
    assert not (tmp_path / "made").exists()
    path.write_text("a: [1, 2\nb: 3\n")
    with pytest.raises(Refused, match=r"mine.yaml line \d cannot be read as YAML"):
        check_files([path])


def test_aliases_upon_aliases_take_no_time_and_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(Refused, match=r"bomb.yaml line \d unfolds by its aliases"):
        check_files([path])


def test_what_is_of_no_use_anywhere_is_refused_by_its_name():
    cases = {
        ("denoise", 0): "Unknown key denoise.0; a modality is a word",
        ("denoise", "default"): "denoise.default has a key that is no word",
        ("seed",): "seed is a number of more than 19 digits",
        ("output",): "output is text with a letter that no file or name can hold",
        ("batch_size",): "batch_size is nan, expected a number that is finite",
        ("work",): "work is a date, expected text",
    }
    values = [{}, {None: 1}, 10**5000, "a\0b", float("nan"), date(2020, 1, 1)]
    for (path, sentence), value in zip(cases.items(), values, strict=True):
        said = value
        for key in reversed(path):
            said = {key: said}
        with pytest.raises(Refused) as refused:
            check_config(said)
        assert sentence in str(refused.value)


def test_the_same_settings_are_one_string_whatever_their_order_and_form():
    assert canonical({"b": 1.0, "a": {"y": [2.0, "2"], "x": True}}) == canonical({"a": {"x": True, "y": [2, "2"]}, "b": 1})
    assert canonical({"a": 1}) != canonical({"a": True})
    assert canonical({"a": 1}) != canonical({"a": "1"})
    assert canonical({"a": 0.1}) == '{"a":0.1}'
    assert json.loads(canonical({"a": None, "b": "é"})) == {"a": None, "b": "é"}


def test_weights_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "zoo" / "denoise" / "a").mkdir(parents=True)
    section = {
        "default": {"weights": "zoo/denoise/a", "networks": {"weights": {"T1w": "train", "CT": "/models/b", "XR": None}}},
        "CT": {"weights": "mine"},
        "T2w": {"weights": None, "list": [{"weights": "zoo/none"}]},
    }
    assert resolve_weights(section, "denoise", "w", tmp_path) == {
        "zoo/denoise/a": str(tmp_path / "zoo/denoise/a"),
        "train": "w/models/denoise",
        "/models/b": "/models/b",
        "mine": "mine",
        "zoo/none": "zoo/none",
    }
    assert resolve_weights({"default": {}}, "denoise", "w", tmp_path) == {}


def config_schemas():
    return ["config.schema.json", "demo.json", "report.json", "blocks.json", "training.json", *(f"stages/{name}.json" for name in STAGES)]


def keywords(node):
    """Yield the keywords of a schema, the names of properties left out."""
    for key, value in node.items():
        yield key
        if key in ("properties", "patternProperties", "$defs"):
            for below in value.values():
                yield from keywords(below)
        elif isinstance(value, dict) and key not in ("default", "const"):
            yield from keywords(value)
        elif key in ("anyOf", "oneOf", "prefixItems"):
            for below in value:
                yield from keywords(below)


@pytest.mark.parametrize("name", config_schemas())
def test_schemas_use_only_what_is_checked(name):
    content = schema.read_schema(name)
    Draft202012Validator.check_schema(content)
    assert set(keywords(content)) <= CHECKED | SILENT


def test_the_usual_library_agrees_on_what_is_right_and_wrong(config):
    registry = Registry(
        retrieve=lambda uri: Resource.from_contents(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema.read_schema(uri.removeprefix("https://cohortex/"))}
        )
    )
    content = {**json.loads((SCHEMAS / "config.schema.json").read_text()), "$id": "https://cohortex/config.schema.json"}
    validator = Draft202012Validator(content, registry=registry)
    changes = [
        {},
        {"seed": -1},
        {"seed": 2.0},
        {"batch_size": True},
        {"stages": []},
        {"stages": ["acquire", "acquire"]},
        {"keep": ["none"]},
        {"select": {"suffix": []}},
        {"select": {"suffix": ["T1-w"]}},
        {"labels": ""},
        {"quarantine": {"tolerate": -0.1}},
        {"export": {"default": {"nifti_limit_mb": 0}}},
        {"export": {"T1-w": {}}},
        {"export": {"CT": {"desc": "a+b"}}},
        {"export": {"CT": {"desc": "a b"}}},
        {"demo": {"subjects": 0}},
    ]
    for change in changes:
        whole = {**config, **change}
        assert validator.is_valid(whole) == (not check(whole, "config.schema.json")[1]), change


def test_importing_the_configuration_imports_nothing_heavy():
    heavy = {"yaml", "jsonschema", "numpy", "pandas", "torch", "SimpleITK", "nibabel", "pydicom", "snakemake"}
    code = f"import sys, cohortex.config, cohortex.cohort; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_labels_by_value_may_be_written_as_numbers(config):
    assert check_config({**config, "regseg": {"default": {"labels": {1: "gland"}}}})
    assert "the key regseg.default.labels.x" in refused(config, regseg={"default": {"labels": {"x": "gland"}}})


def test_what_a_user_says_by_default_wins_over_the_entries_of_modalities_that_are_shipped(config):
    config = {**config, "denoise": {"default": {"method": "transform", "strength": 1}, "CT": {"method": "redcnn", "weights": "zoo/a"}}}

    def for_ct(**said):
        merged = {**config, "denoise": {name: {**config["denoise"][name], **said.get(name, {})} for name in ("default", "CT")}}
        return settings_for(let_said_win(merged, {"denoise": said})["denoise"], "CT")

    assert for_ct() == {"method": "redcnn", "strength": 1, "weights": "zoo/a"}
    assert for_ct(default={"strength": 2}) == {"method": "redcnn", "strength": 2, "weights": "zoo/a"}
    # although it is what the project's default says
    assert for_ct(default={"method": "transform"}) == {"method": "transform", "strength": 1}
    both = {"default": {"method": "none"}, "CT": {"method": "unet", "weights": "b"}}
    assert for_ct(**both) == {"method": "unet", "strength": 1, "weights": "b"}


def test_nested_settings_that_a_user_says_by_default_win_one_by_one():
    shipped = {"regseg": {"default": {"affine": {"method": "auto"}, "deformable": {"otherwise": "gauss_newton"}}}}
    shipped["regseg"]["US"] = {"affine": {"method": "centres"}, "deformable": {"otherwise": "none"}}
    said = {"regseg": {"default": {"deformable": {"otherwise": "gauss_newton"}, "segment": False}}}
    assert let_said_win(shipped, said)["regseg"]["US"] == {"affine": {"method": "centres"}, "deformable": {}}
    assert let_said_win(shipped, {}) == let_said_win(shipped, {"regseg": None}) == shipped
