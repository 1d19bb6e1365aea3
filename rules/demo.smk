rule demo:
    """Simulate the scans of a batch of the demo cohort."""
    input:
        "<work>/cohort/batches/{batch}.tsv",
    output:
        directory("<work>/demo/{batch}"),
    log:
        "<logs>/demo/{batch}.log",
    benchmark:
        "<benchmarks>/demo/{batch}.tsv"
    priority: 100
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("demo"),
        runtime=time_of("demo"),
        disk_mb=disk_of("demo"),
    params:
        # Not the number of subjects: more heads make no head again.
        seed=config["demo"]["seed"],
        version=DEMO_VERSION,
    script:
        "../scripts/demo.py"
