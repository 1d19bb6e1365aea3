rule train:
    """Train the model of a stage on the cohort's training subjects."""
    input:
        images=training_folders,
        before=training_records,
    output:
        directory("<work>/models/{task}"),
    log:
        "<logs>/train/{task}.log",
    benchmark:
        "<benchmarks>/train/{task}.tsv"
    priority: 50
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        mem_mb=training_memory,
        runtime=training_minutes,
        disk_mb=training_disk,
        gpu=training_gpus,
        device=config["device"],
        last_attempt=last,
    params:
        settings=training_settings,
        seed=config["seed"],
        work=work_folder,
    script:
        "../scripts/train.py"
