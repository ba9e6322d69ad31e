"""Render one shard of the videos of the demo dataset, and list them."""

from pathlib import Path

from avfusion.data.annotations import read_annotations
from avfusion.demo.config import DemoConfig
from avfusion.demo.render import render_shard
from avfusion.media.listing import list_videos, write_listing
from avfusion.runlog import job

with job(snakemake.log[0]):
    source = f"config/datasets/{snakemake.wildcards.dataset}.yaml"
    config = DemoConfig.from_mapping(snakemake.params.demo, source)
    shard, shards = map(int, snakemake.wildcards.shard.split("of"))
    folder = Path(snakemake.output[0]).parent / "videos"
    files = {p.stem: p for p in render_shard(config, shard, shards, folder, snakemake.params.seed)}
    annotations = read_annotations(snakemake.input.annotations)
    subsets = snakemake.params.subsets.values()
    write_listing(snakemake.output[0], list_videos(annotations, subsets, files, shard, shards))
