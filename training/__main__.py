"""`acestep-train COMMAND`: the trainer's commands, one module each, imported when it is asked for."""

import argparse
import sys
from importlib import import_module

COMMANDS = {
    "convert": ("training.convert", "songs of a folder, a JSONL or a parquet file to a dataset"),
    "validate": ("training.validate", "check every song of a dataset and explain what is wrong"),
    "preprocess": ("training.preprocess", "compute once what training needs of every song"),
    "train": ("training.train", "run a recipe over preprocessed songs"),
    "codec": ("training.codec_training", "train the codec's autoencoder on songs"),
    "vocoder": ("training.vocoder_training", "train the codec's vocoder on songs"),
}
"""Module and one line of help; a module has `main(arguments) -> exit code`."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names."""
    listing = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="acestep-train",
        description="Train networks of ACE-Step v1.",
        epilog=f"commands:\n{listing}\n\nacestep-train COMMAND --help lists a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=tuple(COMMANDS))
    given = sys.argv[1:] if arguments is None else arguments
    command = parser.parse_args(given[:1]).command
    code: int = import_module(COMMANDS[command][0]).main(given[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
