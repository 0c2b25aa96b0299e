"""What is read of translated blocks when a region is grown from them."""

from __future__ import annotations

import numpy as np
import pytest

from jitvm.engine.block_reader import BlockReader
from tests.engine.guest import Guest


@pytest.mark.parametrize("word", [0, 0x10, (1 << 64) - 8])
def test_a_link_slot_that_holds_no_link_leads_nowhere(word: int) -> None:
    """As that of a block which breakpoints of the guest's now end elsewhere: it was followed, whatever it held."""
    slot = np.array([word], np.uint64)
    reader = BlockReader(Guest("handlers").bare.vcpu)
    assert reader.led_to(slot.ctypes.data) == -1
