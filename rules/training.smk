# Detectors: trained on the training subset; those that score proposals are then asked about the test subset's.


rule train:
    input:
        unpack(features_of),
        proposals=proposals,
        initial=initial_file,
        annotations="results/{dataset}/annotations.json",
    output:
        checkpoint="results/{dataset}/models/{experiment}/seed{seed}/checkpoint.pt",
        history="results/{dataset}/models/{experiment}/seed{seed}/training.csv",
    log:
        "logs/{dataset}/train/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/train/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=one_of(TRAINED),
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "training")
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=gpus,
    params:
        experiment=experiment,
        model=model,
        training=training,
        initial=initial,
        # no output: what is not finished must survive the failure of the job, and goes when it ends well
        resume="results/{dataset}/models/{experiment}/seed{seed}/unfinished.pt",
        board=board,
        best=option("proposals", "best"),
        missing_audio=option("missing_audio"),
        subset=option("subsets", "train"),
        device=option("device"),
        threads=option("threads", "training"),
        code=code("train.py"),
    script:
        "../workflow/scripts/train.py"


ruleorder: import_checkpoint > train


rule import_checkpoint:
    input:
        lambda wildcards: if_there(released(wildcards)),
        unpack(features_of),
        annotations="results/{dataset}/annotations.json",
    output:
        checkpoint="results/{dataset}/models/{experiment}/seed{seed}/checkpoint.pt",
    log:
        "logs/{dataset}/import_checkpoint/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/import_checkpoint/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        # Looking back, because whether there is a released checkpoint depends on the dataset as well.
        experiment="|".join(
            f"(?<=results/{re.escape(name)}/models/){re.escape(experiment)}"
            for name, dataset in CONFIG.datasets.items()
            for experiment in dataset["checkpoints"]
        )
        or one_of([]),
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        path=released,
        experiment=experiment,
        model=model,
        missing_audio=option("missing_audio"),
        code=code("import_checkpoint.py"),
    script:
        "../workflow/scripts/import_checkpoint.py"


rule predict:
    input:
        unpack(features_of),
        checkpoint="results/{dataset}/models/{experiment}/seed{seed}/checkpoint.pt",
        proposals=proposals,
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/scores/{experiment}/seed{seed}.h5",
    log:
        "logs/{dataset}/predict/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/predict/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(trained=True, proposing=False),
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "training")
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        experiment=experiment,
        best=option("proposals", "best"),
        missing_audio=option("missing_audio"),
        subset=option("subsets", "test"),
        device=option("device"),
        threads=option("threads", "training"),
        code=code("predict.py"),
    script:
        "../workflow/scripts/predict.py"
