# Candidate segments for the detectors that score them.


rule windows:
    input:
        manifest="results/{dataset}/manifest.tsv",
    output:
        "results/{dataset}/proposals/windows.h5",
    log:
        "logs/{dataset}/windows.log",
    benchmark:
        "benchmarks/jobs/{dataset}/windows.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        windows=option("proposals", "windows"),
        code=code("windows.py"),
    script:
        "../workflow/scripts/windows.py"
