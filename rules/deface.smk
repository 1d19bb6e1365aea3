rule deface:
    """Take the face out of the heads of a batch."""
    input:
        images=stage_before("deface"),
        before=record_before("deface"),
        models=model_folder("deface"),
    output:
        images=kept("deface", directory("<work>/deface/{batch}")),
        record=directory("<work>/records/deface/{batch}"),
    log:
        "<logs>/deface/{batch}.log",
    benchmark:
        "<benchmarks>/deface/{batch}.tsv"
    priority: 100 + position("deface")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("deface"),
        runtime=minutes("deface"),
        disk_mb=disk("deface"),
        gpu=gpus("deface"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("deface"),
        version=stage_version("deface"),
        seed=config["seed"],
        work=work_folder,
        models=models("deface"),
    script:
        "../scripts/deface.py"
