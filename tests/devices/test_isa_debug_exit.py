"""The exit port."""

from __future__ import annotations

import pytest

from jitvm.devices.isa_debug_exit import IsaDebugExit


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (0x10, 0x21), (0x1234, 0x2469)])
def test_status_of_a_write(value: int, status: int) -> None:
    seen: list[int] = []
    port = IsaDebugExit(seen.append)
    assert port.read(0, 1) == 0
    assert seen == []
    port.write(0, 2, value)
    assert seen == [status]
