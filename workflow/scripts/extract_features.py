"""Make the features of one stream of one shard of the videos: extract them, or take those that are there."""

from avfusion.backbones.extract import Running, extract_shard
from avfusion.backbones.from_config import ready_backbone, stream_config
from avfusion.data.import_features import import_shard
from avfusion.data.manifest import read_manifest
from avfusion.engine.device import choose_device
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    stream, params = snakemake.wildcards.stream, snakemake.params
    rows = read_manifest(snakemake.input.manifest)
    given = params.streams[stream]["features"]
    if given:
        import_shard(rows, stream, given, snakemake.output[0])
    else:
        running = Running(str(choose_device(params.device)), params.threads, **params.get("running", {}))
        config = stream_config(stream, params.streams)
        expected = params.streams[stream].get("weights_sha256")
        backbone = ready_backbone(config, params.weights, running.device, expected)
        extract_shard(rows, [config], {stream: backbone}, snakemake.output[0], running)
