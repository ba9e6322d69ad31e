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


rule listed_proposals:
    input:
        lambda wildcards: [
            found
            for path in option("proposals", "list")(wildcards)
            for found in if_there(path)
        ],
        manifest="results/{dataset}/manifest.tsv",
    output:
        "results/{dataset}/proposals/list.h5",
    log:
        "logs/{dataset}/listed_proposals.log",
    benchmark:
        "benchmarks/jobs/{dataset}/listed_proposals.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        paths=option("proposals", "list"),
        code=code("listed_proposals.py"),
    script:
        "../workflow/scripts/listed_proposals.py"


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


rule classify:
    input:
        lambda wildcards: if_there(option("class_scores")(wildcards)),
        unpack(features_of),
        checkpoint="results/{dataset}/models/{experiment}/seed{seed}/checkpoint.pt",
        proposals="results/{dataset}/proposals/{experiment}/seed{seed}.h5",
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/class_scores/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/classify/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/classify/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(trained=True, proposing=True),
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "training")
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        experiment=experiment,
        class_scores=option("class_scores"),
        missing_audio=option("missing_audio"),
        subset=option("subsets", "test"),
        threads=option("threads", "training"),
        code=code("classify.py"),
    script:
        "../workflow/scripts/classify.py"


rule pool_proposals:
    input:
        proposals=of_members("proposals"),
        class_scores=of_members("class_scores"),
    output:
        proposals="results/{dataset}/proposals/{experiment}/seed{seed}.h5",
        class_scores="results/{dataset}/class_scores/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/pool_proposals/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/pool_proposals/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(trained=False, proposing=True),
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        ranking=option("detectors", "gtad", "ranking"),
        code=code("pool_proposals.py"),
    script:
        "../workflow/scripts/pool_proposals.py"
