"""``--with KEY=VALUE``: what a text is read as, and what is refused."""

import pytest

from launcher.engines.hosts import HostSettings
from launcher.engines.settings import read_settings
from launcher.engines.skypilot_task import SkySettings
from launcher.engines.slurm_settings import SlurmSettings
from planner.base.errors import InvalidRequestError


def test_texts_are_read_as_what_a_setting_is() -> None:
    found = read_settings(SlurmSettings, "slurm", {"cpus_per_task": "8", "mem": "64G"})
    assert (found.cpus_per_task, found.mem, found.warning) == (8, "64G", 120)
    assert read_settings(SkySettings, "skypilot", {"spot": "true", "volume": "null"}) == (
        SkySettings(spot=True, volume="null")
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cpus_per_task": "0"}, "cpus_per_task: it should be a whole number >= 1, not the text"),
        ({"cpus_per_task": "many"}, "cpus_per_task: it should be a whole number or null, not"),
        ({"partition": "two words"}, "partition: it should be a text matching"),
        ({"partition": "long\n"}, "partition: it should be a text matching"),
        ({"export": "HOME\n"}, "export: it should be a text matching"),
        ({"partion": "long"}, "partion: slurm has no such setting. Did you mean 'partition'?"),
    ],
)
def test_what_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        read_settings(SlurmSettings, "slurm", given)
    assert said in str(error.value)


def test_a_setting_that_is_needed() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"--with hosts=\.\.\.: a file with one host per line"
    ):
        read_settings(HostSettings, "hosts", {})
