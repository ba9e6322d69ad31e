"""Extract one stream of one shard of the videos."""

from avfusion.backbones.extract import extract_shard
from avfusion.backbones.from_config import ready_backbone, stream_config
from avfusion.data.manifest import read_manifest
from avfusion.engine.device import choose_device
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    stream, threads = snakemake.wildcards.stream, snakemake.params.threads
    device = str(choose_device(snakemake.params.device))
    config = stream_config(stream, snakemake.params.streams)
    backbone = ready_backbone(config, snakemake.params.weights, device)
    rows = read_manifest(snakemake.input.manifest)
    extract_shard(rows, [config], {stream: backbone}, snakemake.output[0], device, threads)
