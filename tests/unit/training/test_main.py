import importlib

import pytest

from training.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_lists_its_flags(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--" in capsys.readouterr().out
    assert importlib.import_module(COMMANDS[command][0]).main


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {command} " in printed for command in COMMANDS)


def test_an_unknown_command_is_refused():
    with pytest.raises(SystemExit):
        main(["sing"])


def test_a_command_gets_the_rest_of_the_line(tmp_path, capsys):
    assert main(["convert", "--data_dir", str(tmp_path / "no")]) == 1
    assert "acestep-train convert: " in capsys.readouterr().err
