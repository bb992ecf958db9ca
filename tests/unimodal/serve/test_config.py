"""The configuration of a server: limits that fit together, hosts, and API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unimodal.config import apply_overrides, parse_config
from unimodal.serve.config import API_KEYS, ServeConfig, read_api_keys

KEY = "k" * 16
OTHER = "another-key-of-the-file"


def config(**values: Any) -> ServeConfig:
    return parse_config(ServeConfig, {"model": "m", **values}, source="serve")


def test_a_server_listens_on_loopback_and_fetches_nothing_unless_told() -> None:
    assert config().host == "127.0.0.1"
    assert config().urls.allow == ()
    assert config().cors == ()
    assert config().proxies == ()


def test_keys_are_overridden_one_by_one() -> None:
    values = apply_overrides(
        {"model": "m"},
        ["port=9000", "urls.allow=[img.shop.com, '*.cdn.com']", "device=[cpu, cpu]"],
    )
    config = parse_config(ServeConfig, values)
    assert (config.port, config.urls.allow, config.device) == (
        9000,
        ("img.shop.com", "*.cdn.com"),
        ("cpu", "cpu"),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prot": 1}, "unknown key 'prot'; did you mean 'port'"),
        (
            {"api_keys": "x"},
            "unknown key 'api_keys'; did you mean 'api_keys_file'",
        ),  # it would show in `ps`
        ({"queue_items": 10}, "max_items 2048 is more than queue_items 10"),
        ({"queue_bytes": 10}, "max_body_bytes 64000000 is more than queue_bytes 10"),
        (
            {"cors": ["shop.com"]},
            "cors 'shop.com'.*https://shop.com",
        ),
        (
            {"proxies": ["proxy.local"]},
            "proxies 'proxy.local' is not an address; write 10.0.0.7",
        ),
        (
            {"urls": {"allow": ["https://shop.com"]}},
            "allow 'https://shop.com' is not a host name",
        ),
        ({"urls": {"allow": ["*"]}}, r"allow '\*' is not a host name"),
        (
            {"urls": {"allow": ["shop.com:8080"]}},
            "allow 'shop.com:8080' is not a host name",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_keys_come_from_the_environment_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEYS, raising=False)
    assert read_api_keys(config()) == ()
    file = tmp_path / "keys"
    file.write_text(f"{OTHER}\n\n{KEY}\n")
    monkeypatch.setenv(API_KEYS, f"{KEY}, ")
    assert read_api_keys(config(api_keys_file=str(file))) == (KEY, OTHER)


def test_a_file_without_keys_does_not_open_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEYS, raising=False)
    (tmp_path / "keys").write_text("\n")
    for file, message in (
        (tmp_path / "keys", "has no key"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            read_api_keys(config(api_keys_file=str(file)))


def test_a_short_key_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(API_KEYS, f"{KEY},hunter2")
    with pytest.raises(ValueError, match="API key 2 has 7 characters") as refusal:
        read_api_keys(config())
    assert "hunter2" not in str(refusal.value)
