"""Names as text: the parts that pathlib has."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from trainers.data import names


@pytest.mark.parametrize(
    "name", ["a.png", "b/a.png", "b.c/a", "a.b.PNG", ".hidden", "d/.hidden.x", "a.", "a", "x.y/z.w"]
)
def test_parts_equal_pathlibs(name):
    path = PurePosixPath(name)
    assert names.ending(name) == path.suffix
    assert names.base(name) == path.name
    assert names.stem(name) == path.stem
    assert names.without_ending(name) == str(path.with_suffix(""))
