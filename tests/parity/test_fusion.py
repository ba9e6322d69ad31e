"""The fixed encoding fusion against tal-hmo's modular_fusion.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.errors import InputError
from avfusion.fusion.encoding import fuse

CASES = [
    "r1to1", "r2to1", "r2to1_odd", "r3to1", "r3to1_rem", "r5to2", "r4to1", "r1to2", "r1to2_rem", "r1to3",
    "r3to4", "one_frame", "audio_one",
]  # fmt: skip
AXIS = TimeAxis(first=0.5, stride=1.0, window=1.0)


def test_all_cases_are_here(golden: Path) -> None:
    assert set(json.loads((golden / "fusion/fixed.json").read_text())) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_fixed_fusion(golden: Path, case: str) -> None:
    facts = json.loads((golden / "fusion/fixed.json").read_text())[case]
    with np.load(golden / "fusion/fixed.npz", allow_pickle=False) as stored:
        visual = VideoFeatures(stored[f"{case}/video"], AXIS)
        audio = VideoFeatures(stored[f"{case}/audio"].astype(np.float32), AXIS)
        np.testing.assert_array_equal(fuse("dup_trim", visual, audio).values, stored[f"{case}/duptrim"])
        if "error" in facts["concat"]:
            with pytest.raises(InputError, match=r"fusion 'concat'"):
                fuse("concat", visual, audio)
        else:
            np.testing.assert_array_equal(fuse("concat", visual, audio).values, stored[f"{case}/concat"])
        if facts["avgtrim"]["nan_values"]:  # a defect of the published code, which is refused here
            with pytest.raises(InputError, match=r"fusion 'avg_trim'"):
                fuse("avg_trim", visual, audio)
        else:
            values = fuse("avg_trim", visual, audio).values
            np.testing.assert_allclose(values, stored[f"{case}/avgtrim"], rtol=1e-6, atol=0)
