"""Columns of cells as a peer may send them."""

from __future__ import annotations

import pytest

from pfw.columns import are_ints


@pytest.mark.parametrize("odd", [-1, -(2**62), 2**62, 2**63, 2**64 - 1, 2**64, True, 1.0])
def test_a_long_column_of_ints_has_one_that_is_none(odd: object) -> None:
    column: list[object] = [0, 1, 255, 256, 2**32, 2**62 - 1] * 10
    assert are_ints(column)
    for place in (0, 31, 60):
        assert not are_ints([*column[:place], odd, *column[place:]])
