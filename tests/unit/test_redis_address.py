"""REDIS_URL taken apart."""

from __future__ import annotations

import pytest

from sentinel.egress import TlsFiles
from sentinel.redis_address import FORM, Login, RedisAddress, parse_redis_url

TLS = TlsFiles()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress("single", (("h", 6379),))),
        ("redis://h:1/", RedisAddress("single", (("h", 1),))),
        ("redis://:p%40ss@h:1/2", RedisAddress("single", (("h", 1),), db=2, login=Login(None, "p@ss"))),
        ("redis://us%3Aer:p%2Fw%23@h", RedisAddress("single", (("h", 6379),), login=Login("us:er", "p/w#"))),
        ("redis://a@b@h", RedisAddress("single", (("h", 6379),), login=Login("a@b"))),
        (
            "redis://h?db=3&username=u&password=p%26",
            RedisAddress("single", (("h", 6379),), db=3, login=Login("u", "p&")),
        ),
        ("rediss://[::1]:6380", RedisAddress("single", (("::1", 6380),), tls=TLS)),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=False",
            RedisAddress("single", (("h", 6379),), tls=TlsFiles(verify=False, check_hostname=False)),
        ),
        ("unix:///run/r.sock", RedisAddress("unix", (), path="/run/r.sock")),
        ("unix://u:p@/run/r%20s?db=2", RedisAddress("unix", (), path="/run/r s", db=2, login=Login("u", "p"))),
        ("redis+cluster://[::1]:7000", RedisAddress("cluster", (("::1", 7000),))),
        ("redis+cluster://h/0", RedisAddress("cluster", (("h", 6379),))),
        ("rediss+cluster://u:p@h", RedisAddress("cluster", (("h", 6379),), login=Login("u", "p"), tls=TLS)),
        ("redis+sentinel://a,b:1/m", RedisAddress("sentinel", (("a", 26379), ("b", 1)), master="m")),
        ("rediss+sentinel://[::1]:26380/m/3", RedisAddress("sentinel", (("::1", 26380),), master="m", db=3, tls=TLS)),
        (
            "redis+sentinel://user:p%40ss@[::1]:26379,b/main?sentinel_username=s&sentinel_password=q%40",
            RedisAddress(
                "sentinel",
                (("::1", 26379), ("b", 26379)),
                master="main",
                login=Login("user", "p@ss"),
                sentinel_login=Login("s", "q@"),
            ),
        ),
    ],
)
def test_every_form_is_read(url: str, address: RedisAddress) -> None:
    """Hosts, logins, databases and options are what they say, decoded."""
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "h:6379",
            "redis:/h",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h:0",
            "redis://h:70000",
            "redis://[::1",
        ),
        *("redis://a,b", "redis+cluster://a,b", "redis://::1:6379", "redis://h/x", "redis://h/1/2", "redis://h#1"),
        *("unix://relative", "unix://", "unix:///", "unix://h/p", "redis+cluster://", "redis://a b"),
        *("redis+sentinel://a", "redis+sentinel://a/m/x", "redis+sentinel:///m", "redis+sentinel://a,/m", "REDIS://h"),
    ],
)
def test_other_forms_are_refused(url: str) -> None:
    """Nothing is guessed and nothing dropped."""
    with pytest.raises(ValueError, match=r"redis\+sentinel") as caught:
        parse_redis_url(url)
    assert str(caught.value).startswith(FORM)


@pytest.mark.parametrize(
    ("url", "mistakes"),
    [
        ("redis://h?socket_timeout=3", ["the option socket_timeout has no effect in Sentinel: remove it"]),
        (
            "redis://h?health_check_interval=1&protocol=3",
            [
                "the option health_check_interval has no effect in Sentinel: remove it",
                "the option protocol has no effect in Sentinel: remove it",
            ],
        ),
        ("redis://h?ssl_ca_certs=/x", ["the option ssl_ca_certs needs TLS: rediss:// or the like"]),
        ("rediss://h?ssl_ca_path=/x", ["the option ssl_ca_path has no effect in Sentinel: remove it"]),
        ("redis://h?sentinel_password=x", ["the option sentinel_password has no effect in Sentinel: remove it"]),
        ("rediss://h?ssl_cert_reqs=maybe", ["the option ssl_cert_reqs must be required or none"]),
        ("rediss://h?ssl_check_hostname=maybe", ["the option ssl_check_hostname must be true or false"]),
        (
            "rediss://h?ssl_ca_certs=/no/ca",
            ["the option ssl_ca_certs: /no/ca cannot be read: No such file or directory"],
        ),
        (
            "rediss://h?ssl_certfile=/no/cert",
            ["the options ssl_certfile, ssl_keyfile: /no/cert cannot be read: No such file or directory"],
        ),
        ("rediss://h?ssl_keyfile=/k", ["the options ssl_certfile, ssl_keyfile: has a key, but no certificate"]),
        ("redis+cluster://h/3", ["a cluster has no database but 0"]),
        ("redis+cluster://h?db=3", ["a cluster has no database but 0"]),
        ("redis://h/1?db=2", ["the database is given twice, in the path and as the option db"]),
        ("redis://h?db=1&db=2", ["the option db is given twice"]),
        ("redis://h?db=one", ["the option db must be a number"]),
        ("redis://:a@h?password=b", ["user or password is given twice, before the host and as an option"]),
    ],
)
def test_options_are_obeyed_or_refused_by_name(url: str, mistakes: list[str]) -> None:
    """No option is silently without effect."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_url(url)
    assert str(caught.value).split("; ") == mistakes


@pytest.mark.parametrize(
    "url",
    [
        *("redis://u:hunter2#x@h", "redis://u:hunter2?x@h", "redis://u:hunter2/x@h", "redis://u:?hunter2=1@h"),
        *("redis://:hunter2@h:x", "redis+sentinel://:hunter2@a", "redis://h?password=hunter2&foo=hunter2"),
        "redis+sentinel://a/m?sentinel_password=hunter2&max_connections=hunter2",
    ],
)
def test_no_mistake_repeats_a_secret(url: str) -> None:
    """Also where a password was not encoded, so that part of it stands elsewhere."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_url(url)
    assert "hunter2" not in str(caught.value)


def test_an_address_does_not_show_its_secrets() -> None:
    """Neither password is in what is printed of it."""
    shown = repr(parse_redis_url("redis+sentinel://u:hunter2@a/m?sentinel_password=hunter3"))
    assert "hunter" not in shown
