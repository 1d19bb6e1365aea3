"""Bake-offs: `snakemake bakeoff_denoise` and `snakemake bakeoff_superresolve` compare systems on the user's own cohort."""

from cohortex.bakeoff.systems import adjusted, ask_bakeoff, system_named, systems_of


wildcard_constraints:
    system=r"[a-z][a-z0-9_]*",


def system_of(wildcards):
    """Return the system of a job."""
    return system_named(config, wildcards.task, wildcards.system)


def told_system(wildcards):
    """Return the system of a job as one canonical string."""
    return system_of(wildcards).told()


def bakeoff_images(wildcards):
    """Return the volumes that a bake-off looks at: what the stage before the task leaves."""
    return [f"{WORK}/{before(wildcards.task)}/{batch}" for batch in BATCHES]


def bakeoff_records(wildcards):
    """Return the records of the volumes that a bake-off looks at."""
    return [f"{WORK}/records/{before(wildcards.task)}/{batch}" for batch in BATCHES]


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
    """Return what the scoring of every system leaves."""
    return [
        f"{WORK}/bakeoff/{wildcards.task}/scores/{system.name}"
        for system in systems_of(config, wildcards.task)
    ]


def searched(wildcards):
    """Return what the search of settings leaves, where there is one."""
    asked = config["bakeoff"][wildcards.task]["adjust"]
    return [] if asked is None else f"<results>/bakeoff/{wildcards.task}/adjust"


def bakeoff_config(wildcards):
    """Return what of the configuration a bake-off's result depends on, canonical."""
    sections = {stage: config[stage] for stage in ("denoise", "superresolve")}
    own = {wildcards.task: config["bakeoff"][wildcards.task]}
    return canonical({"bakeoff": own, "seed": config["seed"], **sections})


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
    return gpus(wildcards.task) if system_of(wildcards).kind == "network" else 0


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


rule bakeoff_train:
    """Train one system of a bake-off on the cohort's training subjects, with the budget that all have."""
    input:
        images=bakeoff_images,
        before=bakeoff_records,
    output:
        directory("<work>/bakeoff/{task}/models/{system}"),
    log:
        "<logs>/bakeoff/{task}/train_{system}.log",
    benchmark:
        "<benchmarks>/bakeoff/{task}/train_{system}.tsv"
    priority: 60
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=TRAINED["mem_mb"],
        runtime=TRAINED["runtime"],
        disk_mb=TRAINED["disk_mb"],
        gpu=network_gpus,
        device=config["device"],
    params:
        system=told_system,
        config=bakeoff_config,
        work=work_folder,
    script:
        "../scripts/bakeoff.py"


rule bakeoff_score:
    """Restore simulated pairs of validation and test subjects with one system of a bake-off, and measure."""
    input:
        images=bakeoff_images,
        before=bakeoff_records,
        model=bakeoff_model,
    output:
        directory("<work>/bakeoff/{task}/scores/{system}"),
    log:
        "<logs>/bakeoff/{task}/score_{system}.log",
    benchmark:
        "<benchmarks>/bakeoff/{task}/score_{system}.tsv"
    priority: 60
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=SCORED["mem_mb"],
        runtime=SCORED["runtime"],
        disk_mb=SCORED["disk_mb"],
        gpu=network_gpus,
        device=config["device"],
    params:
        system=told_system,
        model=bakeoff_weights,
        config=bakeoff_config,
        work=work_folder,
    script:
        "../scripts/bakeoff.py"


rule bakeoff_adjust:
    """Try settings of one system, measure them on validation subjects, keep the best, and leave what the steps made."""
    input:
        images=bakeoff_images,
        before=bakeoff_records,
    output:
        directory("<results>/bakeoff/{task}/adjust"),
    log:
        "<logs>/bakeoff/{task}/adjust.log",
    benchmark:
        "<benchmarks>/bakeoff/{task}/adjust.tsv"
    priority: 60
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=SEARCHED["mem_mb"],
        runtime=SEARCHED["runtime"],
        disk_mb=SEARCHED["disk_mb"],
        device=config["device"],
    params:
        model=searched_weights,
        config=bakeoff_config,
        work=work_folder,
    script:
        "../scripts/bakeoff.py"


rule bakeoff_page:
    """Write the leaderboard of a bake-off from the scores of its systems."""
    input:
        scores=bakeoff_scores,
        adjust=searched,
    output:
        table="<results>/bakeoff/{task}/leaderboard.tsv",
        markdown="<results>/bakeoff/{task}/leaderboard.md",
        page="<results>/bakeoff/{task}/index.html",
        pictures=directory("<results>/bakeoff/{task}/pictures"),
    log:
        "<logs>/bakeoff/{task}/page.log",
    benchmark:
        "<benchmarks>/bakeoff/{task}/page.tsv"
    priority: 70
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("report"),
        runtime=time_of("report"),
        disk_mb=disk_of("report"),
    params:
        config=bakeoff_config,
        work=work_folder,
    script:
        "../scripts/bakeoff.py"


rule bakeoff_denoise:
    """The bake-off of noise reduction."""
    input:
        "<results>/bakeoff/denoise/leaderboard.tsv",


rule bakeoff_superresolve:
    """The bake-off of super-resolution."""
    input:
        "<results>/bakeoff/superresolve/leaderboard.tsv",
