"""Operators of the detectors: documented functions, in C++ where it pays and was built."""

from avfusion.ops._extension import ExtensionStatus, extension_status
from avfusion.ops.align import align1d, project_align1d
from avfusion.ops.iou import iou1d
from avfusion.ops.msta import merge_branches, msta_conv1d
from avfusion.ops.nms import nms1d
from avfusion.ops.roi_pool import roi_max_pool1d
from avfusion.ops.soft_nms import SoftNms, soft_nms1d, vote1d
from avfusion.ops.tvl1 import TVL1Options, tvl1_flow

__all__ = [
    "ExtensionStatus",
    "SoftNms",
    "TVL1Options",
    "align1d",
    "extension_status",
    "iou1d",
    "merge_branches",
    "msta_conv1d",
    "nms1d",
    "project_align1d",
    "roi_max_pool1d",
    "soft_nms1d",
    "tvl1_flow",
    "vote1d",
]
