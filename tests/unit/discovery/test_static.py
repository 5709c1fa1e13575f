from __future__ import annotations

import pytest

from meshcache.discovery import Static
from meshcache.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.1:7946", "10.0.0.1:7946"),
        ("[2001:DB8:0::1]:7946", "[2001:db8::1]:7946"),
        ("gateway-2.example:1", "gateway-2.example:1"),
        ("localhost:65535", "localhost:65535"),
    ],
)
def test_takes_addresses_and_names(text: str, shown: str) -> None:
    assert repr(Static([text])) == f"Static(['{shown}'])"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:http",
        "10.0.0.256:7946",
        "10.0.0:7946",
        ":7946",
        "::1:7946",
        "[::1]",
        "[::1]7946",
        "[gateway]:7946",
        "two words:7946",
        "redis://gateway:7946",
        "",
        7946,
        None,
    ],
)
def test_anything_else_is_named_at_once(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Static(["10.0.0.1:7946", text])
    assert caught.value.option == "discovery"
    assert repr(text) in str(caught.value)


def test_a_bare_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(ConfigError, match=r'Static\(\["10.0.0.1:7946"\]\)'):
        Static("10.0.0.1:7946")
