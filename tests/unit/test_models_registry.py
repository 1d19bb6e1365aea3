"""The registry of networks."""

import subprocess
import sys

import pytest
import torch

from cohortex.errors import Refused
from cohortex.models import registry

PUBLISHED = [e for e in registry.entries() if e.parameters is not None]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda e: f"{e.task}-{e.name}")
def test_a_network_has_the_published_number_of_parameters(entry):
    with torch.device("meta"):
        network = registry.build(entry.task, entry.name)
    assert registry.count_parameters(network) == entry.parameters


def test_listing_the_registry_does_not_import_torch():
    code = "import sys; from cohortex.models import registry; assert registry.entries(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_unique_within_a_task_and_entries_say_their_own_task():
    for task in registry.TASKS:
        entries = registry.entries(task)
        assert len({e.name for e in entries}) == len(entries)
        assert all(e.task == task for e in entries)


def test_an_unknown_network_is_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="Did you mean redcnn"):
        registry.build("denoise", "redcn")


def test_an_unknown_option_is_refused():
    with pytest.raises(Refused, match="no option 'filter'"):
        registry.build("denoise", "redcnn", filter=3)


def test_an_unknown_task_is_refused():
    with pytest.raises(Refused, match="denoise"):
        registry.entries("denoising")
