from pathlib import Path

import pytest

from acestep_rpc.settings import SettingsError, from_environment
from diffusion_svc.settings import PREFIX, Settings


def read(**values):
    return from_environment(Settings, PREFIX, {PREFIX + name.upper(): value for name, value in values.items()})


def test_a_checkpoint_is_all_it_takes_and_there_are_no_adapters_then():
    settings = read(checkpoint="somewhere")
    assert (settings.checkpoint, settings.adapters, settings.max_loaded_adapters) == (Path("somewhere"), None, 4)
    assert read(checkpoint="somewhere", adapters="store").adapters == Path("store")


def test_a_negative_number_of_adapters_is_refused():
    with pytest.raises(SettingsError, match="ACESTEP_DIFFUSION_MAX_LOADED_ADAPTERS"):
        read(checkpoint="somewhere", max_loaded_adapters="-1")


def test_warm_adapters_need_a_store_with_room():
    assert read(checkpoint="somewhere", adapters="store", warm_adapters="rap, pop").warm_adapters == ("rap", "pop")
    for values in ({}, {"adapters": "store", "max_loaded_adapters": "1"}):
        with pytest.raises(SettingsError, match="ACESTEP_DIFFUSION_WARM_ADAPTERS='rap,pop'"):
            read(checkpoint="somewhere", warm_adapters="rap,pop", **values)


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan"])
def test_a_step_time_out_of_range_is_refused(seconds):
    with pytest.raises(SettingsError, match="ACESTEP_DIFFUSION_STEP_SECONDS"):
        read(checkpoint="somewhere", step_seconds=seconds)
