"""A server of segtrain processes, and the table of figures that `make test-long` prints."""

import pytest
from processes import Server

FIGURES = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.close()


@pytest.fixture
def figure(request):
    """`figure("kills", "200 of 200 equal")` adds a line to the table at the end."""

    def add(title: str, text: str) -> None:
        request.node.user_properties.append(("figure", f"{title}: {text}"))

    return add
