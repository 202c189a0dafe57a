"""Large objects: their owners, grants and comments as rows of one stream, and their contents as rows of another.

pg_dump writes an entry for each of them, which takes its memory with millions, and puts them into another section since
version 17; so they are captured by statements of our own. The contents are read by functions, which a role may use that
may not read the catalog of their pages.
"""

from collections.abc import Iterable, Iterator

import psycopg

from backupd.engines.base import StoredStream, StreamInfo, TableInfo
from backupd.engines.postgres.client import Server, cut
from backupd.engines.postgres.loading import connect_for_loading, measured
from backupd.engines.postgres.names import LARGE_OBJECTS, OBJECTS_METADATA, literal
from backupd.engines.postgres.plan import FREELY, Piece
from backupd.engines.postgres.problems import target_error

PIECE = 16 * 1024
_AT_ONCE = 32 * 1024 * 1024
_VERSION = 1
# Each object's pieces are counted by reading on until one is short. A size by lo_open and lo_lseek64 looks simpler and lost
# whole objects: descriptors repeat, and the planner's Memoize node gave one object the size of another.
_CONTENTS = f"""COPY (SELECT m.oid, p.number, pg_catalog.encode(pg_catalog.lo_get(m.oid, p.number * {PIECE}, {PIECE}), 'hex')
 FROM (SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid) m,
 LATERAL (WITH RECURSIVE piece(number, size) AS (
   SELECT 0::bigint, pg_catalog.octet_length(pg_catalog.lo_get(m.oid, 0, {PIECE}))
   UNION ALL
   SELECT number + 1, pg_catalog.octet_length(pg_catalog.lo_get(m.oid, (number + 1) * {PIECE}, {PIECE}))
     FROM piece WHERE size = {PIECE})
  SELECT number FROM piece WHERE size > 0) p) TO STDOUT"""
_METADATA = """COPY (SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner),
 (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(g.name, g.privilege_type, g.is_grantable)
    ORDER BY g.name COLLATE pg_catalog."C" NULLS FIRST, g.privilege_type)
  FROM (SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee)::text END AS name,
               a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(m.lomacl) a) g),
 pg_catalog.obj_description(m.oid, 'pg_largeobject')
 FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid) TO STDOUT"""
_CREATE = """
DO $create$
DECLARE
  o record;
  g record;
  may text := CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
  owners text[] := ARRAY(SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(r.oid, may));
BEGIN
  FOR o IN SELECT * FROM pg_temp.objects LOOP
    PERFORM pg_catalog.lo_create(o.object);
    IF o.owner <> current_user AND o.owner = ANY (owners) THEN
      EXECUTE pg_catalog.format('ALTER LARGE OBJECT %s OWNER TO %I', o.object, o.owner);
    END IF;
    IF o.comment IS NOT NULL THEN
      EXECUTE pg_catalog.format('COMMENT ON LARGE OBJECT %s IS %L', o.object, o.comment);
    END IF;
    -- Whoever restores keeps what owners have, or the contents could not be written.
    CONTINUE WHEN o.grants IS NULL OR o.owner <> ALL (owners);
    EXECUTE pg_catalog.format('REVOKE ALL ON LARGE OBJECT %s FROM %I', o.object,
      (SELECT pg_catalog.pg_get_userbyid(m.lomowner) FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = o.object));
    FOR g IN SELECT e.value ->> 0 AS grantee, e.value ->> 1 AS privilege, (e.value ->> 2)::boolean AS grantable
               FROM pg_catalog.jsonb_array_elements(o.grants) e LOOP
      CONTINUE WHEN g.privilege NOT IN ('SELECT', 'UPDATE')
        OR (g.grantee IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = g.grantee));
      EXECUTE pg_catalog.format('GRANT %s ON LARGE OBJECT %s TO %s', g.privilege, o.object,
        CASE WHEN g.grantee IS NULL THEN 'PUBLIC' ELSE pg_catalog.quote_ident(g.grantee) END)
        || CASE WHEN g.grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
  END LOOP;
END
$create$
"""


_PUT = f"""
SELECT pg_catalog.count(pg_catalog.lo_put(object, number * {PIECE}, pg_catalog.decode(data, 'hex')) IS NULL) FROM pg_temp.pieces
"""
# Of each stream: the temporary table that its rows are loaded into, and what is done with them there.
LOADS = {
    OBJECTS_METADATA: ("objects (object oid, owner name, grants jsonb, comment text)", _CREATE),
    LARGE_OBJECTS: ("pieces (object oid, number bigint, data text)", _PUT),
}


def copy_statement(name: str, encoding: str) -> str:
    """How to read one of the two streams."""
    return _CONTENTS if name == LARGE_OBJECTS else f"{_METADATA} (ENCODING {literal(encoding)})"


def object_streams(count: int, contents: int, encoding: str) -> list[tuple[TableInfo, Piece]]:
    """The two tables that stand for the large objects: what they are, and their contents in pieces of 16 KiB in hex.

    Args:
        count: how many there are.
        contents: bytes that all of them take.
    """
    described = (
        (
            OBJECTS_METADATA,
            ("oid",),
            (("oid", "oid"), ("owner", "name"), ("grants", "jsonb"), ("comment", "text")),
            count * 40,
        ),
        (LARGE_OBJECTS, ("oid", "pageno"), (("oid", "oid"), ("pageno", "bigint"), ("data", "hex")), contents * 2),
    )
    found = []
    for name, key, columns, size in described:
        info = TableInfo(name, key, None, columns, f"lo-{_VERSION}-{PIECE}", ordered=True)
        stream = StreamInfo(name, "rows", max(size, 1), key=tuple(range(len(key))))
        counted = "pg_catalog.pg_largeobject_metadata" if name == OBJECTS_METADATA else ""
        found.append((info, Piece(stream, "", FREELY, copy_statement(name, encoding), name, counted)))
    return found


def load_objects(server: Server, database: str, stream: StoredStream, encoding: str) -> None:
    """Create the large objects, empty, with their owners, grants and comments; or write their contents.

    Raises:
        IntegrityError, Failed.
    """
    table, use = LOADS[stream.info.name]
    _in_portions(server, database, stream, table, f" (ENCODING {literal(encoding)})", use)


def _in_portions(server: Server, database: str, stream: StoredStream, table: str, options: str, use: str) -> None:
    """Load rows into a temporary table, a portion at a time, and make use of each portion."""
    name = table.split(" ", 1)[0]
    session = connect_for_loading(server, database)
    try:
        session.execute(f"CREATE TEMPORARY TABLE {table}".encode())
        for rows in _whole_rows(measured(stream), _AT_ONCE):
            with session.transaction():
                with (
                    session.cursor() as cursor,
                    cursor.copy(f"COPY pg_temp.{name} FROM STDIN{options}".encode()) as copy,
                ):
                    for block in rows:
                        copy.write(block)
                session.execute(use.encode())
                session.execute(f"TRUNCATE pg_temp.{name}".encode())
    except psycopg.Error as error:
        raise target_error(error, "the large objects were refused", stream.info.name) from None
    except BaseException:
        cut(session)
        raise
    finally:
        session.close()


def _whole_rows(blocks: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Blocks in portions of about `size` bytes that end where a row does."""
    portion: list[bytes] = []
    held = 0
    for block in blocks:
        held += len(block)
        end = block.rfind(b"\n") + 1
        if held >= size and end:
            yield [*portion, block[:end]]
            portion, held = [block[end:]], len(block) - end
        else:
            portion.append(block)
    if held:
        yield portion
