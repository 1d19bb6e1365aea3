"""What the rules share: the cohort, the chain of stages, settings, models and resources."""

import signal
from functools import lru_cache
from pathlib import Path

from cohortex.cohort import batch_sizes, make_cohort, read_batches, run_batches
from cohortex.config import (
    canonical,
    check_config,
    check_files,
    is_trained,
    let_said_win,
    resolve_weights,
    stage_of_training,
    training_section,
)
from cohortex.demo.table import DEMO_VERSION
from cohortex.privacy.conceal import told_command, told_config
from cohortex.ratings import make_ratings
from cohortex.slurm.head import begin
from cohortex.slurm.orphans import forget_runs
from cohortex.stages import STAGES, stage_version
from cohortex.device import visible
from cohortex.errors import CohortexError
from cohortex.machine import check_gpus, check_memory, memory_for_jobs_mb
from cohortex.resources import (
    ask,
    ask_for,
    ask_training,
    load_of,
    load_of_records,
    load_of_tables,
    memory_mb,
    minutes_of,
    paged_images,
    viewed_images,
)
from cohortex.training.frozen import frozen_batches
from cohortex.changed import what_reruns
from cohortex.run import (
    check_flags,
    claim,
    in_use,
    model_params,
    preflight,
    release,
    say_what_went_wrong,
    sentence_of,
    sweep_run,
)
from cohortex.runs import begin_run, complete_run

BASEDIR = workflow.basedir
# What lies here is of patients: files are for the owner and the group, here and in all jobs.
os.umask(0o027)

if not workflow.is_main_process:
    # A scheduler's warning before a time limit is for the script, which hears it, not for the Snakemake around it, which would die.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def check_this_machine(config):
    """Refuse what the jobs of this machine cannot have; have them share its memory, unless the command line says how much."""
    limits = workflow.global_resources
    if "mem_mb" not in limits and "mem" not in limits:
        workflow.register_resource("mem_mb", memory_for_jobs_mb())
    told = [
        name
        for name, given in workflow.resource_settings.overwrite_resources.items()
        if "mem_mb" in given or "mem" in given
    ]
    check_memory(config, batch_sizes(config["work"]), limit_of("mem_mb"), told)
    check_gpus(config, limit_of("gpu"), visible())


def limit_of(name):
    """Return what all jobs of this machine may have of a resource together, None where nothing limits it."""
    limit = workflow.global_resources.get(name)
    return None if limit is None else limit.value


try:
    if workflow.is_main_process:
        check_files(
            [
                os.path.join(BASEDIR, "config.yaml"),
                *map(str, workflow.overwrite_configfiles),
            ]
        )
    said = workflow.config_settings.overwrite_config
    config.update(check_config(let_said_win(config, said)))
    WORK = config["work"]
    if workflow.is_main_process:
        # The head process makes the table of the cohort and checks models and disk; jobs only read.
        if another := in_use(config):
            sys.stderr.write(f"cohortex: {another}\n")
        make_cohort(config, BASEDIR)
        make_ratings(config)
        # jobs of a cluster are counted as nodes, those of one machine as cores
        jobs = workflow.resource_settings.nodes or workflow.resource_settings.cores
        preflight(config, BASEDIR, jobs or 1)
        if workflow.resource_settings.nodes is None:
            check_this_machine(config)
    # the cohort is made: from here on nothing needs to know where it lies, and configuration and command are written down
    sys.argv[:] = told_command(sys.argv, config)
    config.update(told_config(config))
except CohortexError as error:
    sys.exit(f"cohortex: {error}")
except OSError as error:
    sys.exit(f"cohortex: {sentence_of(error, config['work'])}")

CHAIN = list(config["stages"])
# those of this run: of all, or of the part that `only` names
BATCHES = run_batches(WORK)
SIZES = batch_sizes(WORK)


pathvars:
    work=WORK,
    results=config["output"],
    logs=os.path.join(WORK, "logs"),
    benchmarks=os.path.join(WORK, "benchmarks"),


