"""The processors and the memory of a process."""

import gc
import os
import weakref
from pathlib import Path

import pytest

from segtrain import cpu
from segtrain.cpu import free_memory, importing


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


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 100\ninactive_file 700\n"},
        {
            "memory/memory.limit_in_bytes": "1000",
            "memory/memory.usage_in_bytes": "900",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 700\n",
        },
    ],
)
def test_files_that_were_read_take_no_memory_of_a_control_group(tmp_path, monkeypatch, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cpu, "Path", lambda name: tmp_path if name == "/sys/fs/cgroup" else Path(name))
    assert free_memory() == 1000 - (900 - 700)


def test_threads_wait_as_the_environment_says(monkeypatch):
    for given, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        cpu.let_waiting_threads_sleep()
        assert os.environ.get("GOMP_SPINCOUNT") == expected
