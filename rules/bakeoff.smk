"""Bake-offs: `snakemake bakeoff_<task>` compares systems on the user's own cohort."""


include: "bakeoff_common.smk"


wildcard_constraints:
    system=r"[a-z][a-z0-9_]*",


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
        config=system_config,
        work=work_folder,
    script:
        "../scripts/bakeoff.py"


rule bakeoff_score:
    """Run one system of a bake-off on simulated pairs, labelled scans or pairs of images of validation and test subjects, and measure."""
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
        config=system_config,
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


rule bakeoff_segment:
    """The bake-off of segmentation."""
    input:
        "<results>/bakeoff/segment/leaderboard.tsv",


rule bakeoff_regseg:
    """The bake-off of registration and segmentation."""
    input:
        "<results>/bakeoff/regseg/leaderboard.tsv",


rule bakeoff_classify:
    """The bake-off of classification."""
    input:
        "<results>/bakeoff/classify/leaderboard.tsv",


rule bakeoff_recognize:
    """The bake-off of recognition."""
    input:
        "<results>/bakeoff/recognize/leaderboard.tsv",
