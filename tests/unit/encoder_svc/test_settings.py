from pathlib import Path

import pytest

from acestep_rpc.settings import SettingsError, from_environment
from encoder_svc.settings import PREFIX, Settings


def read(**values):
    return from_environment(Settings, PREFIX, {PREFIX + name.upper(): value for name, value in values.items()})


def test_a_checkpoint_is_all_it_takes():
    settings = read(checkpoint="somewhere")
    assert (settings.checkpoint, settings.device, settings.dtype, settings.threads) == (Path("somewhere"), "auto", "auto", 0)
    with pytest.raises(SettingsError, match="ACESTEP_ENCODER_CHECKPOINT must be set"):
        read()


@pytest.mark.parametrize(("name", "value"), [("dtype", "float16"), ("threads", "-1"), ("cache_bytes", "-1"), ("max_loaded_adapters", "-1")])
def test_a_bad_value_is_named(name, value):
    with pytest.raises(SettingsError, match=f"ACESTEP_ENCODER_{name.upper()}"):
        read(checkpoint="somewhere", **{name: value})
