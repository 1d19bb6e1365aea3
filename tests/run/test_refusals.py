"""What is wrong before any job is refused with a sentence and no traceback; nothing is started, nothing is written."""

import shutil

import pytest

from cohortex.device import visible
from cohortex.machine import memory_for_jobs_mb
from tests.workflow import ROOT, snakemake, write_cohort


def refused(folder, *arguments, **config):
    done = snakemake(folder, "-n", *arguments, check=False, **config)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("cohortex: ")]
    assert len(lines) == 1, done.stdout
    assert not (folder / "results").exists()
    return done.stdout[done.stdout.index("cohortex: ") :]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"input": "not_there"}, ["not_there"]),
        ({"threds": 4}, ["threds", "known"]),
        ({"batch_size": "many"}, ["batch_size", "many"]),
        ({"stages": "[acquire,denoize,export]"}, ["denoize", "denoise"]),
        ({"output": "2024_01"}, ["output", "202401", "quotes"]),
        ({"input": "demo", "work": "/proc/none"}, ["/proc/none"]),
        ({"input": "demo", "output": "r" * 300}, ["File name too long"]),
    ],
    ids=[
        "no input",
        "unknown key",
        "wrong type",
        "unknown stage",
        "a folder that looks like a number",
        "a folder that cannot be made",
        "a name that is too long",
    ],
)
def test_a_wrong_configuration_is_refused_naming_the_key(tmp_path, config, words):
    sentence = refused(tmp_path, **config)
    assert all(word in sentence for word in words), sentence


def test_an_empty_cohort_is_refused(tmp_path):
    table = tmp_path / "cohort.tsv"
    table.write_text("subject\tmodality\tpath\n")
    assert "cohort.tsv" in refused(tmp_path, input=table)


def test_an_unknown_modality_is_refused_naming_the_line(tmp_path):
    table = tmp_path / "cohort.tsv"
    table.write_text("subject\tmodality\tpath\n001\tT1w\ta.nii.gz\n002\tT9x\tb.nii.gz\n")
    sentence = refused(tmp_path, input=table)
    assert "T9x" in sentence and "line 3" in sentence


def test_wrong_weights_are_refused_naming_the_folder(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(next(path.parent for path in (ROOT / "zoo" / "denoise").rglob("card.yaml")), model)
    weights = model / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-7] ^= 1
    weights.write_bytes(raw)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"denoise: {{default: {{method: redcnn, weights: {model}}}}}\n")
    sentence = refused(tmp_path, "--configfile", str(settings), input=write_cohort(tmp_path, ["1"]))
    assert "model" in sentence and "sha256" in sentence


def test_a_model_of_another_task_is_refused_before_any_job(tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"denoise: {{default: {{method: redcnn, weights: {ROOT / 'zoo' / 'superresolve' / 'srcnn3d'}}}}}\n")
    sentence = refused(tmp_path, "--configfile", str(settings), input=write_cohort(tmp_path, ["1"]))
    assert "is a model for superresolve, but denoise has it" in sentence


def test_what_this_machine_has_not_is_refused_before_any_job(tmp_path):
    table = write_cohort(tmp_path, ["1"])
    sentence = refused(tmp_path, "--resources", "mem_mb=300", input=table)
    assert "acquire needs about" in sentence and "1_T1w" in sentence and "jobs of this machine have 300 MB" in sentence
    if not visible():
        assert "device is cuda, but this machine has no GPU" in refused(tmp_path, input=table, device="cuda")


def test_jobs_of_one_machine_share_its_memory_and_the_command_line_says_how_many_gpus_it_has(tmp_path):
    table = write_cohort(tmp_path, ["1"])
    said = snakemake(tmp_path, "--until", "acquire", "--resources", "gpu=4", input=table, stages="[acquire,export]").stdout
    provided = said.split("Provided resources:")[1].splitlines()[0]
    assert f'"mem_mb", {memory_for_jobs_mb()}' in provided and '"gpu", 4' in provided and '"gpu", 1' not in provided


@pytest.mark.parametrize("flag", ["--keep-incomplete", "--nolock"])
def test_a_flag_with_which_half_a_result_counts_as_done_is_refused_before_any_job(tmp_path, flag):
    done = snakemake(tmp_path, flag, check=False, input=write_cohort(tmp_path, ["1"]), stages="[acquire,export]")
    assert done.returncode != 0
    assert f"cohortex: {flag} would let" in done.stdout and "Traceback" not in done.stdout
    assert not (tmp_path / "work" / "records").exists() and not (tmp_path / "work" / "owner.json").exists()


def test_a_second_run_on_one_output_refuses_and_names_the_owner(tmp_path):
    import json
    import os
    import socket

    import psutil

    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (tmp_path / "shared" / ".cohortex").mkdir(parents=True)
    (tmp_path / "shared" / ".cohortex" / "owner.json").write_text(json.dumps(owner))
    table = write_cohort(tmp_path, ["1"])
    done = snakemake(tmp_path / "second", check=False, input=table, output=tmp_path / "shared", stages="[acquire,export]")
    assert done.returncode != 0
    assert f"process {os.getpid()}" in done.stdout and "belongs to another run" in done.stdout
    assert not list((tmp_path / "shared").glob("sub-*"))
