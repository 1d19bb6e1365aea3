"""Other ways of running the same workflow: another cluster, environments of the rules, a container."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.workflow import ROOT, environment, need_generic_executor, write_cohort

QSUB = r"""#!/bin/sh
# Stands in for PBS: writes down what it was asked for, and runs the job; the first one it kills, as for its memory.
number=$(($(cat {there}/count 2>/dev/null || echo 0) + 1))
echo $number > {there}/count
echo "$@" >> {there}/asked
for last; do :; done
if [ $number = 1 ]; then
    echo 271 > {there}/$number.ended
else
    (setsid sh "$last" > {there}/$number.log 2>&1; echo $? > {there}/$number.ended) > /dev/null 2>&1 &
fi
echo $number.server
"""
QSTAT = r"""#!/bin/sh
for last; do :; done
number=${{last%.server}}
if [ -f {there}/$number.ended ]; then
    printf 'Job Id: %s\n    job_state = F\n    Exit_status = %s\n' "$last" "$(cat {there}/$number.ended)"
else
    printf 'Job Id: %s\n    job_state = R\n' "$last"
fi
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_on_another_cluster_jobs_are_submitted_with_their_needs_and_one_that_it_killed_runs_again_with_more(tmp_path):
    need_generic_executor()
    there = tmp_path / "cluster"
    for name, text in (("qsub", QSUB), ("qstat", QSTAT), ("qdel", "#!/bin/sh\n")):
        executable(there / name, text.format(there=there))
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    table = write_cohort(tmp_path, ["1"])
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "generic"), "--until", "acquire"]
    words += ["--seconds-between-status-checks", "1", "--latency-wait", "5", "--config", f"input={table}", "stages=[acquire,export]"]
    there_first = {**environment(), "PATH": f"{there}:{environment()['PATH']}"}
    done = subprocess.run(words, cwd=tmp_path, env=there_first, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = (there / "asked").read_text().splitlines()
    memory, minutes = ([int(n) for n in re.findall(pattern, first + second)] for pattern in (r"mem=(\d+)mb", r"walltime=(\d+):00"))
    assert memory[1] == pytest.approx(2 * memory[0], abs=2) and minutes[1] > minutes[0] and "ncpus=1" in first and "ngpus=0" in first
    assert (tmp_path / "work" / "records" / "acquire" / "b00001" / "manifest.tsv").is_file()


@pytest.mark.parametrize(
    ("qstat", "word"),
    [
        ("echo '    job_state = F'; echo '    Exit_status = 0'", "success"),
        ("echo '    job_state = F'; echo '    Exit_status = 271'", "failed"),
        ("echo '    job_state = Q'", "running"),
        ("echo 'qstat: Unknown Job Id'; exit 153", "failed"),
        ("echo 'cannot connect to server'; exit 111", "running"),
    ],
)
def test_what_the_cluster_says_of_a_job_becomes_one_of_three_words(tmp_path, qstat, word):
    executable(tmp_path / "qstat", f"#!/bin/sh\n{qstat}\n")
    script = ROOT / "profiles" / "generic" / "status.sh"
    said = subprocess.run(
        ["sh", str(script), "7"], env={**environment(), "PATH": f"{tmp_path}:/bin:/usr/bin"}, text=True, capture_output=True
    )
    assert (said.stdout, said.returncode) == (f"{word}\n", 0)


BLOCKED = """
import sys
if ".snakemake/scripts" in " ".join(sys.orig_argv):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {blocked!r}:
                raise ModuleNotFoundError(name + " is not in the environment of this rule")
    sys.meta_path.insert(0, Finder())
    open({told!r}, "a").write("blocked ")
"""


def test_the_rules_that_name_the_environment_without_networks_run_without_what_it_lacks(tmp_path):
    def modules(name):
        return {package.split("==")[0] for package in yaml.safe_load((ROOT / "envs" / name).read_text())["dependencies"][-1]["pip"]}

    lacking = modules("torch.yaml") - modules("volumes.yaml")
    assert lacking == {"torch", "monai"}
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(blocked=lacking, told=str(tmp_path / "told")))
    named = re.compile(r"rule (\w+):(?:(?!\nrule ).)*?envs/(\w+)\.yaml", re.S)
    rules = {found for file in (ROOT / "rules").glob("*.smk") for found in named.findall(file.read_text())}
    without = {rule for rule, name in rules if name == "volumes"}
    ran = {"acquire", "preprocess", "export", "report", "verdict"}
    # the page of a bake-off needs one that was run, see below
    assert without == ran | {"bakeoff_page"}
    table = write_cohort(tmp_path, ["1"])
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--config", f"input={table}"]
    done = subprocess.run(
        [*words, "stages=[acquire,preprocess,export]"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert (tmp_path / "told").read_text().count("blocked") == len(ran), "or nothing was kept from them"
    assert "No image was set aside" in (tmp_path / "work" / "verdict.txt").read_text()
    code = "import sys, cohortex.bakeoff.run, cohortex.bakeoff.page; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


APPTAINER = r"""#!/bin/sh
# Stands in for Apptainer: notes the image, and runs the command that it is given without a container.
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
echo "$@" >> {there}/asked
for last; do :; done
exec bash -c "$last"
"""


def test_with_a_container_jobs_run_in_the_image_that_the_configuration_names(tmp_path):
    executable(tmp_path / "bin" / "apptainer", APPTAINER.format(there=tmp_path))
    executable(tmp_path / "bin" / "singularity", APPTAINER.format(there=tmp_path))
    image = tmp_path / "cohortex.sif"
    image.touch()
    table = write_cohort(tmp_path, ["1"])
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--sdm", "apptainer", "--until", "acquire"]
    done = subprocess.run(
        [*words, "--config", f"input={table}", "stages=[acquire,export]", f"container={image}"],
        cwd=tmp_path,
        env={**environment(), "PATH": f"{tmp_path / 'bin'}:{environment()['PATH']}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert str(image) in (tmp_path / "asked").read_text()
    assert (tmp_path / "work" / "records" / "acquire" / "b00001" / "manifest.tsv").is_file()
