rule regseg:
    """Register the pairs of every subject and segment its images, jointly."""
    input:
        images=stage_before("regseg"),
        before=record_before("regseg"),
        models=model_folder("regseg"),
    output:
        images=kept("regseg", directory("<work>/regseg/{batch}")),
        record=directory("<work>/records/regseg/{batch}"),
    log:
        "<logs>/regseg/{batch}.log",
    benchmark:
        "<benchmarks>/regseg/{batch}.tsv"
    priority: 100 + position("regseg")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("regseg"),
        runtime=minutes("regseg"),
        disk_mb=disk("regseg"),
        gpu=gpus("regseg"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("regseg"),
        version=stage_version("regseg"),
        seed=config["seed"],
        work=work_folder,
        models=models("regseg"),
    script:
        "../scripts/regseg.py"
