rule superresolve:
    """Bring thick slices to thin ones."""
    input:
        images=stage_before("superresolve"),
        before=record_before("superresolve"),
        models=model_folder("superresolve"),
    output:
        images=kept("superresolve", directory("<work>/superresolve/{batch}")),
        record=directory("<work>/records/superresolve/{batch}"),
    log:
        "<logs>/superresolve/{batch}.log",
    benchmark:
        "<benchmarks>/superresolve/{batch}.tsv"
    priority: 100 + position("superresolve")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("superresolve"),
        runtime=minutes("superresolve"),
        disk_mb=disk("superresolve"),
        gpu=gpus("superresolve"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("superresolve"),
        version=stage_version("superresolve"),
        seed=config["seed"],
        work=work_folder,
        models=models("superresolve"),
    script:
        "../scripts/superresolve.py"
