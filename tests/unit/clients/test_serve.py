import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.failures import CommandFailed, ExitCode
from clients.cli.main import build_parser
from clients.cli.serve import environment


def _variables(*argv: str) -> tuple[str, dict[str, str]]:
    service, variables = environment(build_parser().parse_args(["serve", *argv]))
    return service.module, variables


@pytest.mark.parametrize("stage", ["encoder", "diffusion", "vae"])
def test_flags_of_a_stage_become_its_prefixed_variables(stage: str) -> None:
    # fmt: off
    module, variables = _variables(
        stage, "--checkpoint", "ck", "--host", "0.0.0.0", "--port", "50051", "--metrics-port", "9000", "--device", "cpu",
        "--dtype", "float32", "--threads", "2", "--drain-seconds", "5", "--ready-file", "ready.json",
    )
    # fmt: on
    prefix = f"ACESTEP_{stage.upper()}_"
    assert module == f"{stage}_svc"
    assert variables == {
        f"{prefix}CHECKPOINT": "ck",
        f"{prefix}HOST": "0.0.0.0",
        f"{prefix}PORT": "50051",
        f"{prefix}METRICS_PORT": "9000",
        f"{prefix}DEVICE": "cpu",
        f"{prefix}DTYPE": "float32",
        f"{prefix}THREADS": "2",
        f"{prefix}DRAIN_SECONDS": "5.0",
        f"{prefix}READY_FILE": "ready.json",
    }


def test_flags_left_out_set_no_variable_but_the_checkpoint_of_the_package() -> None:
    assert _variables("encoder") == ("encoder_svc", {"ACESTEP_ENCODER_CHECKPOINT": str(EMBEDDED_CHECKPOINT)})
    assert (
        _variables("orchestrator", "--encoder", "a:1", "--diffusion", "b:2", "--vae", "c:3")[1]
        .keys()
        .isdisjoint({"ACESTEP_ORCHESTRATOR_CHECKPOINT"})
    )


def test_a_checkpoint_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACESTEP_ENCODER_CHECKPOINT", "elsewhere")
    assert _variables("encoder") == ("encoder_svc", {})


def test_orchestrator_takes_the_targets_of_its_stages() -> None:
    module, variables = _variables("orchestrator", "--encoder", "a:1", "--diffusion", "b:2", "--vae", "c:3")
    assert module == "orchestrator"
    assert variables == {"ACESTEP_ORCHESTRATOR_ENCODER": "a:1", "ACESTEP_ORCHESTRATOR_DIFFUSION": "b:2", "ACESTEP_ORCHESTRATOR_VAE": "c:3"}


def test_embedded_is_the_orchestrator_with_a_checkpoint() -> None:
    module, variables = _variables("--embedded", "--checkpoint", "ck")
    assert module == "orchestrator"
    assert variables == {"ACESTEP_ORCHESTRATOR_EMBEDDED": "true", "ACESTEP_ORCHESTRATOR_CHECKPOINT": "ck"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a service"),
        (["encoder", "--embedded"], "leave out 'encoder'"),
        (["orchestrator", "--checkpoint", "ck"], "--checkpoint does not apply to orchestrator"),
        (["encoder", "--vae", "c:3"], "--vae does not apply to encoder"),
        (["--embedded", "--encoder", "a:1"], "--encoder does not apply to --embedded"),
    ],
)
def test_flags_that_do_not_belong_together_are_a_usage_error(argv: list[str], message: str) -> None:
    with pytest.raises(CommandFailed, match=message) as failure:
        _variables(*argv)
    assert failure.value.exit_code == ExitCode.USAGE


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    # An interpreter without torch, as an image of another service is.
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from clients.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "serve", "encoder", "--checkpoint", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "acestep: the Python package 'torch' is not installed; run: pip install 'acestep-serving[encoder]'\n"


def test_the_command_line_imports_no_service_and_no_torch() -> None:
    code = "import sys, clients.cli.main; print([m for m in sys.modules if m.split('.')[0] in sys.argv])"
    names = ["encoder_svc", "diffusion_svc", "vae_svc", "orchestrator", "training", "torch", "transformers", "huggingface_hub", "rich"]
    assert subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_reader_that_has_enough_ends_a_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli.main", "completion", "bash"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.NOT_READ, "")


def test_tls_and_tenants_are_passed_on_where_they_belong() -> None:
    tls = ["--tls-cert", "c.pem", "--tls-key", "c.key", "--tls-client-ca", "ca.pem", "--tls-allowed-clients", "a,b"]
    variables = _variables("vae", *tls)[1]
    assert {name: value for name, value in variables.items() if "TLS" in name} == {
        "ACESTEP_VAE_TLS_CERT": "c.pem",
        "ACESTEP_VAE_TLS_KEY": "c.key",
        "ACESTEP_VAE_TLS_CLIENT_CA": "ca.pem",
        "ACESTEP_VAE_TLS_ALLOWED_CLIENTS": "a,b",
    }
    for flag in ("--authentication", "--tenants", "--stage-tls-ca"):
        with pytest.raises(CommandFailed, match=f"{flag} does not apply to vae"):
            _variables("vae", flag, "keys")
    targets = ["--encoder", "a:1", "--diffusion", "b:2", "--vae", "c:3"]
    own = ["--authentication", "keys", "--tenants", "t.toml", "--stage-tls-ca", "ca.pem"]
    variables = _variables("orchestrator", *targets, *own)[1]
    assert variables["ACESTEP_ORCHESTRATOR_TENANTS"] == "t.toml"
    assert variables["ACESTEP_ORCHESTRATOR_STAGE_TLS_CA"] == "ca.pem"
