"""`python -m benchmarks.quality --checkpoint DIR`: how well a checkpoint makes music. See docs/quality.md."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.clips import Band, Generator, SamplingOptions, Sounds
from benchmarks.quality.evaluation import Evaluation, Sizes
from benchmarks.quality.hooks import Metric, load_metric, run_metric
from benchmarks.quality.report import summarise, table

FOLDERS = ("ace_step_transformer", "umt5-base", "music_dcae_f8c8", "music_vocoder")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder in the official layout, trained on the corpus")
    parser.add_argument("--output", type=Path, default=Path("outputs/quality"), help="clips and quality.json; default: %(default)s")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0], help="lengths; default: 10 30")
    for field in dataclasses.fields(Sizes):
        documented = f"default: {field.default}; see benchmarks/quality/evaluation.py"
        parser.add_argument("--" + field.name.replace("_", "-"), type=int, default=field.default, help=documented)
    parser.add_argument("--num-inference-steps", type=int, default=SamplingOptions.num_inference_steps, help="default: %(default)s")
    parser.add_argument("--guidance-scale", type=float, default=SamplingOptions.guidance_scale, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="where songs are sampled, as torch names it; default: %(default)s")
    parser.add_argument("--voice-cache", type=Path, help="folder for analyses of spoken lines; default: OUTPUT/voices")
    parser.add_argument("--metric", action="append", default=[], metavar="MODULE:FUNCTION", help="a metric of your own; may be repeated")
    options = parser.parse_args(arguments)
    missing = [name for name in FOLDERS if not (options.checkpoint / name).is_dir()]
    if missing:
        parser.error(f"--checkpoint {options.checkpoint} has no {', '.join(missing)}")
    return options


def run(options: argparse.Namespace, metrics: dict[str, Metric]) -> dict[str, Any]:
    """Evaluate at every length, print the tables, return everything."""
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
    sampling = SamplingOptions(options.num_inference_steps, options.guidance_scale)
    sounds = Sounds(options.checkpoint, options.output / "clips")
    band = Band(sounds, options.voice_cache or options.output / "voices")
    evaluation = Evaluation(sounds, band, Generator(options.checkpoint, sounds, sampling, torch.device(options.device)), sizes)
    results: dict[str, Any] = {
        "checkpoint": {"transformer_and_encoders": evaluation.generator.digest, "codec": sounds.digest},
        "sizes": dataclasses.asdict(sizes),
        "sampling": dataclasses.asdict(sampling),
    }
    for seconds in options.seconds:
        columns, generated, real = evaluation.evaluate(seconds)
        summary = summarise(columns)
        results[f"{seconds:g} s"] = {"figures": summary}
        print(f"\n{table(summary, f'{seconds:g} s')}\n", flush=True)
        if metrics:
            wavs = [[path.with_name(path.name + ".wav") for path in paths] for paths in (generated, real)]
            hooked = {name: run_metric(metric, *wavs) for name, metric in metrics.items()}
            results[f"{seconds:g} s"]["metrics"] = hooked
            print(json.dumps(hooked, indent=2), flush=True)
    return results


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and write OUTPUT/quality.json."""
    options = parse_arguments(arguments)
    try:
        results = run(options, {name: load_metric(name) for name in options.metric})
    except (RuntimeError, ValueError) as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    (options.output / "quality.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.output / 'quality.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
