"""Extract one stream of one shard of the videos."""

from avfusion.backbones.extract import Running, extract_shard
from avfusion.backbones.from_config import ready_backbone, stream_config
from avfusion.data.manifest import read_manifest
from avfusion.engine.device import choose_device
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    stream, params = snakemake.wildcards.stream, snakemake.params
    running = Running(str(choose_device(params.device)), params.threads, **params.get("running", {}))
    config = stream_config(stream, params.streams)
    backbone = ready_backbone(config, params.weights, running.device)
    rows = read_manifest(snakemake.input.manifest)
    extract_shard(rows, [config], {stream: backbone}, snakemake.output[0], running)