# used with --sdm apptainer only
container: config["container"]


wildcard_constraints:
    batch=r"b[0-9]+",
    task=r"[a-z]+",


def position(stage):
    """Return where a stage stands in the chain, so that batches that are far are finished first."""
    return CHAIN.index(stage) if stage in CHAIN else 0


def before(stage):
    """Return the name of the stage before one of the chain."""
    return CHAIN[max(position(stage) - 1, 0)]


def stage_before(stage):
    """Return the folder of volumes that a stage reads."""
    return f"<work>/{before(stage)}/{{batch}}"


def record_before(stage):
    """Return the record that describes the folder that a stage reads."""
    return f"<work>/records/{before(stage)}/{{batch}}"


def kept(stage, folder):
    """Return a stage's folder, deleted after its use unless the configuration keeps it."""
    return folder if stage in config["keep"] else temp(folder)


def source(wildcards):
    """Return what the first stage waits for: the table of its batch, and the demo's scans where it is the demo."""
    table = f"{WORK}/cohort/batches/{wildcards.batch}.tsv"
    return (
        [table, f"{WORK}/demo/{wildcards.batch}"]
        if config["input"] == "demo"
        else [table]
    )


def work_folder(wildcards):
    """Return the work folder."""
    return WORK


def results_folder(wildcards):
    """Return the folder of the results."""
    return config["output"]


def settings(stage):
    """Return a stage's section as one canonical string: order and 1 against 1.0 rerun nothing."""
    return canonical(config.get(stage, {"default": {}}))


def weights(stage):
    """Return the model folders of a stage by their names in the configuration."""
    return resolve_weights(config.get(stage, {}), stage, WORK, BASEDIR)


def model_folder(stage):
    """Return a stage's model folders as inputs: those of the workflow as they are, others whatever their age."""
    return [
        folder if is_trained(name) else ancient(folder)
        for name, folder in weights(stage).items()
    ]


def models(stage):
    """Return a stage's models with the hash of their weights, canonical; trained ones without (see docs/design.md)."""
    return model_params(weights(stage))


def asked(stage, batch):
    """Return what a job of a stage takes: by the grids that the stage before wrote down, else by the sizes of the cohort's files."""
    record = Path(WORK, "records", before(stage), batch)
    manifest = record / "manifest.tsv"
    known = position(stage) > 0 and manifest.is_file()
    return asked_once(
        stage, batch, record if known else None, known and manifest.stat().st_mtime_ns
    )


@lru_cache(maxsize=64)
def asked_once(stage, batch, record, changed):
    """Return the same, worked out once for all resources of a job and again when the record changed."""
    return ask(stage, config, load_of(stage, record, SIZES[batch]))


def memory(stage):
    """Return the memory of a job in MB, growing with each attempt."""

    def mem_mb(wildcards, attempt):
        return memory_mb(asked(stage, wildcards.batch), attempt)

    return mem_mb


def minutes(stage):
    """Return the time of a job in minutes, growing with each attempt."""

    def runtime(wildcards, attempt):
        return minutes_of(asked(stage, wildcards.batch), attempt)

    return runtime


def disk(stage):
    """Return the disk that a job's output and scratch files take in MB."""

    def disk_mb(wildcards):
        return int(asked(stage, wildcards.batch).disk_mb)

    return disk_mb


def gpus(stage):
    """Return the GPUs of a job: one for a learned stage when the configuration asks for cuda."""
    return 1 if config["device"] == "cuda" and STAGES[stage].learned else 0


if workflow.is_main_process:
    for sentence in what_reruns(
        config, {stage: weights(stage) for stage in CHAIN}, BATCHES
    ):
        sys.stderr.write(f"cohortex: {sentence}\n")


def last(wildcards, attempt):
    """Return whether an attempt is known to be the last one."""
    retries = workflow.execution_settings.retries or 0
    return int(0 < retries < attempt)


def records(wildcards):
    """Return every record of the batches of this run."""
    return [f"{WORK}/records/{stage}/{batch}" for stage in CHAIN for batch in BATCHES]


