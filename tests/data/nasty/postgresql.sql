-- Everything that makes a PostgreSQL database hard to copy. A line that ends in `--@icu` needs a server with ICU, one that ends in
-- `--@15` a server of version 15 or newer (`--@-14` is for older ones); loaded statement by statement, without any error.
CREATE ROLE app_owner LOGIN; CREATE ROLE app_ro;
CREATE DATABASE nasty OWNER app_owner;
ALTER DATABASE nasty SET timezone='America/New_York';
\c nasty
CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE SCHEMA crm;
CREATE TYPE crm.mood AS ENUM('sad','ok','happy');
CREATE DOMAIN crm.email AS citext CHECK (VALUE ~ '@');
CREATE COLLATION crm.nd (provider=icu, locale='und-u-ks-level2', deterministic=false); --@icu
CREATE TABLE crm.base(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, em crm.email);
CREATE TABLE crm.child(extra int) INHERITS (crm.base);
INSERT INTO crm.base(name,em) VALUES('parent-only','a@b'),(E'tab\tnl\nbs\\ \\N','c@d'),('\N','e@f'),(NULL,NULL),('',NULL);
INSERT INTO crm.child(name,extra,id) OVERRIDING SYSTEM VALUE VALUES('childrow',1,100);
CREATE TABLE crm.gen(a int primary key, b int GENERATED ALWAYS AS (a*2) STORED, c text COLLATE crm.nd, m crm.mood, ma crm.mood[], h hstore, mo money, f8 float8, f4 float4, n numeric, by bytea, ts timestamptz, iv interval, j json, jb jsonb, rg int4range, rc regclass, ch "char", x xml, bits bit varying(9), ip inet, pt point, nmulti int4multirange, arr text[][]); --@icu
CREATE TABLE crm.gen(a int primary key, b int GENERATED ALWAYS AS (a*2) STORED, c text, m crm.mood, ma crm.mood[], h hstore, mo money, f8 float8, f4 float4, n numeric, by bytea, ts timestamptz, iv interval, j json, jb jsonb, rg int4range, rc regclass, ch "char", x xml, bits bit varying(9), ip inet, pt point, nmulti int4multirange, arr text[][]); --@-icu
INSERT INTO crm.gen(a,c,m,ma,h,mo,f8,f4,n,by,ts,iv,j,jb,rg,rc,ch,x,bits,ip,pt,nmulti,arr) VALUES
 (1,'É','sad',ARRAY['ok','happy']::crm.mood[],'a=>1,b=>NULL','$1,234.56',0.1+0.2,1e-40,'NaN','\x00ff0a5c','2024-11-03 01:30:00-05','1 mon -2 days 03:04:05.678','{"b":1, "a":2,"a":3}','{"b":1,"a":2}','[1,5)','crm.base','ÿ','<a>&amp;</a>',B'101','::1/64','(1e-310,-0)','{[1,2],[5,7)}','{{"a,b","NULL"},{NULL,"q\"x"}}'),
 (2,NULL,NULL,NULL,NULL,NULL,'-Infinity','-0','Infinity','','infinity','-178000000 years',NULL,'null',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}'),
 (3,'x','ok','{}','','-0.01',5e-324,3.4028235e38,123456789012345678901234567890.000100,'\x0a09','4714-11-24 00:00:00+00 BC',NULL,'1','"\u00e9"','empty','pg_class','a',NULL,B'','1.2.3.4','(1,2)','{}','[0:1]={a,b}');
