"""The environments of the rules and the lock agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.version import Version

from tests.workflow import snakemake


def lock(root):
    lines = (root / "requirements.lock").read_text().splitlines()
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines if "==" in line)}


@pytest.mark.parametrize("name", ["volumes", "torch"])
def test_an_environment_has_the_pins_of_the_lock(root, name):
    pins = lock(root)
    packages = yaml.safe_load((root / "envs" / f"{name}.yaml").read_text())["dependencies"][-1]["pip"]
    assert packages
    for package in packages:
        wanted, version = package.split("==")
        assert pins[re.sub(r"[-_.]+", "-", wanted).lower()] == version, package


def test_what_the_package_imports_stands_in_its_dependencies_and_in_the_environment_of_the_networks(root):
    imported = set()
    for path in (root / "cohortex").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
                imported |= {name.split(".")[0] for name in names}
    foreign = imported - set(sys.stdlib_module_names) - {"cohortex", ""}
    wanted = {distribution.lower().replace("_", "-") for name in foreign for distribution in packages_distributions()[name]}
    said = {name.lower() for name in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]}
    assert wanted - said == set()
    packages = yaml.safe_load((root / "envs" / "torch.yaml").read_text())["dependencies"][-1]["pip"]
    assert wanted - {package.split("==")[0].lower() for package in packages} - {"snakemake"} == set()


@pytest.mark.parametrize("name", ["Dockerfile", "cohortex.def"])
def test_a_container_is_built_from_the_lock_torch_first_and_names_no_host(root, name):
    text = (root / "containers" / name).read_text()
    python = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    assert re.search(r"^(?:FROM|From:) python:3\.11-slim$", text, re.MULTILINE) and python == ">=3.11,<3.12"
    installs = [words.split(" && ")[0].rstrip(" \\") for words in re.findall(r"pip install --no-cache-dir (.*)$", text, re.MULTILINE)]
    assert installs == ["-r /tmp/torch.txt", "-r requirements.lock", "--no-deps -e ."]
    assert "grep -E '^torch==' requirements.lock > /tmp/torch.txt" in text
    assert not re.search(r"https?://|--index-url|--extra-index-url|\w@\w|\d+\.\d+\.\d+\.\d+", text)
    copied = set(re.findall(r"^    (\S+) /opt/cohortex/", text, re.MULTILINE)) if name.endswith("def") else {"."}
    assert all((root / path).exists() for path in copied)
    parts = {"Snakefile", "config.yaml", "cohortex", "rules", "scripts", "schemas", "profiles", "envs", "zoo", "requirements.lock"}
    assert copied == {"."} or parts <= copied


def test_torch_is_first_in_its_environment_so_that_nothing_else_brings_another_in(root):
    packages = yaml.safe_load((root / "envs" / "torch.yaml").read_text())["dependencies"][-1]["pip"]
    assert packages[0].startswith("torch==")


def test_every_rule_with_a_script_says_its_log_benchmark_environment_threads_and_resources(root):
    for file in (root / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            if "output:" not in rule:
                continue  # a target that only names what it wants
            for word in ('"""', "log:", "benchmark:", "conda:", "threads:", "mem_mb", "runtime", "disk_mb", "params:", "script:"):
                assert word in rule, f"{file.name}: rule {rule.split(':')[0]} has no {word}"


def test_snakemake_finds_nothing_to_mend_in_the_workflow(root, tmp_path):
    done = snakemake(tmp_path, "--lint", check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_snakefile_is_a_table_of_contents(root):
    assert len((root / "Snakefile").read_text().splitlines()) < 60


def test_no_pin_is_below_the_version_that_closed_a_known_hole(root):
    """Pickles in weights (torch), foreign records in a DICOMDIR (pydicom), codecs by name (numcodecs), templates (jinja2)."""
    floors = {
        "torch": "2.10",
        "pydicom": "3.0.2",
        "zarr": "3.1",
        "numcodecs": "0.16.6",
        "jinja2": "3.1.6",
        "snakemake": "9.27",
        "safetensors": "0.8",
    }
    pinned = lock(root)
    for name, floor in floors.items():
        assert Version(pinned[name].split("+")[0]) >= Version(floor), name
