"""The declared wiring is sound, and it is that of the real servers."""

from __future__ import annotations

import pytest
from tests.lifecycle.test_wiring import tinykv

from pytinykv.lifecycle import WhenFull, Wiring, WiringError
from pytinykv.server.host.wiring import scheduler_wiring, store_wiring


@pytest.mark.parametrize("wiring", [store_wiring(), scheduler_wiring()], ids=["store", "scheduler"])
def test_no_cycle_and_a_stop_in_the_order_of_waits(wiring: Wiring) -> None:
    wiring.check()


def test_a_store_loop_that_waited_for_its_links_would_be_accepted_only_while_they_do_not_wait_for_it() -> None:
    wiring = store_wiring()
    wiring.hands_over("links", "store loop", "messages that came in", bound=64, when_full=WhenFull.WAIT)
    wiring.check()
    wiring.hands_over("store loop", "links", "frames", bound=64, when_full=WhenFull.WAIT)
    with pytest.raises(WiringError, match="these wait for each other"):
        wiring.check()


def test_the_wiring_of_tinykv_is_refused() -> None:
    with pytest.raises(WiringError):
        tinykv().check()
