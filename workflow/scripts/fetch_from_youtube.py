"""Fetch the videos of one shard with yt-dlp, and list them and those that are gone."""

from pathlib import Path

from avfusion.data.annotations import read_annotations
from avfusion.data.youtube import Archive, YoutubeOptions, fetch_from_youtube
from avfusion.media.listing import file_of, find_files, list_videos, videos_of, write_listing
from avfusion.media.source import media_options
from avfusion.runlog import job

with job(snakemake.log[0]):
    config, media = snakemake.params.config, Path(snakemake.output[0]).parent
    shard, shards = map(int, snakemake.wildcards.shard.split("of"))
    annotations = read_annotations(snakemake.input.annotations)
    subsets = list(snakemake.params.subsets.values())
    videos = [name for name, _ in videos_of(annotations, subsets, shard, shards)]
    options = media_options(config, YoutubeOptions)
    present = find_files(options.path) if options.path else {}
    present |= find_files(media / "videos", may_be_empty=True)
    there = {video: path for video in videos if (path := file_of(video, present))}
    archive = Archive(media / "archive.tsv")
    files, gone = fetch_from_youtube(videos, options, media / "videos", there, archive, config)
    write_listing(snakemake.output[0], list_videos(annotations, subsets, files, shard, shards, gone))
