"""Odd files of other people are read as the list says, or refused as it says."""

import pytest

from tests.battery.odd import came_of, expected, odd_files

FILES = odd_files()


@pytest.mark.parametrize("place", ["nibabel", "pydicom", "shared"])
def test_every_odd_file_is_read_right_or_refused_with_a_reason(place: str) -> None:
    files = {name: path for name, path in FILES.items() if name.startswith(f"{place}/")}
    if not files and place == "shared":
        pytest.skip("the optional folder of test data (../shared/data) is not here")
    assert files
    listed = expected()
    wrong = {name: (listed.get(name), found) for name, path in files.items() if (found := came_of(path)) != listed.get(name)}
    assert not wrong
