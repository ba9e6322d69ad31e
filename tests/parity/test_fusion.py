"""Encoding fusion against tal-hmo: the fixed schemes (modular_fusion.py), RM attention (TBMRF_block)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import recipe_weights
from torch import nn

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.errors import InputError
from avfusion.fusion.attention import attend, attention_layers
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


def attention_of(name: str, width: int) -> nn.Sequential:
    """Layers with the recipe's weights for `name`, such as U_v."""
    layers = attention_layers(width)
    weights = recipe_weights((f"{name}.{key}", value.shape) for key, value in layers.state_dict().items())
    layers.load_state_dict({key.removeprefix(f"{name}."): torch.from_numpy(w) for key, w in weights.items()})
    return layers


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    ("case", "suffix"),
    [
        ("muses1024", ""),
        ("pgcn512", "512"),
        ("pgcn1536", "1536"),
        ("gtad512", ""),
        ("gtad512_fullaudio", ""),
    ],
)
def test_rm_attention(golden: Path, case: str, suffix: str, blocks: int) -> None:
    with np.load(golden / "fusion/rm_attention.npz", allow_pickle=False) as stored:
        visual, sound, wanted = (
            torch.from_numpy(stored[f"{case}/{k}"]) for k in ("video", "audio", f"nb{blocks}")
        )
    layers = (attention_of(f"U_{side}{suffix}", visual.shape[-1]) for side in "va")
    with torch.no_grad():
        fused = attend(*layers, visual, sound, blocks)
    torch.testing.assert_close(fused, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
