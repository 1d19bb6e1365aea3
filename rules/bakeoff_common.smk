"""What the rules of the bake-offs share: systems, what they look at, and what their jobs ask for."""

import json

from cohortex.bakeoff.systems import (
    SECTIONS,
    adjusted,
    ask_bakeoff,
    check_splits,
    classes_of,
    system_named,
    systems_of,
)


def system_of(wildcards):
    """Return the system of a job."""
    return system_named(config, wildcards.task, wildcards.system)


def told_system(wildcards):
    """Return the system of a job as one canonical string."""
    return system_of(wildcards).told()


def seen_by(task):
    """Return the stage whose volumes a bake-off looks at: the one before the task's; scans are segmented where `regseg` is."""
    stage = "regseg" if task == "segment" else task
    return before(stage) if stage in CHAIN else CHAIN[-2]


def bakeoff_images(wildcards):
    """Return the volumes that a bake-off looks at."""
    return [f"{WORK}/{seen_by(wildcards.task)}/{batch}" for batch in BATCHES]


def bakeoff_records(wildcards):
    """Return the records of the volumes that a bake-off looks at."""
    return [f"{WORK}/records/{seen_by(wildcards.task)}/{batch}" for batch in BATCHES]


def bakeoff_model(wildcards):
    """Return the folder of what a system was trained to, or the model folder that it names."""
    system = system_of(wildcards)
    if system.trains:
        return [f"{WORK}/bakeoff/{wildcards.task}/models/{wildcards.system}"]
    return [ancient(folder) for folder in named_folders(system)]


def named_folders(system):
    """Return the model folder that a system's weights name."""
    if not system.weights or system.trains:
        return []
    section = {"default": {"weights": system.weights}}
    return list(resolve_weights(section, system.task, WORK, BASEDIR).values())


def bakeoff_weights(wildcards):
    """Return the model folder that a system names, empty where it is trained or needs none."""
    return next(iter(named_folders(system_of(wildcards))), "")


def searched_weights(wildcards):
    """Return the same for the system whose settings are searched."""
    return next(iter(named_folders(adjusted(config, wildcards.task)[0])), "")


def bakeoff_scores(wildcards):
    """Return what the scoring of every system leaves; refuse where there is nobody to train or to compare on."""
    if workflow.is_main_process:
        check_splits(config, wildcards.task)
    return [
        f"{WORK}/bakeoff/{wildcards.task}/scores/{system.name}"
        for system in systems_of(config, wildcards.task)
    ]


def searched(wildcards):
    """Return what the search of settings leaves, where there is one."""
    asked = config["bakeoff"][wildcards.task].get("adjust")
    return [] if asked is None else f"<results>/bakeoff/{wildcards.task}/adjust"


def bakeoff_config(wildcards):
    """Return what of the configuration a bake-off's result depends on, canonical."""
    depends = SECTIONS.get(wildcards.task, ("denoise", "superresolve"))
    sections = {stage: config[stage] for stage in depends}
    own = {wildcards.task: config["bakeoff"][wildcards.task]}
    # the classes of the subjects are in no file that a job is given
    known = {"classes": classes_of(config)} if wildcards.task == "classify" else {}
    return canonical({"bakeoff": own, "seed": config["seed"], **sections, **known})


def system_config(wildcards):
    """Return the same for one system: which others there are changes nothing of it."""
    found = json.loads(bakeoff_config(wildcards))
    own = found["bakeoff"][wildcards.task]
    for key in ("candidates", "baselines", "against", "adjust"):
        own.pop(key, None)
    return canonical(found)


def bakeoff_asks(trained, scored):
    """Return functions that give memory, minutes and disk of a job of a bake-off: of so many trainings, of so many restorations."""

    def asked(wildcards):
        load = load_of_tables([SIZES[batch] for batch in BATCHES])
        times = trained(wildcards), scored(wildcards)
        return ask_bakeoff(config, wildcards.task, load, *times)

    def mem_mb(wildcards, attempt):
        return memory_mb(asked(wildcards), attempt)

    def runtime(wildcards, attempt):
        return minutes_of(asked(wildcards), attempt)

    def disk_mb(wildcards):
        return int(asked(wildcards).disk_mb)

    return {"mem_mb": mem_mb, "runtime": runtime, "disk_mb": disk_mb}


def network_gpus(wildcards):
    """Return the GPUs of a job of a system."""
    stage = "regseg" if wildcards.task == "segment" else wildcards.task
    return gpus(stage) if system_of(wildcards).kind == "network" else 0


def searched_times(wildcards):
    """Return how many settings are tried."""
    return len(adjusted(config, wildcards.task)[1])


def searched_trainings(wildcards):
    """Return how many trainings the search of settings makes at most."""
    return (
        searched_times(wildcards) if adjusted(config, wildcards.task)[0].trains else 0
    )


TRAINED = bakeoff_asks(lambda wildcards: 1, lambda wildcards: 0)
SCORED = bakeoff_asks(lambda wildcards: 0, lambda wildcards: 2)
SEARCHED = bakeoff_asks(searched_trainings, searched_times)
