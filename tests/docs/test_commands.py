"""Commands in README and docs exist as they are written: programs, subcommands, flags, settings, targets, extras."""

import functools
import re
import subprocess
import sys
import tomllib

import pytest

from acestep_rpc.settings import ServerSettings
from tests.docs.commands import PAGES, ROOT, Command, documented_commands

COMMANDS = [command for page in PAGES for command in documented_commands(page)]
OURS = [command for command in COMMANDS if command.program in ("acestep", "acestep-train", "python")]
WITH_SUBCOMMANDS = ("training.streamed",)
SETTINGS = re.compile(r"ACESTEP_(ENCODER|DIFFUSION|VAE|ORCHESTRATOR)_([A-Z_]*[A-Z])")


def invocation(command: Command) -> tuple[str, ...]:
    """Interpreter, module and subcommands of one of our programs."""
    if command.program == "python":
        assert command.words[1] == "-m", command
        return command.words[2 : 4 if command.words[2] in WITH_SUBCOMMANDS else 3]
    module = {"acestep": "clients.cli.main", "acestep-train": "training.__main__"}[command.program]
    subcommands = [command.words[1]]
    if command.words[1] in ("jobs", "adapters", "keys", "cluster"):
        subcommands += command.words[2:3] if not command.words[2:3] or not command.words[2].startswith("-") else ()
    return (module, *subcommands)


@functools.cache
def help_of(names: tuple[str, ...]) -> str:
    shown = subprocess.run([sys.executable, "-m", *names, "--help"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert shown.returncode == 0, f"{' '.join(names)}: {shown.stderr}"
    return shown.stdout


def test_pages_have_commands():
    pages = {command.page for command in COMMANDS}
    assert {"README.md", "docs/index.md", "docs/training.md", "docs/jobs.md"} <= pages
    assert len(OURS) >= 40


@pytest.mark.parametrize("command", OURS, ids=lambda command: f"{command.page}: {command.text[:60]}")
def test_flags_exist(command):
    known = set(re.findall(r"--[a-z][a-z0-9_-]*", help_of(invocation(command))))
    assert set(command.flags) <= known


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for command in COMMANDS if command.program == "make" for word in command.words[1:] if "=" not in word}
    assert named <= targets


def test_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra.strip()
        for command in COMMANDS
        if command.program == "pip"
        for word in command.words
        for found in re.findall(r"\[(.*)\]", word)
        for extra in found.split(",")
    }
    assert named
    assert named <= set(extras)


def test_settings_exist():
    from diffusion_svc.settings import Settings as Diffusion
    from encoder_svc.settings import Settings as Encoder
    from orchestrator.settings import Settings as Orchestrator
    from vae_svc.settings import Settings as Vae

    classes: dict[str, type[ServerSettings]] = {"ENCODER": Encoder, "DIFFUSION": Diffusion, "VAE": Vae, "ORCHESTRATOR": Orchestrator}
    for page in PAGES:
        for service, name in SETTINGS.findall(page.read_text(encoding="utf-8")):
            assert name.lower() in classes[service].__dataclass_fields__, f"{page.name}: ACESTEP_{service}_{name}"