def exported(wildcards):
    """Return what says of every batch of this run that it is in the results."""
    return [f"{config['output']}/.cohortex/exported/{batch}" for batch in BATCHES]


def start_run():
    """Claim the output for this run and see to Slurm, or refuse; write down that it began."""
    try:
        check_flags(workflow.execution_settings)
        claim(config)
        begin(workflow, config)
        begin_run(config)
    except CohortexError as error:
        release(config)
        sys.exit(f"cohortex: {error}")
    except OSError as error:
        sys.exit(f"cohortex: {sentence_of(error, config['output'])}")


def end_run(success):
    """Give the output back and complete the run's record; of a run that failed, make the report and say what went wrong."""
    if success:
        sweep_run(config)
        forget_runs(config)
    else:
        stopped = not workflow.scheduler.failed
        say_what_went_wrong(config, BASEDIR, stopped)
    complete_run(config, success)
    release(config)


def training_batches(task):
    """Return the batches of a task's first training, so that new subjects never retrain."""
    return frozen_batches(
        WORK, task, read_batches(WORK), config["retrain"] and workflow.is_main_process
    )


def before_training(task):
    """Return the name of the stage whose volumes a task is trained on."""
    return before(stage_of_training(task))


def training_folders(wildcards):
    """Return the volumes that a task is trained on."""
    return [
        f"{WORK}/{before_training(wildcards.task)}/{batch}"
        for batch in training_batches(wildcards.task)
    ]


def training_records(wildcards):
    """Return the records of the volumes that a task is trained on."""
    return [
        f"{WORK}/records/{before_training(wildcards.task)}/{batch}"
        for batch in training_batches(wildcards.task)
    ]


def training_settings(wildcards):
    """Return the settings of a training."""
    return canonical(training_section(config, wildcards.task))


def asked_by_training(task):
    """Return what the training of a task takes, by the records that there are of its batches, else by the cohort's files."""
    batches = training_batches(task)
    manifests = [
        Path(WORK, "records", before_training(task), batch, "manifest.tsv")
        for batch in batches
    ]
    if all(manifest.is_file() for manifest in manifests):
        stage = stage_of_training(task)
        return ask_training(task, config, load_of_records(manifests, stage))
    return ask_training(task, config, load_of_tables([SIZES[each] for each in batches]))


def training_memory(wildcards, attempt):
    """Return the memory of a training in MB, growing with each attempt."""
    return memory_mb(asked_by_training(wildcards.task), attempt)


def training_minutes(wildcards, attempt):
    """Return the time of a training in minutes, growing with each attempt."""
    return minutes_of(asked_by_training(wildcards.task), attempt)


def training_disk(wildcards):
    """Return the disk of a training in MB."""
    return int(asked_by_training(wildcards.task).disk_mb)


def asked_by(job, wildcards):
    """Return what a job takes that grows with the images of its batch, or of the cohort."""
    sizes = [SIZES[wildcards.batch]] if "batch" in wildcards.keys() else SIZES.values()
    images = sum(size.images for size in sizes)
    paged, viewed = (
        count(config, images) if job == "report" else 0
        for count in (paged_images, viewed_images)
    )
    return ask_for(job, images, paged, viewed)


def memory_of(job):
    """Return the memory of a job that is no stage in MB, growing with each attempt."""

    def mem_mb(wildcards, attempt):
        return memory_mb(asked_by(job, wildcards), attempt)

    return mem_mb


def time_of(job):
    """Return the time of a job that is no stage in minutes, growing with each attempt."""

    def runtime(wildcards, attempt):
        return minutes_of(asked_by(job, wildcards), attempt)

    return runtime


def disk_of(job):
    """Return the disk of a job that is no stage in MB."""

    def disk_mb(wildcards):
        return int(asked_by(job, wildcards).disk_mb)

    return disk_mb


def training_gpus(wildcards):
    """Return the GPUs of a training."""
    return gpus(stage_of_training(wildcards.task))
