"""The latch between FERR# and IRQ 13."""

from __future__ import annotations

import pytest

from jitvm.devices.numeric_error import NumericError
from jitvm.irq import IrqLine


@pytest.mark.parametrize("port", [0, 1])
def test_a_write_clears_the_interrupt_and_lets_the_handler_use_the_fpu(port: int) -> None:
    levels: list[bool] = []
    ignored: list[int] = []
    latch = NumericError(IrqLine(levels.append), lambda: ignored.append(1))
    latch.write(port, 1, 0)
    assert (levels, ignored) == ([], [])
    latch.report()
    latch.report()
    assert latch.read(port, 1) == 0xFF and levels == [True]
    latch.write(port, 1, 0)
    assert (levels, ignored) == ([True, False], [1])
