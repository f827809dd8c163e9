"""Choose the recordings that travel with the project: python -m tests.parity.select_golden FROM TO.

The whole set is larger than a repository should hold. Of the checkpoint, what no stage reads is left out; of a run, what lies between its
start and its end.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from diffusion_svc.weights import DEAD_PARTS, TRAINING_PREFIXES

MAX_BYTES = 12_000_000
LEFT_OUT_OF_CHECKPOINT = (*DEAD_PARTS, *TRAINING_PREFIXES, "mel_transform.")
MODULES = (
    "text_encoder", "rope", "time_embed", "patch_embed", "lyric_encoder", "lyric_encoder_temperature", "encode", "block", "decode",
    "bf16_encode_decode", "scheduler_tables", "scheduler_step_euler_omega10p0", "guidance", "seeded_noise",
)  # fmt: skip
RUNS = (
    "t2m_euler_apg_erg", "t2m_euler_cfg_noerg", "t2m_heun_apg_noerg", "t2m_heun_cfg_star_noerg", "t2m_batch2_euler_apg",
    "t2m_erg_tag0_lyric1_diff1", "t2m_double_erg", "t2m_empty_lyrics", "t2m_empty_prompt", "t2m_defaults_guid15", "t2m_oss_pingpong",
    "retake_v0p2", "repaint_batch2", "extend_both_v1p0", "edit_avg2_window", "a2a_heun_0p5", "lora_plain_w0p5_heun",
)  # fmt: skip
CODEC = (
    "mel", "encode_stereo_44k_odd", "encode_stereo_tiny", "load_mono_16k", "load_stereo_44k_24bit", "decode_2", "vocoder",
)  # fmt: skip
BETWEEN = ("latents_before_", "decode_", "apg_running_", "iter")  # what a run passes through
SIGNALS = ("silence_4096", "impulse_4096")  # of the mel case


def main(source: Path, target: Path) -> None:
    """Write the selection."""
    for path in sorted((source / "checkpoint").rglob("*")):
        if path.suffix == ".safetensors":
            _copy(path, target / path.relative_to(source), lambda name: not any(part in name for part in LEFT_OUT_OF_CHECKPOINT))
        elif path.is_file():
            _plain_copy(path, target / path.relative_to(source))

    index = json.loads((source / "INDEX.json").read_text())
    index["cases"] = [entry for entry in index["cases"] if entry["id"] in MODULES + RUNS]
    del index["notes"]
    for entry in index["cases"]:
        for key in ("inputs", "outputs"):
            if entry.get(key):
                _copy(source / entry[key], target / entry[key], lambda name: not name.startswith(BETWEEN))
        if adapter := entry["params"].get("lora_name_or_path"):
            _copy(*(folder / adapter / "pytorch_lora_weights.safetensors" for folder in (source, target)), lambda _: True)
    _write(target / "INDEX.json", index)

    codec = json.loads((source / "INDEX_codec.json").read_text())
    cases = [entry for entry in codec["codec"]["cases"] if entry["case"] in CODEC]
    for entry in cases:
        _copy(source / entry["file"], target / entry["file"], lambda name: "." not in name or name.split(".")[1] in SIGNALS)
        if "file" in entry.get("params", {}):
            _plain_copy(source / entry["params"]["file"], target / entry["params"]["file"])
    _write(target / "INDEX_codec.json", {"about": codec["about"], "codec": {**codec["codec"], "cases": cases}})
    for name in ("official_state_dict.json", "official_state_dict_codec.json"):
        _write(target / name, json.loads((source / name).read_text()))

    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"more than {MAX_BYTES:,}: choose fewer")


def _copy(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor for name, tensor in load_file(source).items() if wanted(name) and name != "filterbank"}, target)


def _plain_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
