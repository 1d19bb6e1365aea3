"""Every command of the documentation is run (tests/run/test_readme.py), or it is said why it cannot be; and its arguments are parsed."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from cohortex.cli import _parser
from tests.docs import documented
from tests.docs.pages import PAGES, ROOT, commands
from tests.workflow import environment

COMMANDS = {command: str(page.relative_to(ROOT)) for page in reversed(PAGES) for command in commands(page)}


def looked_at(command: str) -> bool:
    """Say whether a command is run, told of, or one of this package's programs, whose arguments are parsed."""
    return bool(
        documented.covered_by(command)
        or documented.reason(command)
        or documented.modules(command)
        or command.startswith(". ")
        or re.fullmatch(r"cohortex \w+( (DIR|WORK)( -o cohort\.tsv)?)?", command)
    )


def test_every_command_is_run_or_it_is_said_why_not():
    assert [f"{page}: {command}" for command, page in COMMANDS.items() if not looked_at(command)] == []
    assert len(COMMANDS) > 100


def test_a_new_command_would_be_noticed():
    for command in ("snakemake --profile local --touch", "cohortex verify my_results --quick", "make everything", "git push"):
        assert not looked_at(command)


def test_every_command_that_is_run_or_told_of_stands_in_the_documentation():
    shown = [set(documented.words(command)) for command in COMMANDS if not command.startswith(". ")]
    assert [run for run in documented.RUN if not any(each <= set(documented.words(run)) for each in shown)] == []
    assert [pattern for pattern in documented.ELSEWHERE if not any(re.fullmatch(pattern, command) for command in COMMANDS)] == []


def test_what_is_named_as_looking_at_the_rest_is_there():
    named = re.findall(r"[\w.]+/[\w/.]+(?:\.py|run)\b", " ".join([*documented.ELSEWHERE.values(), documented.SLURM]))
    assert len(named) > 5 and all((ROOT / name).is_file() for name in named)


def test_the_programs_of_the_repository_take_the_arguments_that_the_pages_give_them():
    given = [words for command in COMMANDS for words in documented.modules(command) if not documented.reason(command)]
    for target in ("figures", "zoo", "zoo-superresolve"):
        called = subprocess.run(["make", "-n", "-o", "install", target], cwd=ROOT, text=True, capture_output=True, check=True).stdout
        joined = re.sub(r"\\\n\s*", "", called)
        given += [shlex.split(words) for words in re.findall(r"/python -m ((?:benchmarks|cohortex)\.[^\n;>]*)", joined)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse"], cwd=ROOT, env=environment(), input=json.dumps(given), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [] and len(given) > 80, done.stderr[-3000:]


def test_arguments_that_a_program_does_not_take_are_found():
    given = [["benchmarks.filters", "--no-such-option"], ["benchmarks.nothing"], ["benchmarks.files"]]
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse"], cwd=ROOT, env=environment(), input=json.dumps(given), text=True, capture_output=True
    )
    assert [said.split(" ")[0] for said in json.loads(done.stdout)] == ["python", "benchmarks.nothing"]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("cohortex ")])
def test_the_command_cohortex_takes_its_arguments(command):
    known = re.search(r"metavar=\"([^\"]+)\"", (ROOT / "cohortex" / "cli.py").read_text())
    words = shlex.split(command)[1:]
    assert known and words[0] in known[1].split(" | ")
    if len(words) > 1 or words[0] in ("status", "view"):
        _parser().parse_args(words)


@pytest.mark.parametrize("target", sorted({command.split()[1] for command in COMMANDS if command.startswith("make ")}))
def test_a_target_of_make_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
