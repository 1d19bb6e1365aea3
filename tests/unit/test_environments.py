"""The environments of the rules and the lock agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.workflow import snakemake


def lock(root):
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (root / "requirements.lock").read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): pin for name, pin in found}


def dependencies(root):
    return [Requirement(each) for each in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]]


def test_every_pin_of_the_lock_has_the_hashes_of_its_files_and_nothing_else_stands_there(root):
    entries = re.split(r"^(?=\S)", (root / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(lock(root)) > 100
    for entry in entries:
        first, *hashes = entry.replace("\\\n", "\n").split()
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", first), first
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), first
    # wheels of several platforms, not of the one where the lock was made
    assert all(len(re.findall("--hash", entry)) > 5 for entry in entries if entry.startswith(("torch==", "numpy==", "h5py==")))


def test_the_lock_holds_all_that_its_packages_need(root):
    pinned = lock(root)
    for name in pinned:
        for line in requires(name) or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                wanted = re.sub(r"[-_.]+", "-", need.name).lower()
                # torch alone brings what its build needs, such as CUDA's libraries
                assert wanted in pinned or name == "torch", f"{name} needs {wanted}"
                assert wanted not in pinned or need.specifier.contains(pinned[wanted], prereleases=True), f"{name} needs {need}"


@pytest.mark.parametrize("name", ["volumes", "torch"])
def test_an_environment_has_the_pins_of_the_lock(root, name):
    pins = lock(root)
    packages = yaml.safe_load((root / "envs" / f"{name}.yaml").read_text())["dependencies"][-1]["pip"]
    assert packages
    for package in packages:
        wanted, _, pin = package.partition("==")
        assert pins[re.sub(r"[-_.]+", "-", wanted).lower()] == pin, package


def test_what_the_package_imports_stands_in_its_dependencies_and_in_the_environment_of_the_networks(root):
    imported = set()
    for path in (root / "cohortex").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
                imported |= {name.split(".")[0] for name in names}
    foreign = imported - set(sys.stdlib_module_names) - {"cohortex", ""}
    known = packages_distributions()
    wanted = {distribution.lower().replace("_", "-") for name in foreign for distribution in known[name]}
    said = {each.name.lower() for each in dependencies(root)}
    assert wanted - said == set()
    packages = yaml.safe_load((root / "envs" / "torch.yaml").read_text())["dependencies"][-1]["pip"]
    assert wanted - {package.split("==")[0].lower() for package in packages} - {"snakemake"} == set()


TORCH = "grep -oE '^torch==[^ ]+' requirements.lock"
INSTALLS = [
    "--no-deps -r /tmp/torch.txt",
    "--no-deps --require-hashes -r requirements.lock",
    "-r /tmp/torch.txt",
    "--no-deps --no-build-isolation -e .",
]


def test_make_install_takes_nothing_but_torch_without_its_hash(root):
    text = (root / "Makefile").read_text()
    assert f"{TORCH} > $(VENV)/torch.txt" in text
    recipe = text[text.index("$(STAMP): requirements.lock") : text.index("touch $(STAMP)")]
    assert re.findall(r"\$\(PIP\) install (.*)$", recipe, re.MULTILINE) == [each.replace("/tmp", "$(VENV)") for each in INSTALLS]
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["build-system"]["requires"]
    pinned = lock(root)
    for each in map(Requirement, wanted):
        # nothing is fetched for the build
        assert each.specifier.contains(pinned[each.name]), each


@pytest.mark.parametrize("name", ["Dockerfile", "cohortex.def"])
def test_a_container_is_built_from_the_lock_torch_first_and_names_no_host(root, name):
    text = (root / "containers" / name).read_text()
    python = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    assert re.search(r"^(?:FROM|From:) python:3\.11-slim$", text, re.MULTILINE) and python == ">=3.11,<3.12"
    installs = [words.split(" && ")[0].rstrip(" \\") for words in re.findall(r"pip install --no-cache-dir (.*)$", text, re.MULTILINE)]
    assert installs == INSTALLS
    assert f"{TORCH} > /tmp/torch.txt" in text
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


FLOORS = {
    "torch": "2.10",
    "monai": "1.5.2",
    "safetensors": "0.8",
    "pydicom": "3.0.2",
    "zarr": "3.1",
    "numcodecs": "0.16.6",
    "jinja2": "3.1.6",
    "snakemake": "9.27",
}
"""Pickles in weights (torch, MONAI), foreign records in a DICOMDIR (pydicom), codecs by name (zarr, numcodecs), templates (jinja2)."""


def test_nothing_below_the_version_that_closed_a_known_hole_is_pinned_let_in_or_installed(root):
    pinned = lock(root)
    bounds = {each.name: each.specifier for each in dependencies(root)}
    for name, floor in FLOORS.items():
        assert Version(pinned[name]) >= Version(floor), name
        assert Version(version(name)) >= Version(floor), name
        # pip refuses what is older, also for who installs without the lock
        assert str(bounds[name]) == f">={floor}", name
    assert f'min_version("{FLOORS["snakemake"]}")' in (root / "Snakefile").read_text()
