"""The processors and the memory of a process."""

import gc

from segtrain.cpu import importing


def test_what_is_imported_first_is_left_out_of_the_search_for_garbage_and_nothing_later():
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
        frozen = gc.get_freeze_count()
        assert frozen > 0
        assert gc.isenabled()
        network = []
        network.append(network)  # garbage when it is left
        del network
        with importing():
            assert gc.isenabled()
        assert gc.get_freeze_count() <= frozen
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
