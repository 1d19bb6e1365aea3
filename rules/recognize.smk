rule recognize:
    """Put a box around every thing that the configured network finds in the images of a batch."""
    input:
        images=stage_before("recognize"),
        before=record_before("recognize"),
        models=model_folder("recognize"),
    output:
        images=kept("recognize", directory("<work>/recognize/{batch}")),
        record=directory("<work>/records/recognize/{batch}"),
    log:
        "<logs>/recognize/{batch}.log",
    benchmark:
        "<benchmarks>/recognize/{batch}.tsv"
    priority: 100 + position("recognize")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("recognize"),
        runtime=minutes("recognize"),
        disk_mb=disk("recognize"),
        gpu=gpus("recognize"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("recognize"),
        version=stage_version("recognize"),
        seed=config["seed"],
        work=work_folder,
        models=models("recognize"),
    script:
        "../scripts/recognize.py"
