"""`acestep completion`: what a shell needs to complete commands, flags and choices."""

import argparse

from clients.cli.failures import missing_extra

_DESCRIPTION = """
Print the lines that teach a shell to complete this command. For good, once:

  acestep completion bash >> ~/.bashrc
  acestep completion zsh  >> ~/.zshrc
  acestep completion fish > ~/.config/fish/completions/acestep.fish
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "completion", help="print completion for a shell", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print it."""
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cli") from error
    print(shellcode(["acestep"], shell=args.shell))
