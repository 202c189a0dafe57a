"""URLs of database servers: what is read from them, and that nothing that may be a password is taken or quoted."""

import pytest

from backupd.config.urls import parse_database, parse_repository
from backupd.errors import UsageError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgresql://u@h:5432/db?sslmode=require", ("postgresql", "h", 5432, "u", "db", {"sslmode": "require"})),
        ("postgresql+psycopg://h/db", ("postgresql", "h", 0, "", "db", {})),
        ("mariadb+pymysql://root@h/db", ("mariadb", "h", 0, "root", "db", {})),
        ("mysql://h:3306/x", ("mysql", "h", 3306, "", "x", {})),
        ("postgresql:///db?host=/var/run", ("postgresql", "/var/run", 0, "", "db", {})),
        ("postgresql://u@%2Frun%2Fpg/db", ("postgresql", "/run/pg", 0, "u", "db", {})),
        ("postgresql://u@[::1]:99/a%2Fb", ("postgresql", "::1", 99, "u", "a/b", {})),
        ("postgresql://[fe80::1%25eth0]/db", ("postgresql", "fe80::1%eth0", 0, "", "db", {})),
        ("postgresql://u%40corp@h/db", ("postgresql", "h", 0, "u@corp", "db", {})),
        ("postgresql://h:5432/db%40x", ("postgresql", "h", 5432, "", "db@x", {})),
    ],
)
def test_urls_of_servers(text: str, wanted: tuple[object, ...]) -> None:
    """Each part is found, and the URL's own text parses to the same."""
    url = parse_database(text)
    assert (url.engine, url.host, url.port, url.user, url.database, dict(url.options)) == wanted
    assert parse_database(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://u:{SECRET}@h/db",
        f"postgresql://u:{SECRET}#x@h/db",
        f"postgresql://u:{SECRET}/x@h/db",
        f"postgresql://u:{SECRET}?x@h/db",
        f"postgresql://u:{SECRET}@x@h/db",
        f"postgresql://u:1/{SECRET}:@h/db",
        f"postgresql://:{SECRET}@h/db",
        f"postgresql://u@h/db?password={SECRET}",
        f"postgresql://u@h/db?PASSWORD={SECRET}&x",
        f"postgresql://u@h/db?sslpassword={SECRET}",
        f"postgresql://u@h/db?oauth_client_secret={SECRET}",
        f"mariadb://u@h/db?passwd={SECRET}#",
        f"postgresql://[::1/db?x={SECRET}",
        f"postgresql://u:p[{SECRET}]@h/db",
        f"postgresql://h:{SECRET}/db",
        f"postgresql://h/{SECRET}/db",
        f"postgresql://h/?x={SECRET}",
        f"postgresql://h/db?a={SECRET}&a=2",
        f"postgresql://h/db?{SECRET}",
        f"postgresql://h/db?dbname={SECRET}",
        f"postgresql://h/%FF{SECRET}",
        f"postgresql://h/db%0A{SECRET}",
        f"postgresql://h/db#{SECRET}",
        f"sqlite://{SECRET}/x",
        f"oracle://u@h/{SECRET}",
    ],
)
def test_bad_urls_of_databases(text: str) -> None:
    """What is no URL, or may hold a password, is a usage error that quotes nothing of it."""
    with pytest.raises(UsageError) as caught:
        parse_database(text)
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value.object_name}"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AK:{SECRET}@bucket/p",
        f"s3://AK:se/{SECRET}@b/p",
        f"s3://AK:{SECRET}/p",
        f"s3://[{SECRET}/p",
        f"s3://b/p?secret={SECRET}",
        f"s3://b/p?region=1&region={SECRET}",
        f"file://host/{SECRET}",
        f"ftp://h/{SECRET}",
        f"s3://b/#{SECRET}",
    ],
)
def test_bad_urls_of_repositories(text: str) -> None:
    """The same of repositories."""
    with pytest.raises(UsageError) as caught:
        parse_repository(text)
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value.object_name}"
