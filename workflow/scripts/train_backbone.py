"""Train the backbone of one stream of the demo on clips of the training subset."""

from avfusion.backbones.from_config import stream_config
from avfusion.data.annotations import clip_to_duration, read_annotations
from avfusion.data.manifest import read_manifest
from avfusion.demo.backbone import BackboneTraining, train_backbone
from avfusion.options import read_options
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    params = snakemake.params
    annotations = read_annotations(snakemake.input.annotations).subset(params.subset)
    source = f"config/datasets/{snakemake.wildcards.dataset}.yaml"
    train_backbone(
        stream_config(snakemake.wildcards.stream, params.streams),
        read_manifest(snakemake.input.manifest),
        clip_to_duration(annotations),
        params.seed,
        snakemake.output.weights,
        read_options(BackboneTraining, params.options, source, "backbone_training"),
    )
