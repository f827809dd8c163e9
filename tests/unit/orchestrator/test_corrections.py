import random
import re
from pathlib import Path
from typing import Any

import pytest

from acestep_rpc.v1 import music_pb2, sampling_pb2
from orchestrator.corrections import corrections
from orchestrator.plan import plan
from orchestrator.tasks import FRAME_SECONDS

SOURCE = {"asset": "assets/1"}
REPAINT = {"source": SOURCE, "regions": [{"start_seconds": 1, "end_seconds": 2}]}
EDIT = {"source": SOURCE, "target": {"tags": "jazz"}}
PINGPONG = {"scheduler_type": sampling_pb2.SCHEDULER_TYPE_PINGPONG}
DECAY = {"guidance_interval_decay": 0.5, "infer_step": 2}
TEN_SECONDS = int(10 / FRAME_SECONDS) * FRAME_SECONDS


def named(duration: float = TEN_SECONDS, **fields: Any) -> list[str]:
    request = music_pb2.GenerateRequest(**({"prompt": {"tags": "funk"}} | fields))
    return corrections(plan(request, random.Random(0), "drawn"), duration)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"retake": {}},
        {"repaint": REPAINT},
        {"repaint": REPAINT, "num_variants": 2},
        {"edit": EDIT},
        {"sampling": PINGPONG},
        {"sampling": {"omega_scale": 0}, "num_variants": 2},
        {"sampling": DECAY | {"guidance_scale": 1}},
        {"extend": {"source": SOURCE, "right_seconds": 2}},
        {"audio_to_audio": {"source": SOURCE, "ref_audio_strength": 1}},
        {"audio_to_audio": {"source": SOURCE}},
    ],
)
def test_what_the_reference_does_as_well_is_not_named(fields: dict[str, Any]) -> None:
    assert named(**fields) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("omega_mean_per_song", {"num_variants": 2}),
        ("pingpong_noise_per_song", {"num_variants": 2, "sampling": PINGPONG}),
        ("decay_over_one_step", {"sampling": DECAY}),
        ("oss_steps_in_float32", {"sampling": {"oss_steps": [1, 4]}}),
        ("repaint_variance_0_is_the_source", {"repaint": REPAINT | {"retake_variance": 0}}),
        ("repaint_of_several_regions", {"repaint": REPAINT | {"regions": [*REPAINT["regions"], {"start_seconds": 4, "end_seconds": 5}]}}),  # type: ignore[misc]
        ("extension_of_both_sides", {"extend": {"source": SOURCE, "left_seconds": 1, "right_seconds": 1}}),
        ("extension_longer_than_its_source", {"extend": {"source": SOURCE, "left_seconds": 6}}),
        ("extension_in_windows", {"extend": {"source": SOURCE, "right_seconds": 100}, "duration": 300.0}),
        ("edit_noise_per_song", {"edit": EDIT, "num_variants": 2}),
        ("pingpong_edit_follows_the_source", {"edit": EDIT, "sampling": PINGPONG}),
        ("audio_to_audio_steps_rounded", {"audio_to_audio": {"source": SOURCE, "ref_audio_strength": 0.9}, "sampling": {"infer_step": 10}}),
    ],
)
def test_a_corrected_behaviour_that_a_request_meets_is_named(name: str, fields: dict[str, Any]) -> None:
    assert named(**fields) == [name]


def test_a_repaint_with_oss_steps_names_both_of_its_corrections() -> None:
    assert named(repaint=REPAINT, sampling={"oss_steps": [1, 4]}) == ["oss_steps_in_float32", "repaint_counts_oss_steps"]


def test_the_documentation_explains_every_name() -> None:
    root = Path(__file__).parents[3]
    known = set(re.findall(r'"([a-z0-9]+(?:_[a-z0-9]+)+)"', (root / "orchestrator" / "corrections.py").read_text()))
    assert len(known) == 13
    assert known <= set(re.findall(r"`([a-z0-9_]+)`", (root / "docs" / "tasks.md").read_text()))
