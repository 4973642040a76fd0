"""The processors and the memory of a process."""

import gc
import weakref

from segtrain.cpu import importing


class Network:
    def __init__(self):
        self.itself = self  # garbage when it is left


def test_what_is_imported_first_is_left_out_of_the_search_for_garbage_and_nothing_later():
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
        frozen = gc.get_freeze_count()
        assert frozen > 0
        assert gc.isenabled()
        network = Network()
        left = weakref.ref(network)
        del network
        with importing():
            assert gc.isenabled()
        assert gc.get_freeze_count() <= frozen
        gc.collect()
        assert left() is None
    finally:
        gc.unfreeze()
