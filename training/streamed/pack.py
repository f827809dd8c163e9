"""What `training.streamed` needs beside the transformer, from a dataset of the corpus and a small checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder_svc import weights as encoder_weights
from encoder_svc.text_tokenizer import TextTokenizer
from training import embedded
from training.closed_form_codec import PATCH_SIZE, encoder_shortcut
from training.corpus.labels import BEATS_PER_BAR
from training.corpus.prepare import FIT_EVERY, score_statistics
from training.corpus.song import SONG_FRAMES, song_from_json
from training.shards import ShardedDataset
from training.streamed.songs import caption_rows, eight_bits, score_row
from vae_svc.codec import LATENT_SCALE, LATENT_SHIFT
from vae_svc.weights import DCAE_FOLDER, WEIGHTS_FILE


def tag_states(checkpoint: Path) -> tuple[list[str], Tensor]:
    """Tags, the end ('') last, and their states, which do not depend on their neighbours."""
    encoder = encoder_weights.load_text_encoder(checkpoint, torch.device("cpu"), torch.float32)
    tokenizer = TextTokenizer(checkpoint, encoder.umt5.config.vocab_size)
    names = [*embedded.known_tags(), ""]
    states = []
    with torch.no_grad():
        for name in names:
            ids = torch.tensor([tokenizer.encode(name or names[0])])
            states.append(encoder(ids, torch.ones_like(ids))[0][0 if name else -1])
    return names, torch.stack(states)


def codec_matrix(checkpoint: Path) -> dict[str, Tensor]:
    """The encoder of a closed-form codec."""
    tensors = load_file(checkpoint / DCAE_FOLDER / WEIGHTS_FILE)
    weight = tensors["encoder.conv_out.weight"][:, :PATCH_SIZE, 1, 1].float() + encoder_shortcut()
    return {
        "codec.weight": weight,
        "codec.bias": tensors["encoder.conv_out.bias"].float(),
        "codec.shift": torch.tensor(LATENT_SHIFT),
        "codec.scale": torch.tensor(LATENT_SCALE),
    }


def write_pack(datasets: Sequence[Path], folders: Sequence[Path], checkpoint: Path, output: Path) -> None:
    """Write OUTPUT, a safetensors file, and the names of the tags beside it."""
    names, states = tag_states(checkpoint)
    tags = {tag: number for number, tag in enumerate(names)}
    labels = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    songs = {path.stem: song_from_json(json.loads(path.read_text(encoding="utf-8"))) for path in labels}
    rows: dict[str, list[Tensor]] = {name: [] for name in ("latents", "score", "phones", "captions", "lyric_ids", "lyric_from", "lyric_to")}
    bar_frames, instrumental = [], torch.zeros(0)
    for dataset in (ShardedDataset(path) for path in datasets):
        for number, key in enumerate(dataset.keys):
            song = songs[key]
            crop = dataset.read(number, 0, 0, SONG_FRAMES)
            if song.voice is None:
                instrumental = crop.lyric_ids
                continue
            if crop.num_frames != SONG_FRAMES:
                continue
            ids, lines = dataset.lyrics(number)
            assert lines is not None
            first, last = torch.full((len(ids),), 2**20), torch.full((len(ids),), -1)
            first[: int(lines[0, 2])], last[: int(lines[0, 2])] = -1, 2**20
            for start, end, low, high in lines.tolist():
                first[low:high], last[low:high] = start, end
            values = (
                torch.from_numpy(eight_bits(crop.latents.flatten(0, 1).T.contiguous())),
                torch.from_numpy(score_row(song)),
                crop.features[embedded.PHONE].argmax(-1).to(torch.uint8),
                torch.from_numpy(caption_rows(song, tags)),
                ids,
                first,
                last,
            )
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            bar_frames.append(BEATS_PER_BAR * float(song.beat_frames))
    longest = max(len(ids) for ids in rows["lyric_ids"])
    behind = {"lyric_ids": 0, "lyric_from": 2**20, "lyric_to": -1}
    for name, filling in behind.items():
        rows[name] = [torch.nn.functional.pad(row, (0, longest - len(row)), value=filling) for row in rows[name]]
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    tensors |= codec_matrix(checkpoint)
    tensors |= {"bar_frames": torch.tensor(bar_frames), "tags": states, "instrumental_ids": instrumental}
    tensors["statistics"] = score_statistics([songs[path.stem] for path in labels[::FIT_EVERY]])
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, output)
    output.with_suffix(".json").write_text(json.dumps(names), encoding="utf-8")
    print(f"{len(bar_frames)} sung songs, lyrics of up to {longest} tokens, {output.stat().st_size / 1e6:.1f} MB")
