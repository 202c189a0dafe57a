"""Rows of a live PostgreSQL database are found, deleted and written back exactly, or refused."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest

from backupd.engines.postgres import open_live
from backupd.engines.postgres.live import PostgresLive
from backupd.errors import BackupdError, Failed, SafetyRefused, TryAgain, Unreachable
from backupd.model import Cells, Change, Reference
from backupd.records.rowtext import cell_of, fields_of
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = pytest.mark.slow

SHOP = """
CREATE SCHEMA crm;
CREATE TABLE city (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE customer (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE, city int REFERENCES city ON DELETE SET NULL,
  boss bigint REFERENCES customer, loud text GENERATED ALWAYS AS (upper(email)) STORED);
CREATE TABLE crm.egg (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE crm.hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES crm.egg);
ALTER TABLE crm.egg ADD CONSTRAINT laid FOREIGN KEY (hen) REFERENCES crm.hen;
CREATE TABLE line (a int, b text, c int, PRIMARY KEY (a, b), UNIQUE (c, a));
CREATE TABLE part (a int, b text, n serial, FOREIGN KEY (a, b) REFERENCES line MATCH FULL ON DELETE CASCADE);
CREATE TABLE odd (c int REFERENCES city DEFERRABLE INITIALLY DEFERRED, a int, k int, FOREIGN KEY (k, a) REFERENCES line (c, a));
CREATE TABLE exact (id int PRIMARY KEY, n numeric(5,2), t timestamp(0));
CREATE TABLE log (v text, kind text DEFAULT 'x');
CREATE TABLE noisy (id int PRIMARY KEY, v text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (new.v); RETURN new; END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON noisy FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE stubborn (id int PRIMARY KEY, v text);
CREATE TRIGGER always AFTER INSERT ON stubborn FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE stubborn ENABLE ALWAYS TRIGGER always;
CREATE TABLE night (id int, day date NOT NULL, city int REFERENCES city, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE night_1 PARTITION OF night FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE night_2 PARTITION OF night DEFAULT;
CREATE TRIGGER noted AFTER INSERT ON night FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE night DISABLE TRIGGER noted;
CREATE TABLE stay (night int, day date, FOREIGN KEY (night, day) REFERENCES night);
CREATE TABLE down (id int PRIMARY KEY); CREATE SEQUENCE falling INCREMENT -2 OWNED BY down.id;
ALTER TABLE down ALTER id SET DEFAULT nextval('falling');
CREATE TABLE several (kind text, id int); CREATE UNIQUE INDEX ON several (id) WHERE kind = 'a';
CREATE UNIQUE INDEX ON several (lower(kind), id);
CREATE TABLE let (room int4range, d daterange, PRIMARY KEY (room, d WITHOUT OVERLAPS));
CREATE TABLE guest (room int4range, d daterange, FOREIGN KEY (room, PERIOD d) REFERENCES let (room, PERIOD d));
CREATE TABLE plain (id int PRIMARY KEY, v text, n numeric);
INSERT INTO plain SELECT g, 'v' || g, g FROM generate_series(1, 50000) g; ANALYZE plain;
INSERT INTO city VALUES (1, 'Bern'), (2, 'Oslo');
INSERT INTO customer (email, city) VALUES ('a@x', 1), ('b@x', 2);
"""


@pytest.fixture(scope="module")
def server(postgres_servers: Callable[[int], PostgresServer]) -> PostgresServer:
    """One version; that rows are exact is tested on another."""
    return postgres_servers(18)


@pytest.fixture(scope="module")
def shop(server: PostgresServer) -> Iterator[str]:
    """A database with every kind of reference."""
    name = server.create_database()
    server.psql(name, SHOP)
    yield name
    server.drop_database(name)


@pytest.fixture
def live(server: PostgresServer, shop: str) -> Iterator[PostgresLive]:
    """A connection to it that does not wait long for locks."""
    opened = open_live(kit.place(server, shop), timeout=2.0)
    yield opened
    opened.close()


def change(kind: str, table: str, key: dict[str, bytes | None], **cells: bytes | None) -> Change:
    """A change whose old cells begin with `old_`."""
    old = {name.removeprefix("old_"): cell for name, cell in cells.items() if name.startswith("old_")}
    new = {name: cell for name, cell in cells.items() if not name.startswith("old_")}
    return Change(kind, table, key, old, new)  # type: ignore[arg-type]


def insert(table: str, **cells: bytes | None) -> Change:
    return Change("insert", table, {}, {}, cells)


def run(live: PostgresLive, *changes: Change, triggers: bool = True) -> None:
    with live.transaction(triggers=triggers):
        live.apply(changes)


def parsed(rows: bytes) -> list[Cells]:
    """The cells of a captured table."""
    return [tuple(map(cell_of, fields_of(row))) for row in rows.split(b"\n")[:-1]]


@pytest.mark.parametrize("postgres", [15], indirect=True)
def test_every_row_of_the_nasty_database_is_read_deleted_and_written_back(postgres: PostgresServer) -> None:
    """Cells are those of a capture; psql executes the statements of all rows of all tables, and the rows are as before."""
    kit.make_nasty(postgres)
    for name in postgres.psql("nasty", "SELECT quote_ident(pubname) FROM pg_publication").split():
        postgres.psql(
            "nasty", f"DROP PUBLICATION {name}"
        )  # a table without a key may not be deleted from while it is published
    live = open_live(kit.place(postgres, "nasty"))
    try:
        before = kit.capture(kit.source(postgres, "nasty"))
        tables = [table for table in before.tables if table.name in live.schema().tables]
        assert {table.name for table in before.tables} - {table.name for table in tables} <= {
            "pg_largeobject",
            "pg_largeobject_metadata",
        }
        script = ["BEGIN", *live.preamble(triggers=False)]
        changes: list[Change] = []
        few: list[Change] = []
        for table in tables:
            shape = live.schema().tables[table.name]
            names = [name for name, _ in table.columns]
            assert table.columns == tuple((c.name, c.type) for c in shape.columns if not c.generated), table.name
            assert table.key == shape.key
            cells = list(live.rows(table.name, names))
            stored = parsed(before.rows(table.name)) if names else [() for _ in cells]
            assert Counter(cells) == Counter(stored), table.name
            check_lookups(live, table.name, names, table.key or names, cells)
            # A rule makes nothing of deletes there, and a trigger that always runs alters what is written.
            if table.name not in ("crm.dropped", "crm.nopk"):
                changes += (made := rewrites(table.name, names, table.key, cells))
                few += made if len(made) < 30 and not live._known(table.name).unstoppable else []
        script += [live.statement(one) for one in changes]
        done = postgres.run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", postgres.url("nasty"), "-f", "-",
                            text=";\n".join([*script, "COMMIT"]) + ";\n")  # fmt: skip
        assert done.returncode == 0, done.stderr[-600:]
        assert done.stdout.count("DELETE 1\n") == done.stdout.count("INSERT 0 1\n") == len(changes) // 2
        run(live, *few, triggers=False)
        after = kit.capture(kit.source(postgres, "nasty"))
        for table in tables:
            assert kit.digest(after.rows(table.name)) == kit.digest(before.rows(table.name)), table.name
    finally:
        live.close()
        kit.drop_nasty(postgres)


def check_lookups(live: PostgresLive, table: str, names: Sequence[str], by: Sequence[str], cells: list[Cells]) -> None:
    """Each row without NULLs in these columns is found by them, and none that differs."""
    places = [names.index(name) for name in by]
    wanted = [tuple(row[place] for place in places) for row in cells]
    if by:
        found = Counter(live.rows(table, names, by, wanted))
        assert found == Counter(row for row, value in zip(cells, wanted, strict=True) if None not in value), table


def rewrites(table: str, names: Sequence[str], key: Sequence[str], cells: list[Cells]) -> list[Change]:
    """Deletes of all rows, and inserts of them."""
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    deletes = [Change("delete", table, {n: row[n] for n in key or names}, row, {}) for row in rows]
    return [*deletes, *(Change("insert", table, {}, {}, row) for row in rows)]


def test_the_schema_says_what_a_plan_needs(live: PostgresLive) -> None:
    """Columns, keys, uniques, triggers and references, with partitions by the names that manifests have."""
    schema = live.schema()
    customer = schema.tables["customer"]
    facts = {c.name: (c.type, c.required, c.default, c.generated, c.identity, c.counter) for c in customer.columns}
    assert facts == {
        "id": ("bigint", True, True, False, True, True),
        "email": ("text", True, False, False, False, False),
        "city": ("integer", False, False, False, False, False),
        "boss": ("bigint", False, False, False, False, False),
        "loud": ("text", False, False, True, False, False),
    }
    assert (customer.key, customer.uniques) == (("id",), (("email",),))
    assert (schema.tables["line"].key, schema.tables["line"].uniques) == (("a", "b"), (("c", "a"),))
    assert [c.counter for c in schema.tables["part"].columns] == [False, False, True]
    assert schema.tables["several"].uniques == ()
    assert schema.tables["noisy"].triggers == ("noted",)
    assert schema.tables["night_1"].triggers == ()
    assert "night" not in schema.tables
    assert {"night_1", "night_2", "crm.egg"} <= schema.tables.keys()
    found = {(r.table, r.parent, r.columns, r.parent_columns, r.on_delete, r.deferrable) for r in schema.references}
    assert found == {
        ("customer", "city", ("city",), ("id",), "set null", False),
        ("customer", "customer", ("boss",), ("id",), "restrict", False),
        ("crm.egg", "crm.hen", ("hen",), ("id",), "restrict", False),
        ("crm.hen", "crm.egg", ("egg",), ("id",), "restrict", False),
        ("part", "line", ("a", "b"), ("a", "b"), "cascade", False),
        ("odd", "city", ("c",), ("id",), "restrict", True),
        ("odd", "line", ("k", "a"), ("c", "a"), "restrict", False),
        ("guest", "let", ("room",), ("room",), "restrict", False),
        *((child, "city", ("city",), ("id",), "restrict", False) for child in ("night_1", "night_2")),
        *(("stay", parent, ("night", "day"), ("id", "day"), "restrict", False) for parent in ("night_1", "night_2")),
    }
    assert len(schema.references) == len(found)
    assert all(isinstance(r, Reference) and r.declared for r in schema.references)
    assert live.identity.endswith(f"/{live._session.info.dbname}")


def test_looking_up_uses_the_index(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """By one column and by several, within a transaction as well; equal is what the server takes for equal."""
    from backupd.engines.postgres.live_text import found_by

    known = live._known("plain")
    for by, values in ((("id",), [(b"7",), (b"8",)]), (("id", "v"), [(b"7", b"v7"), (b"8", b"v8")])):
        query = f"SELECT * FROM {known.only} AS t WHERE {found_by(known, by, values)} FOR NO KEY UPDATE OF t"
        assert "plain_pkey" in server.psql(shop, "EXPLAIN " + query)
    assert sorted(live.rows("plain", ["v"], ["id"], {(b"%d" % n,) for n in range(1, 3000)})) == sorted(
        (b"v%d" % n,) for n in range(1, 3000)
    )
    assert sorted(live.rows("plain", ["id"], ["n"], [(b"7.0",), (b"8",), (None,)])) == [(b"7",), (b"8",)], "7.0 is 7"


def test_many_rows_go_in_few_statements_and_all_or_none(live: PostgresLive) -> None:
    """Each is compared all the same; where a trigger could tell the difference they go one by one."""
    rows = [insert("plain", id=b"%d" % n, v=b"new") for n in range(100_000, 100_450)]
    assert [len(parts) for _, parts in live.statements(rows)] == [200, 200, 50]
    assert len(list(live.statements([insert("noisy", id=b"%d" % n, v=b"x") for n in range(9)]))) == 9
    with pytest.raises(SafetyRefused):
        run(live, *rows, insert("plain", id=b"1", v=b"there already"))
    assert not list(live.rows("plain", ["v"], ["v"], [(b"new",)]))
    run(live, *rows)
    back = [Change("delete", "plain", {"id": one.new["id"]}, one.new, {}) for one in rows]
    assert max(len(parts) for _, parts in live.statements(back)) == 50
    other = Change("delete", "plain", back[77].key, {**back[77].old, "v": b"another"}, {})
    with pytest.raises(SafetyRefused):
        run(live, *back[:77], other, *back[78:])
    assert len(list(live.rows("plain", ["v"], ["v"], [(b"new",)]))) == 450
    run(live, *back)
    assert not list(live.rows("plain", ["v"], ["v"], [(b"new",)]))
    with pytest.raises(Failed):
        run(live, *(insert("exact", id=b"%d" % n, n=b"1.005") for n in range(1, 9)))
    assert not list(live.rows("exact", ["id"]))


def test_rows_that_refer_to_each_other_go_in_together(live: PostgresLive) -> None:
    """A self reference in the wrong order, and a NOT NULL cycle of two tables; parents need not be joined."""
    people = [
        insert("customer", id=b"12", email=b"c@x", boss=b"11"),
        insert("customer", id=b"11", email=b"d@x", boss=None),
        insert("customer", id=b"13", email=b"e@x", boss=b"13"),
    ]
    cycle = [insert("crm.egg", id=b"1", hen=b"2"), insert("crm.hen", id=b"2", egg=b"1")]
    assert [len(parts) for _, parts in live.statements([*people, *cycle])] == [2, 1, 2]
    run(live, *people, *cycle)
    assert set(live.rows("customer", ["id", "boss"], ["id"], [(b"11",), (b"12",), (b"13",)])) == {
        (b"11", None),
        (b"12", b"11"),
        (b"13", b"13"),
    }
    assert list(live.rows("crm.hen", ["id", "egg"])) == [(b"2", b"1")]
    assert live.orphans(["customer", "crm.egg", "crm.hen"]) == []
    back = [Change("delete", one.table, {"id": one.new["id"]}, one.new, {}) for one in [*cycle, people[1], people[0]]]
    assert [len(parts) for _, parts in live.statements(back)] == [2, 2]
    run(live, *back)
    assert list(live.rows("crm.hen", ["id"])) == []


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ([insert("city", id=b"1", name=b"secret")], SafetyRefused, "city_pkey"),
        ([insert("city", id=b"9", name=b"Bern")], SafetyRefused, "city_name_key"),
        ([insert("part", a=b"98765", b=b"secret")], Failed, "part_a_b_fkey"),
        ([insert("customer", id=b"7", email=None)], Failed, "email"),
        ([insert("city", id=b"secret", name=b"n")], Failed, "22P02"),
        ([insert("city", id=b"9", name=b"secret\0")], Failed, "22021"),
        ([insert("city", id=b"9", wrong=b"secret")], Failed, "wrong"),
        ([insert("nowhere", id=b"9")], Failed, "nowhere"),
        ([change("update", "city", {"id": b"1"}, old_name=b"secret", name=b"y")], SafetyRefused, "city"),
        ([change("delete", "city", {"id": b"77"}, old_name=b"secret")], SafetyRefused, "city"),
        ([insert("city", id=b"9", name=b"new"), insert("city", id=b"9", name=b"newer")], SafetyRefused, "city_pkey"),
        ([insert("exact", id=b"1", n=b"1.239")], Failed, "exact"),
        ([insert("exact", id=b"1", t=b"2020-01-01 00:00:00.7")], Failed, "exact"),
        ([insert("odd", c=b"98765")], Failed, "odd_c_fkey"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    live: PostgresLive, changes: list[Change], kind: type[BackupdError], words: str
) -> None:
    """Errors name the table or the constraint, never a value; what came before in the transaction is undone."""
    with pytest.raises(kind) as caught:
        run(live, insert("log", v=b"before"), *changes)
    said = f"{caught.value.message} {caught.value.hint} {caught.value.object_name}"
    assert words in said
    assert "secret" not in said
    assert "98765" not in said
    assert caught.value.__cause__ is None
    assert list(live.rows("log", ["v"], ["v"], [(b"before",)])) == []


def test_a_row_that_somebody_changed_meanwhile_is_refused(
    live: PostgresLive, server: PostgresServer, shop: str
) -> None:
    """By an equal number of another text, too; and what was read inside cannot be changed until the end."""
    (row,) = live.rows("plain", ["v", "n"], ["id"], [(b"5",)])
    update = change("update", "plain", {"id": b"5"}, old_v=row[0], old_n=row[1], v=b"mine")  # type: ignore[arg-type]
    server.psql(shop, "UPDATE plain SET n = 5.00 WHERE id = 5")
    with pytest.raises(SafetyRefused):
        run(live, update)
    server.psql(shop, "UPDATE plain SET n = 5 WHERE id = 5")
    with live.transaction(triggers=True):
        assert list(live.rows("plain", ["v"], ["id"], [(b"5",)])) == [(b"v5",)]
        assert "lock timeout" in server.psql(
            shop, "SET lock_timeout = 200; UPDATE plain SET v = 'x' WHERE id = 5", check=False
        )
        live.apply([update])
    assert server.psql(shop, "SELECT v FROM plain WHERE id = 5") == "mine"


def test_a_row_that_somebody_holds_is_tried_again_later(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """After the time that was allowed for locks."""
    with psycopg.connect(server.url(shop)) as other:
        other.execute("UPDATE plain SET v = 'theirs' WHERE id = 6")
        with pytest.raises(TryAgain), live.transaction(triggers=True):
            list(live.rows("plain", ["v"], ["id"], [(b"6",)]))
        other.rollback()
    assert list(live.rows("plain", ["v"], ["id"], [(b"6",)])) == [(b"v6",)]


def test_triggers_run_or_do_not(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """Without them no foreign key is checked either, so what breaks one is found afterwards."""
    run(live, insert("noisy", id=b"1", v=b"heard"))
    run(live, insert("noisy", id=b"2", v=b"unheard"), triggers=False)
    assert set(live.rows("log", ["v", "kind"])) >= {(b"heard", b"x")}
    assert list(live.rows("log", ["v"], ["v"], [(b"unheard",)])) == []
    with pytest.raises(SafetyRefused, match="always"):
        run(live, insert("stubborn", id=b"1", v=b"x"), triggers=False)
    orphaned(live, server, shop)
    assert live.orphans(["customer", "part"]) == []


def orphaned(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """Break foreign keys, of which one of MATCH FULL by a NULL, and undo it; parents cannot be deleted meanwhile."""
    with pytest.raises(KeyboardInterrupt), live.transaction(triggers=False):  # noqa: PT012
        live.apply([insert("odd", c=b"1", a=None, k=None), insert("part", a=b"5", b=None)])
        assert "lock timeout" in server.psql(shop, "SET lock_timeout = 200; DELETE FROM city WHERE id = 1", check=False)
        live.apply([insert("customer", id=b"50", email=b"f@x", city=b"5")])
        assert live.orphans(["customer", "part"]) == ["customer_city_fkey of customer", "part_a_b_fkey of part"]
        raise KeyboardInterrupt


def test_a_role_without_the_privileges_is_told_so(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """Not allowed to keep triggers from running, to write, to read."""
    server.psql(
        shop,
        "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN; GRANT SELECT ON log TO clerk; GRANT UPDATE ON city TO clerk",
    )
    clerk = open_live(kit.place(server, shop, "clerk"), timeout=2.0)
    try:
        with pytest.raises(SafetyRefused, match="keep triggers"), clerk.transaction(triggers=False):
            pass
        with pytest.raises(Failed, match="42501"):
            run(clerk, insert("log", v=b"x"))
        with pytest.raises(Failed, match="42501"):
            list(clerk.rows("city", ["id"]))
        server.psql(shop, "GRANT SET ON PARAMETER session_replication_role TO clerk; GRANT INSERT ON log TO clerk")
        run(clerk, insert("log", v=b"by the clerk"), triggers=False)
    finally:
        clerk.close()
        server.psql(
            shop, "DROP OWNED BY clerk; REVOKE ALL ON PARAMETER session_replication_role FROM clerk; DROP ROLE clerk"
        )
    assert list(live.rows("log", ["kind"], ["v"], [(b"by the clerk",)])) == [(b"x",)]


def test_counters_are_raised_and_never_lowered(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """Of an identity, of a serial, and of one that counts downwards."""
    server.psql(shop, "SELECT setval('part_n_seq', 100)")
    with live.transaction(triggers=True):
        live.apply(
            [
                insert("customer", id=b"900", email=b"g@x"),
                insert("part", n=b"50"),
                insert("down", id=b"-9"),
            ]
        )
        assert live.raise_counters(["customer", "part", "down"]) == ["customer_id_seq", "falling"]
        assert live.raise_counters(["customer", "part", "down"]) == []
    numbers = server.psql(shop, "SELECT nextval('customer_id_seq'), nextval('part_n_seq'), nextval('falling')")
    assert numbers == "901|101|-11"


def test_equal_rows_of_a_table_without_a_key_are_changed_one_by_one(live: PostgresLive) -> None:
    """One delete takes one of them away."""
    row = {"kind": b"b", "id": None}
    run(live, insert("several", **row), insert("several", **row), insert("several", kind=b"a", id=b"1"))
    run(live, Change("delete", "several", row, row, {}), Change("update", "several", row, row, {"id": b"4"}))
    assert sorted(live.rows("several", ["kind", "id"])) == [(b"a", b"1"), (b"b", b"4")]
    with pytest.raises(SafetyRefused):
        run(live, Change("delete", "several", row, row, {}))


def test_a_connection_that_is_cut_commits_nothing(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """In the middle of a transaction, and while nothing is asked."""
    pid = live._session.info.backend_pid
    with pytest.raises(Unreachable), live.transaction(triggers=True):  # noqa: PT012
        live.apply([insert("log", v=b"lost")])
        server.psql(shop, f"SELECT pg_terminate_backend({pid})")
        live.apply([insert("log", v=b"lost")])
    with pytest.raises(Unreachable):
        list(live.rows("log", ["v"]))
    assert server.psql(shop, "SELECT count(*) FROM log WHERE v = 'lost'") == "0"
    with pytest.raises(Unreachable):
        open_live(kit.place(server, "no such database"), timeout=2.0)


def test_a_whole_table_is_left_in_the_middle(live: PostgresLive) -> None:
    """The transaction goes on; and while it is read, nothing else is."""
    with live.transaction(triggers=True):
        reading = live.rows("plain", ["id"])
        assert next(reading) == (b"1",)
        with pytest.raises(Failed, match="not been read to their end"):
            live.orphans(["plain"])
        reading.close()  # type: ignore[attr-defined]
        live.apply([insert("log", v=b"after")])
    assert list(live.rows("log", ["v"], ["v"], [(b"after",)])) == [(b"after",)]


def test_two_at_once_end_one_after_the_other(live: PostgresLive, server: PostgresServer, shop: str) -> None:
    """Both read and change one row: the second finds it changed."""
    ended: list[object] = []
    update = change("update", "plain", {"id": b"9"}, old_v=b"v9", v=b"w9")

    def second() -> None:
        other = open_live(kit.place(server, shop), timeout=20.0)
        try:
            run(other, update)
        except BackupdError as error:
            ended.append(error)
        finally:
            other.close()

    thread = threading.Thread(target=second)
    with live.transaction(triggers=True):
        live.apply([update])
        thread.start()
    thread.join()
    assert [type(one) for one in ended] == [SafetyRefused]


def test_other_encodings_keep_their_bytes(server: PostgresServer) -> None:
    """Cells are in the server's encoding, whatever that is, and so are values in statements."""
    name = server.create_database(encoding="LATIN1", template="template0", locale="C")
    try:
        server.psql(name, "CREATE TABLE \"mü\" (id int PRIMARY KEY, t text); INSERT INTO \"mü\" VALUES (1, 'é\\''')")
        live = open_live(kit.place(server, name))
        (row,) = live.rows('"mü"', ["id", "t"])
        assert row == (b"1", b"\xe9\\'")
        run(
            live,
            Change("delete", '"mü"', {"id": b"1"}, {"t": row[1]}, {}),
            Change("insert", '"mü"', {}, {}, {"id": b"1", "t": row[1]}),
        )
        live.close()
        assert server.psql(name, 'SELECT id, t FROM "mü"') == "1|é\\'"
    finally:
        server.drop_database(name)
