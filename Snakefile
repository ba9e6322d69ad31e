# AVFusion: from raw videos with sound to a table of mAP. `snakemake -n` shows what would run,
# `snakemake --list-target-rules` what can be asked for; config/README.md explains every option.
from snakemake.utils import min_version

min_version("9.17")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/features.smk"
include: "rules/proposals.smk"
include: "rules/training.smk"
include: "rules/fusion.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        for_default("results/{dataset}/mAP.tsv", "results/{dataset}/report.html"),


# Stopping points on the way, for the datasets that `default` in config/config.yaml names.
rule manifests:
    input:
        for_default("results/{dataset}/manifest.tsv"),


rule features:
    input:
        for_default(feature_files),


rule models:
    input:
        for_default(checkpoints),
