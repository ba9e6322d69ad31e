"""How many of the actions the proposals find: average recall over their average number (AR@AN)."""

from avfusion.data.annotations import read_annotations
from avfusion.data.proposals import read_proposals, read_ranked
from avfusion.evaluation.average_recall import as_detections, average_recall, in_random_order
from avfusion.files import write_json
from avfusion.runlog import job

with job(snakemake.log[0]):
    annotations = read_annotations(snakemake.input.annotations).subset(snakemake.params.subset)
    path = snakemake.input.proposals
    ranked = read_ranked(path) if snakemake.params.ranked else in_random_order(read_proposals(path), 0)
    ranked = {video: value for video, value in ranked.items() if video in annotations.videos}
    write_json(snakemake.output[0], average_recall(as_detections(ranked), annotations).to_json())