CREATE TABLE crm.part(k crm.mood, v int) PARTITION BY HASH(k);
CREATE TABLE crm.part0 PARTITION OF crm.part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE crm.part1 PARTITION OF crm.part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO crm.part SELECT (ARRAY['sad','ok','happy']::crm.mood[])[1+g%3], g FROM generate_series(1,300) g;
CREATE UNLOGGED TABLE crm.unl(a int); INSERT INTO crm.unl VALUES(1);
CREATE TABLE crm.a(id int primary key, b_id int); CREATE TABLE crm.b(id int primary key, a_id int references crm.a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE crm.a ADD FOREIGN KEY (b_id) REFERENCES crm.b ON DELETE CASCADE;
INSERT INTO crm.a VALUES(1,NULL); INSERT INTO crm.b VALUES(1,1); UPDATE crm.a SET b_id=1;
CREATE TABLE crm.nopk(x int, y text); INSERT INTO crm.nopk VALUES(1,'d'),(1,'d'),(2,NULL);
CREATE TABLE crm.zerocol(); INSERT INTO crm.zerocol DEFAULT VALUES; INSERT INTO crm.zerocol DEFAULT VALUES;
CREATE TABLE crm.dropped(a int, gone int, c text); ALTER TABLE crm.dropped DROP COLUMN gone; INSERT INTO crm.dropped VALUES(1,'x');
CREATE SEQUENCE crm.s1 START 5 INCREMENT 3 MAXVALUE 100 CYCLE; SELECT nextval('crm.s1'),nextval('crm.s1');
CREATE SEQUENCE crm.s2;
CREATE TABLE crm.secret(owner text, v text); ALTER TABLE crm.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE crm.secret FORCE ROW LEVEL SECURITY; CREATE POLICY p ON crm.secret USING(owner=current_user); INSERT INTO crm.secret VALUES('app_ro','1'),('other','2');
GRANT USAGE ON SCHEMA crm TO app_ro; GRANT SELECT ON ALL TABLES IN SCHEMA crm TO app_ro;
ALTER DEFAULT PRIVILEGES IN SCHEMA crm GRANT SELECT ON TABLES TO app_ro;
CREATE MATERIALIZED VIEW crm.mv AS SELECT count(*) FROM crm.gen;
CREATE VIEW crm.v AS SELECT a,b FROM crm.gen;
CREATE FUNCTION crm.trg() RETURNS trigger LANGUAGE plpgsql AS $$begin new.y := coalesce(new.y,'')||'!'; return new; end$$;
CREATE TRIGGER t BEFORE INSERT ON crm.nopk FOR EACH ROW EXECUTE FUNCTION crm.trg();
ALTER TABLE crm.nopk ENABLE ALWAYS TRIGGER t;
CREATE FUNCTION crm.et() RETURNS event_trigger LANGUAGE plpgsql AS $$begin raise notice 'ddl %', tg_tag; end$$;
CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION crm.et();
CREATE PUBLICATION pub FOR TABLE crm.gen WHERE (a > 1); --@15
CREATE PUBLICATION pub FOR TABLE crm.gen; --@-14
CREATE STATISTICS crm.st ON a,b FROM crm.gen;
SELECT lo_from_bytea(424242, '\x00010203'); COMMENT ON LARGE OBJECT 424242 IS 'lo comment'; GRANT SELECT ON LARGE OBJECT 424242 TO app_ro; SELECT lo_from_bytea(424243, decode(repeat('ab',5000),'hex'));
COMMENT ON COLUMN crm.gen.a IS 'it''s';
CREATE TABLE crm.tmpcat AS SELECT 1 AS "we""ird col", 2 AS "Select";
CREATE RULE r AS ON DELETE TO crm.dropped DO INSTEAD NOTHING;
-- A "char" beyond ASCII comes out of version 14 as half a character, which no COPY takes back, pg_dump's neither.
UPDATE crm.gen SET ch = 'y' WHERE a = 1; --@-14
-- Names that need quotes, in every kind of object.
CREATE SCHEMA "Weird ""schema"".x";
CREATE TABLE "Weird ""schema"".x"."tab.le ""q"" ; DROP" ("select" int PRIMARY KEY, "a:b" text, ":'c'" text, "back\slash" text, "new
line" int);
INSERT INTO "Weird ""schema"".x"."tab.le ""q"" ; DROP" VALUES (1, ':x', E'\\.', E'\\N', 1), (2, E'\\.\n', E'a\\tb', E'\r\n', 2);
CREATE TABLE public."Ünïcode 😀" (id int PRIMARY KEY, "ключ" text); INSERT INTO public."Ünïcode 😀" VALUES (1, '😀'), (2, U&'\FFFF'), (3, E'\x01\x7f');
CREATE TABLE public.pg_largeobject (id int PRIMARY KEY); INSERT INTO public.pg_largeobject VALUES (7);
CREATE SEQUENCE "Weird ""schema"".x"."se'q" INCREMENT -1 MINVALUE -9223372036854775808 START -5; SELECT nextval('"Weird ""schema"".x"."se''q"');
-- Columns: identity by default, serial, expressions, a generated column in the middle, dropped columns, only generated columns.
CREATE TABLE crm.ident(id bigint GENERATED BY DEFAULT AS IDENTITY (START 10 INCREMENT 5), n serial, t text DEFAULT 'it''s' || now()::date); INSERT INTO crm.ident(t) VALUES ('x'), ('y');
CREATE TABLE crm.middle(a int, g text GENERATED ALWAYS AS ('g' || a) STORED, z int, gone text, k int PRIMARY KEY); ALTER TABLE crm.middle DROP COLUMN gone; INSERT INTO crm.middle(a, z, k) VALUES (1, 2, 3), (4, 5, 6);
CREATE TABLE crm.onlygen(g int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO crm.onlygen DEFAULT VALUES; INSERT INTO crm.onlygen DEFAULT VALUES;
-- Every way to partition, partitions of partitions, a default partition, attached ones with other column orders, expressions.
CREATE TABLE crm.rng(at date NOT NULL, region text NOT NULL, v int) PARTITION BY RANGE (at);
CREATE TABLE crm.rng_23 PARTITION OF crm.rng FOR VALUES FROM ('2023-01-01') TO ('2024-01-01') PARTITION BY LIST (region);
CREATE TABLE crm.rng_23_eu PARTITION OF crm.rng_23 FOR VALUES IN ('de', 'fr'); CREATE TABLE crm.rng_23_x PARTITION OF crm.rng_23 DEFAULT;
CREATE TABLE crm.rng_24(v int, gone int, region text NOT NULL, at date NOT NULL); ALTER TABLE crm.rng_24 DROP COLUMN gone;
ALTER TABLE crm.rng ATTACH PARTITION crm.rng_24 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01'); CREATE TABLE crm.rng_other PARTITION OF crm.rng DEFAULT;
INSERT INTO crm.rng VALUES ('2023-05-01', 'de', 1), ('2023-05-01', 'us', 2), ('2024-02-29', 'fr', 3), ('1999-12-31', 'xx', 4);
CREATE INDEX rng_v ON crm.rng (v);
CREATE TABLE crm.hsh(id uuid, v int) PARTITION BY HASH (id); CREATE TABLE crm.hsh0 PARTITION OF crm.hsh FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE crm.hsh1 PARTITION OF crm.hsh FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO crm.hsh SELECT md5(g::text)::uuid, g FROM generate_series(1, 50) g;
CREATE TABLE crm.hexp(k crm.mood, v int) PARTITION BY LIST (v); CREATE TABLE crm.hexp1 PARTITION OF crm.hexp FOR VALUES IN (1) PARTITION BY HASH (k, (v + 1)); CREATE TABLE crm.hexp10 PARTITION OF crm.hexp1 FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE crm.hexp11 PARTITION OF crm.hexp1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO crm.hexp SELECT (ARRAY['sad','ok','happy']::crm.mood[])[1+g%3], 1 FROM generate_series(1, 30) g;
-- Inheritance from two parents, a child's own row, and a column merged.
CREATE TABLE crm.second(id int, extra2 text); CREATE TABLE crm.both(own int) INHERITS (crm.base, crm.second); INSERT INTO crm.both(id, name, extra2, own) OVERRIDING SYSTEM VALUE VALUES (200, 'both', 'e2', 7);
-- Types: composites, arrays of them, domains over arrays, ranges of one's own, enums changed later, labels that need quotes.
CREATE TYPE crm.pair AS (a int, "B b" text); CREATE TYPE crm.quoted AS ENUM ('it''s', 'a,b', '"', 'back\slash', ''); ALTER TYPE crm.quoted ADD VALUE 'zero' BEFORE 'a,b';
CREATE DOMAIN crm.pairs AS crm.pair[] CHECK (array_length(VALUE, 1) < 5); CREATE TYPE crm.frange AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE crm.typed(id int PRIMARY KEY, p crm.pair, ps crm.pairs, q crm.quoted, qs crm.quoted[], r crm.frange, mr int8multirange[], tq tsquery, tv tsvector, mac macaddr8, xs xml[], t time with time zone, bp char(5), vc varchar(3), n numeric(10,3), nn numeric, o oid, na name, ln line, poly polygon, cid cidr, jp jsonpath, lsn pg_lsn);
INSERT INTO crm.typed VALUES (1, ROW(1, E'x,"y"\\(z)\n'), ARRAY[ROW(1, NULL)::crm.pair, NULL], '"', ARRAY['it''s', NULL, '"', 'a,b', '']::crm.quoted[], '[1e-320,infinity)', '{"{[1,2],[4,5]}","{}"}', '''a'' & ''b c'':*A', '''fat'':2A,4B ''it''''s''', '08:00:2b:01:02:03:04:05', ARRAY['<a/>'::xml], '24:00:00-15:59:59', 'ab', 'xyz', -0.0005, '-Infinity', 4294967295, repeat('n', 63)::name, '{1,-1,0}', '((0,0),(1e300,-1e-300))', '10.0.0.0/8', '$.a[*] ? (@ > 1)', 'FFFFFFFF/FFFFFFFF'), (2, ROW(NULL, ''), '{}', '', '{}'::crm.quoted[], 'empty', '{}', '', '', NULL, '{}', NULL, '', '', 0, 'NaN', 0, '', NULL, NULL, NULL, NULL, NULL);
CREATE TABLE crm.moments(ts timestamp, tz timestamptz, d date, iv interval); INSERT INTO crm.moments VALUES ('-infinity', '294276-12-31 23:59:59.999999+00', '5874897-12-31', '-178000000 years -11 mons -2147483648 days'), ('4713-01-01 00:00:00 BC', '4714-11-24 00:00:00+00 BC', '4714-11-24 BC', '1 mon -1 day 00:00:00.000001'), ('infinity', 'infinity', 'infinity', '-00:00:00.000001');
CREATE TABLE crm.floats(f8 float8, f4 float4); INSERT INTO crm.floats VALUES (1.7976931348623157e308, 3.4028235e38), ('-0', '-0'), (4.9406564584124654e-324, 1.4e-45), ('NaN', 'Infinity'), (16777217, 16777217), (0.1, 0.1), (1e22, 1e10);
CREATE TABLE crm.big(id int PRIMARY KEY, body text, raw bytea); INSERT INTO crm.big SELECT g, repeat(E'x\t\\\n', 100000), decode(repeat('000a095c', 50000), 'hex') FROM generate_series(1, 3) g;
-- Constraints: not valid, exclusion, deferrable, on a partitioned table, self-reference; rows that a later check would refuse.
CREATE TABLE crm.con(id int PRIMARY KEY, up int REFERENCES crm.con DEFERRABLE, r int4range, EXCLUDE USING gist (r WITH &&)); INSERT INTO crm.con VALUES (1, 2, '[1,2)'), (2, 1, '[2,3)');
INSERT INTO crm.nopk VALUES (-1, 'old'); ALTER TABLE crm.nopk ADD CONSTRAINT later CHECK (x > 0) NOT VALID;
CREATE TABLE crm.uni(a int, b int, CONSTRAINT u UNIQUE NULLS NOT DISTINCT (a, b)); --@15
CREATE TABLE crm.include(a int, b text, PRIMARY KEY (a) INCLUDE (b)); INSERT INTO crm.include VALUES (1, 'x'); ALTER TABLE crm.include CLUSTER ON include_pkey; ALTER TABLE crm.include REPLICA IDENTITY FULL; ALTER TABLE crm.include SET (fillfactor = 70); ALTER TABLE crm.include ALTER b SET STORAGE EXTERNAL, ALTER b SET STATISTICS 500;
-- A check that calls a function with a search_path of its own, and one whose body names a table.
CREATE FUNCTION crm.is_sane(t text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = crm, public AS $f$ SELECT t IS NOT NULL AND t <> ';' $f$;
CREATE TABLE crm.checked(t text CHECK (crm.is_sane(t))); INSERT INTO crm.checked VALUES ('fine'), ('$f$; --');
CREATE FUNCTION crm.atomic(a int DEFAULT 1, OUT b int) LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END; SELECT 1; END;
CREATE PROCEDURE crm.proc(INOUT x text) LANGUAGE plpgsql AS $$ BEGIN x := x || '; DROP TABLE y; --'; END $$;
CREATE AGGREGATE crm.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION crm.plus(a crm.pair, b crm.pair) RETURNS crm.pair LANGUAGE sql IMMUTABLE AS 'SELECT ROW(a.a + b.a, a."B b")::crm.pair'; CREATE OPERATOR crm.+ (FUNCTION = crm.plus, LEFTARG = crm.pair, RIGHTARG = crm.pair);
CREATE TEXT SEARCH CONFIGURATION crm.cfg (COPY = simple); COMMENT ON TEXT SEARCH CONFIGURATION crm.cfg IS 'a; b -- c /* d */ $e$';
-- Rights: owners other than the superuser, an owner who took its own right away, columns, functions, default privileges, policies.
CREATE ROLE "we""ird role"; GRANT app_ro TO "we""ird role"; ALTER TABLE crm.nopk OWNER TO "we""ird role"; GRANT SELECT (a, c) ON crm.gen TO "we""ird role" WITH GRANT OPTION; REVOKE EXECUTE ON FUNCTION crm.is_sane FROM PUBLIC;
CREATE TABLE crm.noinsert(a int); INSERT INTO crm.noinsert VALUES (1); ALTER TABLE crm.noinsert OWNER TO app_owner; REVOKE INSERT, TRUNCATE ON crm.noinsert FROM app_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA public REVOKE ALL ON FUNCTIONS FROM PUBLIC; CREATE POLICY q ON crm.a FOR UPDATE TO app_ro, "we""ird role" USING (id > 0) WITH CHECK (b_id IS NULL);
REVOKE ALL ON DATABASE nasty FROM PUBLIC; GRANT CONNECT, TEMPORARY ON DATABASE nasty TO app_ro WITH GRANT OPTION; COMMENT ON DATABASE nasty IS 'it''s hard; -- "to" copy'; ALTER DATABASE nasty SET search_path = "$user", public, "Weird ""schema"".x"; ALTER ROLE app_ro IN DATABASE nasty SET work_mem = '17MB'; ALTER DATABASE nasty SET my.setting = 'a"b''c, d'; ALTER DATABASE nasty CONNECTION LIMIT 77;
-- Views and materialized views in a chain, a security barrier, a rule, a view with a circle through a rule, a populated and an empty one.
CREATE VIEW crm.v2 WITH (security_barrier) AS SELECT a FROM crm.v WHERE a > 0; CREATE MATERIALIZED VIEW crm.mv2 AS SELECT count AS n FROM crm.mv; CREATE UNIQUE INDEX ON crm.mv2 (n); CREATE MATERIALIZED VIEW crm.mv3 AS SELECT 1 AS one WITH NO DATA; CREATE RECURSIVE VIEW crm.rec (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM rec WHERE n < 3;
-- Triggers that must not fire on loading, in every state; a constraint trigger; rules.
CREATE TRIGGER loud AFTER INSERT ON crm.checked FOR EACH STATEMENT EXECUTE FUNCTION crm.trg(); ALTER TABLE crm.checked DISABLE TRIGGER loud; CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON crm.a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.id > 5) EXECUTE FUNCTION crm.trg(); ALTER TABLE crm.a ENABLE REPLICA TRIGGER late; CREATE RULE ins AS ON INSERT TO crm.a WHERE new.id < 0 DO ALSO INSERT INTO crm.nopk VALUES (new.id, 'rule');
-- Large objects: empty, sparse, longer than one piece, of another owner, with a comment full of quotes.
SELECT lo_create(500001); SELECT lo_from_bytea(500002, '\x01'); SELECT lo_put(500002, 100000, '\x02'); SELECT lo_from_bytea(500003, decode(repeat('00ff0a5c', 20000), 'hex')); ALTER LARGE OBJECT 500003 OWNER TO app_owner; COMMENT ON LARGE OBJECT 500003 IS E'it''s; \\ "x"\n y'; REVOKE ALL ON LARGE OBJECT 500002 FROM postgres; GRANT UPDATE ON LARGE OBJECT 500002 TO PUBLIC;
-- Publications of everything kinds, statistics of kinds, an index on an expression, a partial one, one with another operator class.
CREATE PUBLICATION pub_all FOR ALL TABLES WITH (publish = 'insert'); CREATE PUBLICATION pub_none; CREATE PUBLICATION pub_schema FOR TABLES IN SCHEMA crm; --@15
CREATE STATISTICS crm.st2 (mcv) ON x, y FROM crm.nopk; CREATE INDEX exp_ix ON crm.checked ((lower(t)) DESC NULLS LAST) WHERE t <> ''; CREATE INDEX trgm_ix ON crm.checked USING gin (t gin_trgm_ops); CREATE INDEX brin_ix ON crm.big USING brin (id);
-- A foreign table without rows of its own stays out of the row streams; it needs a wrapper, which needs a superuser.
CREATE TABLE crm.checkpath(v text DEFAULT current_setting('search_path')); CREATE TABLE crm.strings(s text PRIMARY KEY); INSERT INTO crm.strings SELECT chr(g) FROM generate_series(1, 300) g; INSERT INTO crm.strings VALUES (''), (E'\\.'), (E'\\N'), (E'\n\\.\n'), ('NULL'), (E'a\u2028b');
CREATE TABLE crm.virt(a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, c int NOT NULL NO INHERIT); INSERT INTO crm.virt(a, c) VALUES (1, 2); --@18
CREATE TABLE crm.wo(id int4range, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS)); INSERT INTO crm.wo VALUES ('[1,2)', '[2024-01-01,2025-01-01)'); --@18
ALTER EXTENSION hstore ADD TABLE crm.checkpath; INSERT INTO crm.checkpath VALUES ('config'), ('user'); ALTER EXTENSION hstore DROP TABLE crm.checkpath;
