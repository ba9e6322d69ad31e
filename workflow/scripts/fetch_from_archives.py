"""Extract the videos of one shard from the archives of a dataset, and list them."""

from pathlib import Path

from avfusion.data.annotations import read_annotations
from avfusion.data.video_archives import ArchiveOptions, fetch_from_archives
from avfusion.media.listing import list_videos, videos_of, write_listing
from avfusion.media.source import media_options
from avfusion.runlog import job

with job(snakemake.log[0]):
    config = snakemake.params.config
    shard, shards = map(int, snakemake.wildcards.shard.split("of"))
    annotations = read_annotations(snakemake.input.annotations)
    subsets = list(snakemake.params.subsets.values())
    videos = [name for name, _ in videos_of(annotations, subsets, shard, shards)]
    folder = Path(snakemake.output[0]).parent / "videos"
    options = media_options(config, ArchiveOptions)
    files, absent = fetch_from_archives(videos, options, folder, config)
    write_listing(snakemake.output[0], list_videos(annotations, subsets, files, shard, shards, absent))
