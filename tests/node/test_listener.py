"""The socket at which a node is reached."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from milepost_node.__main__ import open_socket
from milepost_node.errors import SettingsError
from milepost_node.settings import Settings, read_settings
from tests.support.nodes import make_named_genesis, write_home


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = write_home(tmp_path / "home", make_named_genesis(4), "birch")
    return replace(read_settings(home), host="127.0.0.1", port=0)


def test_answers_do_not_wait_for_acknowledgements(settings: Settings) -> None:
    """The body of an answer follows its head at once, on every connection that is accepted."""
    with open_socket(settings) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_named(settings: Settings) -> None:
    with open_socket(settings) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen at 127.0.0.1:{port}") as caught:
            open_socket(replace(settings, port=port))
    assert caught.value.slug == "port-in-use"
