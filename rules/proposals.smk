# Candidate segments for the detectors that score them: windows, a list, or what G-TAD proposes.


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


rule propose:
    input:
        unpack(features_of),
        checkpoint="results/{dataset}/models/{experiment}/seed{seed}/checkpoint.pt",
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/proposals/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/propose/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/propose/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(trained=True, proposing=True),
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "training")
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=gpus,
    params:
        experiment=experiment,
        missing_audio=option("missing_audio"),
        subsets=option("subsets"),
        device=option("device"),
        threads=option("threads", "training"),
        code=code("propose.py"),
    script:
        "../workflow/scripts/propose.py"


rule pool_proposals:
    input:
        of_members("proposals"),
    output:
        "results/{dataset}/proposals/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/pool_proposals/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/pool_proposals/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(trained=False, proposing=True),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code("pool_proposals.py"),
    script:
        "../workflow/scripts/pool_proposals.py"
