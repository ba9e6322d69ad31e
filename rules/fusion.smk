# Decision fusion: what several trained detectors say becomes one answer, about the same proposals (scores) or
# about those of all of them (proposals).


rule fuse_scores:
    input:
        of_members("scores"),
    output:
        "results/{dataset}/scores/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/fuse_scores/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/fuse_scores/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=fused_by("scores"),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        weights=lambda wildcards: experiment(wildcards)["weights"],
        code=code("fuse_scores.py"),
    script:
        "../workflow/scripts/fuse_scores.py"


rule pool_scores:
    input:
        of_members("scores"),
    output:
        "results/{dataset}/scores/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/pool_scores/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/pool_scores/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=fused_by("proposals"),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code("pool_scores.py"),
    script:
        "../workflow/scripts/pool_scores.py"
