from pathlib import Path

import pytest

from acestep_rpc.settings import SettingsError, from_environment
from orchestrator.settings import PREFIX, Settings


def read(**values: str) -> Settings:
    return from_environment(Settings, PREFIX, {PREFIX + name.upper(): value for name, value in values.items()})


def test_three_targets_make_an_orchestrator() -> None:
    settings = read(encoder="a:1", diffusion="b:2", vae="c:3", port="50050")
    assert (settings.encoder, settings.diffusion, settings.vae, settings.port) == ("a:1", "b:2", "c:3", 50050)
    assert not settings.embedded


def test_a_checkpoint_makes_an_embedded_one() -> None:
    settings = read(embedded="true", checkpoint="weights/tiny")
    assert settings.checkpoint == Path("weights/tiny")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "ENCODER"),
        ({"encoder": "a:1", "vae": "c:3"}, "ACESTEP_ORCHESTRATOR_DIFFUSION must be set"),
        ({"embedded": "true"}, "CHECKPOINT must be set"),
        ({"embedded": "true", "checkpoint": "x", "vae": "c:3"}, "VAE must not be set"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "checkpoint": "x"}, "CHECKPOINT must not be set"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "warm_adapters": "rap"}, "WARM_ADAPTERS must not be set"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "embeded": "true"}, "EMBEDED is not a setting"),
        ({"embedded": "true", "checkpoint": "x", "database_url": "postgresql://db/jobs"}, "STORE or .*DATA must be set"),
        ({"embedded": "true", "checkpoint": "x", "job_lease_seconds": "0.1"}, "JOB_LEASE_SECONDS must be at least 1"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "snapshot_seconds": "inf"}, "SNAPSHOT_SECONDS must be finite"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "snapshot_seconds": "nan"}, "SNAPSHOT_SECONDS must be at least 0"),
        ({"embedded": "true", "checkpoint": "x", "retention_bytes": "-1"}, "RETENTION_BYTES must be at least 0"),
        ({"embedded": "true", "checkpoint": "x", "authentication": "key"}, "AUTHENTICATION can have keys and jwt, not key"),
        ({"embedded": "true", "checkpoint": "x", "authentication": "keys"}, "TENANTS must be set"),
        ({"embedded": "true", "checkpoint": "x", "tenants": "file"}, "TENANTS must not be set without"),
        ({"embedded": "true", "checkpoint": "x", "authentication": "jwt", "jwt_issuer": "i", "jwt_keys": "k"}, "JWT_AUDIENCE must be set"),
        ({"embedded": "true", "checkpoint": "x", "jwt_issuer": "i"}, "JWT_ISSUER must not be set"),
        ({"embedded": "true", "checkpoint": "x", "stage_tls_ca": "ca.pem"}, "STAGE_TLS_CA needs stages of their own"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "stage_tls_server_name": "x"}, "needs stages .*STAGE_TLS_CA"),
        ({"encoder": "a:1", "diffusion": "b:2", "vae": "c:3", "stage_tls_cert": "x"}, "STAGE_TLS_KEY must be set together"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(values: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(**values)
