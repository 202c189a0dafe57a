# ruff: noqa: E501 - a table is a line
"""Schemas in which it is not easy to bring a record back and to take that back again, for `test_recover_schemas`."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Case:
    """A few tables, what a mistake does to them, and who shall come back.

    Attributes:
        counts: of the plan; those that are not named are 0.
        more: whole statements behind the schema.
        altered: what becomes of the tables after the capture.
        later: what somebody does after the recovery, which keeps it from being undone, and how that goes away again.
        triggers: whether they run.
        same: whether everything is as before afterwards.
        refused: whether it must not be carried out, and nothing be changed.
        warned: what the plan says.
        brief: whether one undo will do.
        meanwhile: what somebody does between a script and its execution, which it must notice, and how that goes away again.
    """

    name: str
    subject: str
    tables: str
    schema: str
    damage: str
    counts: dict[str, int]
    references: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    altered: str = ""
    later: tuple[tuple[str, str], ...] = ()
    triggers: bool | None = None
    same: bool = True
    refused: bool = False
    meanwhile: tuple[str, str] | None = None
    warned: str = ""
    brief: bool = False


LATER = Case(
    "later columns",
    "la_c:1",
    "la_c la_v",
    "create table la_c (id int primary key, n int);"
    "create table la_v (c int, page varchar(20), foreign key (c) references la_c(id) on delete cascade);"
    "insert into la_c values (1, 1), (2, 2); insert into la_v values (1, 'home'), (1, 'home'), (2, 'home'), (null, 'home')",
    "delete from la_c where id = 1",
    {"insert": 3},
    altered="alter table la_c add column phone varchar(20) default 'none'; alter table la_v add column seen varchar(9)",
    later=(
        ("update la_c set phone = '123' where id = 1", "update la_c set phone = 'none' where id = 1"),
        ("update la_v set seen = 'yes' where c = 1", "update la_v set seen = null where c = 1"),
        (
            "alter table la_c add column z varchar(9); update la_c set z = 'q' where id = 1",
            "alter table la_c drop column z",
        ),
        ("alter table la_v add column z varchar(9); update la_v set z = 'q'", "alter table la_v drop column z"),
        ("insert into la_v values (1, 'newer', 'x')", "delete from la_v where page = 'newer'"),
    ),
)


def triggered(*triggers: str) -> Case:
    """Triggers write into what comes back: the undo takes back what they made of it."""
    return Case(
        "triggers",
        "tr_c:1",
        "tr_c tr_n",
        "create table tr_c (id int primary key, stamp varchar(9));"
        "create table tr_n (id int primary key, c int, stamp varchar(9), foreign key (c) references tr_c(id) on delete set null);"
        "insert into tr_c values (1, 'old'), (2, 'old'); insert into tr_n values (1, 1, 'old'), (2, 2, 'old')",
        "delete from tr_c where id = 1",
        {"insert": 1, "repair": 1},
        more=triggers,
        triggers=True,
        same=False,
    )


def rewritten(*triggers: str) -> Case:
    """Triggers make other rows of rows without a key: the undo finds them all the same."""
    return Case(
        "rewritten",
        "rw_c:1",
        "rw_c rw_v",
        "create table rw_c (id int primary key);"
        "create table rw_v (c int, x varchar(9), foreign key (c) references rw_c(id) on delete cascade);"
        "insert into rw_c values (1), (2); insert into rw_v values (1, 'a'), (1, 'a'), (2, 'a')",
        "delete from rw_c where id = 1",
        {"insert": 3},
        more=triggers,
        triggers=True,
        same=False,
    )


def moved(*triggers: str) -> Case:
    """A trigger gives what comes back another key: nobody would find it again."""
    return Case(
        "moved",
        "mo_c:1",
        "mo_c",
        "create table mo_c (id int primary key, n int); insert into mo_c values (1, 1)",
        "delete from mo_c",
        {"insert": 1},
        more=triggers,
        triggers=True,
        refused=True,
    )


ROUNDED = Case(
    "rounded",
    "rd_c:1",
    "rd_c rd_v",
    "create table rd_c (id int primary key);"
    "create table rd_v (c int, x decimal(10,4), foreign key (c) references rd_c(id) on delete cascade);"
    "insert into rd_c values (1); insert into rd_v values (1, 1.2345), (1, 2.5)",
    "delete from rd_c",
    {"insert": 3},
    altered="alter table rd_v {} decimal(10,2)",
    refused=True,
)
CIRCLE = Case(
    "circle",
    "ro_o:1",
    "ro_o ro_p ro_a ro_b",
    "create table ro_o (id int primary key); create table ro_p (id int primary key);"
    "create table ro_b (id int primary key, a int not null);"
    "create table ro_a (id int primary key, b int not null, o int not null, p int not null,"
    " foreign key (b) references ro_b(id) on delete cascade, foreign key (o) references ro_o(id) on delete cascade,"
    " foreign key (p) references ro_p(id));"
    "insert into ro_o values (1), (2); insert into ro_p values (8), (9)",
    "delete from ro_o where id = 1",
    {"insert": 3},
    meanwhile=("delete from ro_p where id = 9", "insert into ro_p values (9)"),
)
_CLOSED = "alter table ro_b add foreign key (a) references ro_a(id) on delete cascade"

MOVED = (
    Case(
        "moved",
        "mv_o:1",
        "mv_p mv_o",
        "create table mv_p (code varchar(9) primary key, n varchar(9));"
        "create table mv_o (id int primary key, code varchar(9), foreign key (code) references mv_p(code) on delete cascade on update cascade);"
        "insert into mv_p values ('a', 'Ada'), ('c', 'Cy'); insert into mv_o values (1, 'a'), (2, 'a'), (3, 'c')",
        "update mv_p set code = 'b' where code = 'a'; delete from mv_o where id = 1",
        {"conflict": 2},
        refused=True,
    ),
    Case(
        "moved root",
        "mr_p:1,a",
        "mr_p mr_o",
        "create table mr_p (t int, code varchar(9), n varchar(9), primary key (t, code));"
        "create table mr_o (id int primary key, t int, code varchar(9), foreign key (t, code) references mr_p(t, code) on delete cascade on update cascade);"
        "insert into mr_p values (1, 'a', null), (1, 'c', null); insert into mr_o values (1, 1, 'a'), (2, 1, 'a'), (3, 1, 'c')",
        "update mr_p set code = 'b' where code = 'a'; delete from mr_o where id = 1",
        {"conflict": 3},
        refused=True,
    ),
    Case(
        "moved alone",
        "ma_p:a",
        "ma_p ma_o",
        "create table ma_p (code varchar(9) primary key, n varchar(9), m int);"
        "create table ma_o (code varchar(9), foreign key (code) references ma_p(code) on delete set null on update cascade);"
        "insert into ma_p values ('a', 'Ada', null), ('c', 'Cy', null)",
        "update ma_p set code = 'b' where code = 'a'",
        {"insert": 1},
        warned="under another key",
        same=False,
        brief=True,
    ),
    Case(
        "not moved",
        "mn_p:a",
        "mn_p mn_o",
        "create table mn_p (code varchar(9) primary key, n varchar(9));"
        "create table mn_o (id int primary key, code varchar(9), foreign key (code) references mn_p(code) on delete cascade on update cascade);"
        "insert into mn_p values ('a', 'Ada'), ('c', 'Ada'); insert into mn_o values (1, 'a'), (2, 'a')",
        "update mn_o set code = 'c' where id = 1; delete from mn_p where code = 'a'",
        {"insert": 2, "conflict": 1},
        refused=True,
    ),
)
DEFAULTED = Case(
    "defaults",
    "de_u:1",
    "de_u de_c de_n de_e",
    "create table de_u (id int primary key);"
    "create table de_c (u int default (2 + 3), x varchar(9), foreign key (u) references de_u on delete set default);"
    "create table de_n (u int default (100 + 1 - 1), v int, x varchar(9), foreign key (u) references de_u on delete set default, foreign key (v) references de_u on delete set null);"
    "create table de_e (u int default (2 + 3), foreign key (u) references de_u on delete set default);"
    "insert into de_u values (1), (2), (5), (100), (101);"
    "insert into de_c values (1, 'a'), (1, 'a'), (2, 'a'), (5, 'a'), (1, 'b'), (null, 'a'), (1, null);"
    "insert into de_n values (1, 1, 'a'), (1, 2, 'a'), (2, 1, 'a'), (1, 1, 'b'), (1, null, 'c');"
    "insert into de_e values (1), (2), (5)",
    "delete from de_u where id = 1",
    {"insert": 1, "repair": 4 + 5 + 1},
)
APART = Case(
    "defaults apart",
    "dd_u:1",
    "dd_u dd_c dd_d dd_e",
    "create table dd_u (id int primary key);"
    "create table dd_c (u int default (2 + 3), x varchar(9), foreign key (u) references dd_u on delete set default);"
    "create table dd_d (u int default (2 + 3), x varchar(9), foreign key (u) references dd_u on delete set default);"
    "create table dd_e (u int default (2 + 3), x varchar(9), foreign key (u) references dd_u on delete set default);"
    "insert into dd_u values (1), (2), (5), (6); insert into dd_c values (1, 'a'); insert into dd_d values (1, 'a'), (2, 'a'); insert into dd_e values (1, 'a')",
    "delete from dd_u where id < 3; insert into dd_c values (6, 'a'); delete from dd_e",
    {"insert": 1 + 1 + 1, "repair": 1},
    warned="1 of dd_c may be there already with another u",
    same=False,
    brief=True,
)

MARIADB = [
    LATER,
    *MOVED,
    replace(
        CIRCLE,
        more=(
            _CLOSED,
            "set foreign_key_checks = 0",
            "insert into ro_b values (1, 1)",
            "insert into ro_a values (1, 1, 1, 9)",
            "set foreign_key_checks = 1",
        ),
    ),
    triggered(
        "create trigger tr_i before insert on tr_c for each row set new.stamp = 'made'",
        "create trigger tr_u before update on tr_n for each row set new.stamp = if(new.c is null, new.stamp, 'back')",
    ),
    rewritten("create trigger rw_i before insert on rw_v for each row set new.x = 'made'"),
    moved("create trigger mo_i before insert on mo_c for each row set new.id = new.id + 100"),
    replace(ROUNDED, altered=ROUNDED.altered.format("modify x")),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_n sp_t",
        "create table sp_c (name varchar(20) primary key, boss varchar(20),"
        " foreign key (boss) references sp_c(name) on delete cascade);"
        "create table sp_o (id int primary key, name varchar(20), foreign key (name) references sp_c(name) on delete cascade);"
        "create table sp_n (id int primary key, name varchar(20), foreign key (name) references sp_c(name) on delete set null);"
        "create table sp_t (name varchar(20), n int, foreign key (name) references sp_c(name) on delete set null);"
        "insert into sp_c values ('ADA', null), ('José', 'ada '), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Ada '), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSé', 2)",
        "delete from sp_c where name = 'Ada'",
        {"insert": 3 + 4, "repair": 2 + 3},
    ),
    Case(
        "up",
        "up_o:1",
        "up_c up_o",
        "create table up_c (code char(6) character set utf8mb4 collate utf8mb4_bin primary key, n int);"
        "create table up_o (id int primary key, code char(6) character set utf8mb4 collate utf8mb4_bin,"
        " foreign key (code) references up_c(code) on delete cascade);"
        "insert into up_c values ('a', 1), ('A', 2); insert into up_o values (1, 'a'), (2, 'A')",
        "delete from up_c where code = 'a'",
        {"insert": 2},
    ),
    Case(
        "lithuanian",
        "li_c:Yi",
        "li_c li_o",
        "create table li_c (name varchar(20) collate utf8mb4_lithuanian_ci primary key);"
        "create table li_o (id int primary key, name varchar(20) collate utf8mb4_lithuanian_ci,"
        " foreign key (name) references li_c(name) on delete cascade);"
        "insert into li_c values ('Yi'), ('other'); insert into li_o values (1, 'ii'), (2, 'other'), (3, 'YY')",
        "delete from li_c where name = 'yy'",
        {"insert": 3},
    ),
    Case(
        "codes",
        "co_c:1,78",
        "co_c co_o",
        "create table co_c (t int, code varchar(9) character set cp932 collate cp932_japanese_ci, primary key (t, code));"
        "create table co_o (id int primary key, t int, code varchar(9) character set cp932 collate cp932_japanese_ci,"
        " foreign key (t, code) references co_c(t, code) on delete cascade);"
        "insert into co_c values (1, 'x'), (2, 'x'); insert into co_o values (1, 1, 'X'), (2, 2, 'X'), (3, null, 'X')",
        "delete from co_c where t = 1",
        {"insert": 2},
    ),
    Case(
        "zeros",
        "ze_c:7",
        "ze_c ze_o",
        "create table ze_c (id int(5) unsigned zerofill primary key, u int);"
        "create table ze_o (id int primary key, c int(3) unsigned zerofill,"
        " foreign key (c) references ze_c(id) on delete cascade);"
        "insert into ze_c values (7, 1); insert into ze_o values (1, 7)",
        "delete from ze_c",
        {"insert": 2},
    ),
    Case(
        "selfnull",
        "s1_e:1",
        "s1_e",
        "create table s1_e (id int primary key, boss int, x text, foreign key (boss) references s1_e(id) on delete set null);insert into s1_e values (1,null,'a'),(2,1,'b'),(3,2,'c')",
        "delete from s1_e where id=1",
        {"insert": 1, "repair": 1, "same": 1},
    ),
    Case(
        "nonunique",
        "n1_p:1",
        "n1_p n1_c",
        "create table n1_p (id int primary key, v int, key (v));create table n1_c (id int primary key, v int, foreign key (v) references n1_p(v) on delete cascade);insert into n1_p values (1,7),(2,8);insert into n1_c values (1,7),(2,8)",
        "delete from n1_p where id=1",
        {"insert": 2},
    ),
    Case(
        "renewed",
        "x1_p:1",
        "x1_p x1_c",
        "create table x1_p (id int primary key auto_increment, at timestamp default current_timestamp on update current_timestamp);create table x1_c (id int primary key, p int, at timestamp not null default '2020-01-01' on update current_timestamp, foreign key (p) references x1_p(id) on delete set null);insert into x1_p values (1,'2021-01-01');insert into x1_c values (1,1,'2022-01-01')",
        "delete from x1_p",
        {"insert": 1, "repair": 1},
    ),
    Case(
        "bits",
        "b1_p:1",
        "b1_p b1_c",
        "create table b1_p (id bit(9) primary key);create table b1_c (i int primary key, p bit(9), s set('a','b',''), e enum('x','Y') , foreign key (p) references b1_p(id) on delete cascade);insert into b1_p values (b'1');insert into b1_c values (1,b'1','a,b','y')",
        "delete from b1_p",
        {"insert": 2},
    ),
    Case(
        "enumkey",
        "h1_p:Y",
        "h1_p h1_c",
        "create table h1_p (id enum('x','Y') primary key);create table h1_c (i int primary key, p enum('x','Y'), foreign key (p) references h1_p(id) on delete cascade);insert into h1_p values ('Y'),('x');insert into h1_c values (1,'y'),(2,'X')",
        "delete from h1_p where id='y'",
        {"insert": 2},
    ),
    Case(
        "floats",
        "l1_p:0",
        "l1_p l1_c",
        "create table l1_p (id double primary key);create table l1_c (i int primary key, p double, foreign key (p) references l1_p(id) on delete cascade);insert into l1_p values (-0e0),(0.5);insert into l1_c values (1,0),(3,0.5)",
        "delete from l1_p where id=0",
        {"insert": 2},
    ),
    Case(
        "decimals",
        "m1_p:1.00",
        "m1_p m1_c",
        "create table m1_p (id decimal(10,2) primary key);create table m1_c (i int primary key, p decimal(10,2), foreign key (p) references m1_p(id) on delete cascade);insert into m1_p values (1),(2);insert into m1_c values (1,1),(3,2)",
        "delete from m1_p where id=1",
        {"insert": 2},
    ),
    Case(
        "nullparts",
        "f1_p:1,2",
        "f1_p f1_s",
        "create table f1_p (a int, b int, primary key (a,b));create table f1_s (id int primary key, a int, b int, foreign key (a,b) references f1_p(a,b) on delete set null);insert into f1_p values (1,2),(1,3);insert into f1_s values (1,1,2),(2,1,null),(3,null,2)",
        "delete from f1_p where b=2",
        {"insert": 1, "repair": 1},
    ),
    Case(
        "prefix",
        "v1_p:1",
        "v1_p v1_c",
        "create table v1_p (id int primary key, mail text, unique key (mail(5)));create table v1_c (id int primary key, p int, foreign key (p) references v1_p(id) on delete cascade);insert into v1_p values (1,'aaaaab');insert into v1_c values (1,1)",
        "delete from v1_p;insert into v1_p values (2,'aaaaac')",
        {"insert": 2},
        refused=True,
    ),
    Case(
        "taken",
        "w1_p:1",
        "w1_p w1_c",
        "create table w1_p (id int primary key, mail varchar(9) unique);create table w1_c (id int primary key, p int, foreign key (p) references w1_p(id) on delete cascade);insert into w1_p values (1,'a');insert into w1_c values (1,1)",
        "delete from w1_p;insert into w1_p values (2,'A ')",
        {"conflict": 2},
        refused=True,
    ),
    Case(
        "keyless",
        "k1_p:1",
        "k1_p k1_l",
        "create table k1_p (id int primary key);create table k1_l (p int, f float, d double, b blob, t varchar(9), j json, foreign key (p) references k1_p(id) on delete set null);insert into k1_p values (1);insert into k1_l values (1,-0e0,0.1,x'00','a','{}'),(1,0,0.1,x'00','A','{}'),(null,-0e0,0.1,x'00','a','{}'),(null,0,0.1,x'00','a ','{}')",
        "delete from k1_p",
        {"insert": 1, "repair": 2},
    ),
    Case(
        "updatecascade",
        "z1_c:1",
        "z1_p z1_c",
        "create table z1_p (id int primary key, code varchar(9) unique);create table z1_c (id int primary key, code varchar(9), foreign key (code) references z1_p(code) on update cascade on delete cascade);insert into z1_p values (1,'a');insert into z1_c values (1,'a'),(2,'a')",
        "update z1_p set code='b';delete from z1_c where id=1",
        {"conflict": 2},
        refused=True,
    ),
]
POSTGRES = [
    LATER,
    DEFAULTED,
    APART,
    *MOVED,
    replace(
        CIRCLE,
        more=(
            _CLOSED,
            "with b as (insert into ro_b values (1, 1)) insert into ro_a values (1, 1, 1, 9)",
            "create function ro_f() returns trigger language plpgsql as $$ begin raise 'it runs'; end $$",
            "create trigger ro_t before insert on ro_a for each row execute function ro_f()",
        ),
        triggers=False,
    ),
    triggered(
        "create function tr_f() returns trigger language plpgsql as $$ begin new.stamp = 'made'; return new; end $$",
        "create trigger tr_i before insert on tr_c for each row execute function tr_f()",
    ),
    rewritten(
        "create function rw_f() returns trigger language plpgsql as $$ begin new.x = 'made'; return new; end $$",
        "create trigger rw_i before insert on rw_v for each row execute function rw_f()",
    ),
    moved(
        "create function mo_f() returns trigger language plpgsql as $$ begin delete from mo_c; return new; end $$",
        "create trigger mo_i after insert on mo_c for each row execute function mo_f()",
    ),
    replace(ROUNDED, altered=ROUNDED.altered.format("alter x type")),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_n sp_t",
        "create collation loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);"
        "create table sp_c (name text collate loose primary key, boss text collate loose references sp_c on delete cascade);"
        "create table sp_o (id int primary key, name text collate loose references sp_c on delete cascade);"
        "create table sp_n (id int primary key, name text collate loose references sp_c on delete set null);"
        "create table sp_t (name text collate loose references sp_c on delete set null, n int);"
        "insert into sp_c values ('ADA', null), ('José', 'ada'), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Àda'), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSé', 2)",
        "delete from sp_c where name = 'Ada'",
        {"insert": 3 + 4, "repair": 2 + 3},
    ),
    Case(
        "citext",
        "ci_c:Straße",
        "ci_c ci_o",
        "create extension citext; create table ci_c (name citext primary key);"
        "create table ci_o (id int primary key, name citext references ci_c on delete cascade);"
        "insert into ci_c values ('Straße'), ('ada'); insert into ci_o values (1, 'STRAßE'), (2, 'ADA'), (3, 'straße')",
        "delete from ci_c where name = 'straße'",
        {"insert": 3},
    ),
    Case(
        "numbers",
        "nu_c:1.00",
        "nu_c nu_o nu_i",
        "create table nu_c (id numeric primary key, up numeric references nu_c on delete cascade);"
        "create table nu_o (id int primary key, c numeric(10,2) references nu_c on delete cascade);"
        "create table nu_i (id int primary key, c int references nu_c on delete set null);"
        "insert into nu_c values (1.00, null), (2, 1.0), (3, null); insert into nu_o values (1, 1), (2, 2.00), (3, 3);"
        "insert into nu_i values (1, 1), (2, 2), (3, 3)",
        "delete from nu_c where id = 1",
        {"insert": 2 + 2, "repair": 2},
    ),
    Case(
        "times",
        "ti_c:1 day",
        "ti_c ti_o",
        "create table ti_c (id interval primary key); create table ti_o (id int primary key, c interval references ti_c"
        " on delete cascade); insert into ti_c values ('1 day'), ('2 days');"
        "insert into ti_o values (1, '24:00:00'), (2, '2 days')",
        "delete from ti_c where id = '1 day'",
        {"insert": 2},
    ),
    Case(
        "padded",
        "pa_c:ab",
        "pa_c pa_o",
        "create table pa_c (id char(5) primary key); create table pa_o (id int primary key, c char(3) references pa_c"
        " on delete cascade); insert into pa_c values ('ab'), ('c'); insert into pa_o values (1, 'ab'), (2, 'c')",
        "delete from pa_c where id = 'ab'",
        {"insert": 2},
    ),
    Case(
        "fallen back",
        "fb_u:7,1",
        "fb_u fb_c fb_d fb_e",
        "create type fb_mood as enum ('ok', 'it''s');"
        "create table fb_u (t int, id int, primary key (t, id));"
        "create table fb_c (t int not null, u int, x text, foreign key (t, u) references fb_u on delete set null (u));"
        "create table fb_d (t int default 7, u int default '-1'::integer, x char(5) default 'a', m fb_mood default 'it''s',"
        " foreign key (t, u) references fb_u on delete set default);"
        "create table fb_e (t int not null, u int default 0, k int primary key,"
        " foreign key (t, u) references fb_u on delete set default (u));"
        "insert into fb_u values (7, 0), (7, 1), (7, -1), (8, 1);"
        "insert into fb_c values (7, 1, 'a'), (7, 1, 'a'), (8, 1, 'a'), (7, null, 'a');"
        "insert into fb_d values (7, 1, 'x'), (8, 1, 'x'); insert into fb_e values (7, 1, 1), (7, 0, 2)",
        "delete from fb_u where t = 7 and id = 1",
        {"insert": 1, "repair": 2 + 1 + 1},
    ),
    Case(
        "selfnull",
        "s1_e:1",
        "s1_e",
        "create table s1_e (id int primary key, boss int references s1_e on delete set null, x text);insert into s1_e values (1,null,'a'),(2,1,'b'),(3,2,'c')",
        "delete from s1_e where id=1",
        {"insert": 1, "repair": 1, "same": 1},
    ),
    Case(
        "full",
        "f1_p:1,2",
        "f1_p f1_c f1_s",
        "create table f1_p (a int, b int, primary key (a,b));create table f1_c (id int primary key, a int, b int, foreign key (a,b) references f1_p match full on delete cascade);create table f1_s (id int primary key, a int, b int, foreign key (a,b) references f1_p on delete set null);insert into f1_p values (1,2),(1,3);insert into f1_c values (1,1,2),(2,null,null),(3,1,3);insert into f1_s values (1,1,2),(2,1,null),(3,null,2)",
        "delete from f1_p where b=2",
        {"insert": 2, "repair": 1},
    ),
    Case(
        "partitioned",
        "p1_p:1",
        "p1_p p1_a p1_b",
        "create table p1_p (id int primary key);create table p1_x (id int, k int, p int references p1_p on delete cascade, primary key (id,k)) partition by list (k);create table p1_a partition of p1_x for values in (1);create table p1_b partition of p1_x default;create table p1_q (i int primary key, x int, k int, foreign key (x,k) references p1_x on delete cascade);insert into p1_p values (1),(2);insert into p1_x values (1,1,1),(2,2,1),(3,1,2);insert into p1_q values (1,1,1),(2,2,2),(3,3,1)",
        "delete from p1_p where id=1",
        {"insert": 5},
    ),
    Case(
        "inherits",
        "i1_p:1",
        "i1_p i1_c",
        "create table i1_p (id int primary key, n text);create table i1_c (extra int, primary key (id)) inherits (i1_p);create table i1_o (id int primary key, p int references i1_p on delete cascade);insert into i1_p values (1,'a');insert into i1_c values (1,'child',5),(2,'child',6);insert into i1_o values (1,1)",
        "delete from only i1_p where id=1",
        {"insert": 2},
    ),
    Case(
        "exclusion",
        "e1_r:1",
        "e1_r e1_b",
        "create table e1_r (id int primary key);create table e1_b (id int primary key, r int references e1_r on delete cascade, during int4range, exclude using gist (during with &&));insert into e1_r values (1),(2);insert into e1_b values (1,1,'[1,5)')",
        "delete from e1_r where id=1;insert into e1_b values (2,2,'[3,8)')",
        {"insert": 2},
        refused=True,
    ),
    Case(
        "domain",
        "o1_p:a",
        "o1_p o1_c",
        "create domain o1_d as text check (value <> '');create type o1_e as enum ('a','b');create table o1_p (id o1_d primary key, e o1_e unique);create table o1_c (e o1_e references o1_p(e) on delete cascade, d o1_d references o1_p on delete set null, primary key (e));insert into o1_p values ('a','a'),('b','b');insert into o1_c values ('a','b'),('b','a')",
        "delete from o1_p where id='a'",
        {"insert": 2, "repair": 1},
    ),
    Case(
        "partialunique",
        "u1_p:1",
        "u1_p",
        "create table u1_p (id int primary key, mail text, gone bool default false);create unique index on u1_p (lower(mail)) where not gone;insert into u1_p values (1,'A@x',false)",
        "delete from u1_p;insert into u1_p values (2,'a@X',false)",
        {"insert": 1},
        refused=True,
    ),
    Case(
        "nullsnot",
        "u2_p:1",
        "u2_p",
        "create table u2_p (id int primary key, mail text, unique nulls not distinct (mail));insert into u2_p values (1,null)",
        "delete from u2_p;insert into u2_p values (2,null)",
        {"insert": 1},
        refused=True,
    ),
    Case(
        "twofks",
        "t1_p:1",
        "t1_p t1_c",
        "create table t1_p (id int primary key);create table t1_c (id int primary key, a int references t1_p on delete cascade, b int references t1_p on delete set null);insert into t1_p values (1),(2);insert into t1_c values (1,1,2),(2,2,1),(3,1,1)",
        "delete from t1_p where id=1",
        {"insert": 3, "repair": 1},
    ),
    Case(
        "sharedseq",
        "q1_a:1",
        "q1_a q1_b",
        "create sequence q1_s;create table q1_a (id int default nextval('q1_s') primary key);create table q1_b (id int default nextval('q1_s') primary key, a int references q1_a on delete cascade);insert into q1_a default values;insert into q1_b (a) values (1)",
        "delete from q1_a",
        {"insert": 2},
    ),
    Case(
        "identity",
        "y1_a:1",
        "y1_a y1_b",
        "create table y1_a (id int generated always as identity primary key, n int);create table y1_b (id bigint generated by default as identity primary key, a int references y1_a on delete cascade);insert into y1_a (n) values (1);insert into y1_b (a) values (1)",
        "delete from y1_a",
        {"insert": 2},
    ),
    Case(
        "others",
        "w1_c:1",
        "w1_c w1_o",
        "create table w1_c (id int primary key, n int default 0);create table w1_o (id int primary key, c int references w1_c on delete cascade);insert into w1_c values (1,0);insert into w1_o values (1,1),(2,1)",
        "delete from w1_c",
        {"insert": 3},
        more=(
            "create function w1_f() returns trigger language plpgsql as $$ begin update w1_c set n = n + 1 where id = new.c; return new; end $$",
            "create trigger w1_t after insert on w1_o for each row execute function w1_f()",
        ),
        triggers=True,
        same=False,
    ),
    Case(
        "updatecascade",
        "z1_o:1",
        "z1_p z1_o",
        "create table z1_p (code text primary key, n text);create table z1_o (id int primary key, code text references z1_p on update cascade);insert into z1_p values ('a','Ada');insert into z1_o values (1,'a'),(2,'a')",
        "update z1_p set code='b';delete from z1_o where id=1",
        {"conflict": 2},
        refused=True,
    ),
    Case(
        "arraykeys",
        "k1_p:{1\\,2}",
        "k1_p k1_c",
        "create table k1_p (id numeric[] primary key);create table k1_c (i int primary key, p numeric[] references k1_p on delete cascade);insert into k1_p values ('{1,2}'),('{3}');insert into k1_c values (1,'{1.0,2.00}'),(2,'{3.0}')",
        "delete from k1_p where id='{1,2}'",
        {"insert": 2},
    ),
    Case(
        "jsonkeys",
        'j1_p:{"a"\\: 1}',
        "j1_p j1_c",
        "create table j1_p (id jsonb primary key);create table j1_c (i int primary key, p jsonb references j1_p on delete cascade);insert into j1_p values ('{\"a\":1}');insert into j1_c values (1,'{\"a\":1.0}')",
        "delete from j1_p",
        {"insert": 2},
    ),
    Case(
        "floats",
        "l1_p:-0",
        "l1_p l1_c",
        "create table l1_p (id float8 primary key);create table l1_c (i int primary key, p float4 references l1_p on delete cascade);insert into l1_p values ('-0'),('nan'),(0.5);insert into l1_c values (1,0),(2,'nan'),(3,0.5)",
        "delete from l1_p where id=0",
        {"insert": 2},
    ),
    Case(
        "restrict",
        "r1_p:1",
        "r1_p r1_c r1_g",
        "create table r1_g (id int primary key);create table r1_p (id int primary key, g int references r1_g on delete restrict);create table r1_c (id int primary key, p int references r1_p on delete restrict);insert into r1_g values (1);insert into r1_p values (1,1);insert into r1_c values (1,1)",
        "delete from r1_c;delete from r1_p;delete from r1_g",
        {"insert": 3},
    ),
    Case(
        "keyless",
        "v1_p:1",
        "v1_p v1_l",
        "create table v1_p (id int primary key);create table v1_l (p int references v1_p on delete set null, t interval, f float8, n numeric, x xml, pt point);insert into v1_p values (1);insert into v1_l values (1,'1 day','-0','1.0','<a/>','(1,2)'),(1,'24:00:00','0','1.00','<a/>','(1,2)'),(null,'1 day','-0','1.0','<a/>','(1,2)')",
        "delete from v1_p",
        {"insert": 1, "repair": 2},
    ),
]


ACROSS = Case(
    "other types",
    "ac_p:1",
    "ac_p ac_o ac_k",
    "create table ac_p (id int primary key, at timestamp unique, day date unique, word text unique, name varchar(9) unique, n numeric unique,"
    " f float8 unique, g float4 unique, ip inet unique, m macaddr8 unique, span interval unique, b float8 unique, unique (word, n));"
    "create table ac_o (id int primary key, at date references ac_p(at) on delete cascade, day timestamp references ac_p(day) on delete cascade,"
    " word char(5) references ac_p(word) on delete cascade, name char(4) references ac_p(name) on delete cascade, n int references ac_p(n) on delete cascade,"
    " f float4 references ac_p(f) on delete cascade, g float8 references ac_p(g) on delete cascade, ip cidr references ac_p(ip) on delete cascade,"
    " m macaddr references ac_p(m) on delete cascade, span time references ac_p(span) on delete set null, b int8 references ac_p(b) on delete cascade,"
    " w char(3), k int, foreign key (w, k) references ac_p(word, n) on delete cascade);"
    "create table ac_k (n int, day timestamp references ac_p(day) on delete set null);"
    "insert into ac_p values (1, '2020-01-01', '0020-02-01 BC', 'ab', 'cd', 1.00, 0.10000000149011612, 0.1, '10.0.0.1', '08:00:2b:ff:fe:01:02:03', '10:00', 9007199254740992),"
    " (2, '2020-01-01 10:00', '2020-02-02', 'ab ', 'cd ', 2, 0.1, 0.25, '10.0.0.2', '08:00:2b:ff:fe:01:02:04', '11:00', 9007199254740996),"
    " (3, 'infinity', 'infinity', '', '', 3, 0.25, 0.125, '10.0.0.0/24', '08:00:2b:ff:fe:01:02:05', '12:00', 0);"
    "insert into ac_o (id, at) values (10, '2020-01-01'), (13, 'infinity');"
    "insert into ac_o (id, day) values (20, '0020-02-01 BC'), (22, '2020-02-02'), (23, 'infinity');"
    "insert into ac_o (id, word, name) values (30, 'ab', null), (33, '', null), (40, null, 'cd'), (43, null, '');"
    "insert into ac_o (id, n, f, g) values (50, 1, null, null), (52, 2, null, null), (60, null, 0.1, null), (63, null, 0.25, null),"
    " (70, null, null, 0.10000000149011612), (72, null, null, 0.25);"
    "insert into ac_o (id, ip, m, b) values (80, '10.0.0.1', null, null), (82, '10.0.0.2', null, null), (83, '10.0.0.0/24', null, null),"
    " (90, null, '08:00:2b:01:02:03', null), (92, null, '08:00:2b:01:02:04', null), (100, null, null, 9007199254740993), (102, null, null, 9007199254740997);"
    "insert into ac_o (id, span, w, k) values (111, '10:00', null, null), (112, '11:00', null, null), (120, null, 'ab', 1), (122, null, null, 1), (123, null, '', 3);"
    "insert into ac_k values (1, '0020-02-01 BC'), (1, '0020-02-01 BC'), (1, null), (1, '2020-02-02')",
    "delete from ac_p where id = 1",
    {"insert": 1 + 10 + 1, "repair": 1 + 2},
    later=(
        ("insert into ac_o (id, at) values (9, '2020-01-01')", "delete from ac_o where id = 9"),
        ("insert into ac_o (id, f) values (9, 0.1)", "delete from ac_o where id = 9"),
        ("insert into ac_o (id, w, k) values (9, 'ab ', 1)", "delete from ac_o where id = 9"),
    ),
)
POSTGRES += [
    ACROSS,
    Case(
        "generated",
        "gb_p:1,person",
        "gb_p ga_c gb_m ga_m",
        "create table gb_p (id int, kind text, primary key (id, kind));"
        "create table ga_c (id int primary key, kind text generated always as ('person') stored, foreign key (id, kind) references gb_p on delete cascade);"
        "create table gb_m (mail varchar(20), p int, kind text default 'person', k text generated always as (lower(mail)) stored primary key,"
        " foreign key (p, kind) references gb_p on delete cascade);"
        "create table ga_m (id int primary key, mail varchar(20), k text generated always as (lower(mail)) stored references gb_m on delete cascade);"
        "insert into gb_p values (1, 'person'), (1, 'firm'), (2, 'person'); insert into ga_c (id) values (1), (2);"
        "insert into gb_m (mail, p) values ('A@x', 1), ('b@x', 2); insert into ga_m (id, mail) values (1, 'a@X'), (2, 'B@x'), (3, 'A@X'), (4, null)",
        "delete from gb_p where id = 1 and kind = 'person'",
        {"insert": 5},
        later=(("insert into ga_m (id, mail) values (9, 'A@x')", "delete from ga_m where id = 9"),),
    ),
    Case(
        "generated by others",
        "gx_p:a",
        "gx_p gx_c",
        "create function gx_f(text) returns text language sql immutable as 'select lower($1)';"
        "create table gx_p (k text primary key);"
        "create table gx_c (id int primary key, mail text, k text generated always as (gx_f(mail)) stored references gx_p on delete cascade);"
        "insert into gx_p values ('a'); insert into gx_c (id, mail) values (1, 'A')",
        "delete from gx_p",
        {"insert": 1},
        warned="were not looked for",
        same=False,
        brief=True,
    ),
    Case(
        "defaults in series",
        "ds_u:1",
        "ds_u ds_c ds_d",
        "create table ds_u (id int primary key); create sequence ds_s start 100;"
        "create table ds_c (u int default nextval('ds_s') references ds_u on delete set default, x text);"
        "create table ds_d (u int default nextval('ds_s') references ds_u on delete set default, x text);"
        "insert into ds_u values (1), (2), (100), (101), (102), (103), (104), (105), (106);"
        "insert into ds_c values (1, 'a'), (1, 'a'), (2, 'a'), (1, 'b'), (2, 'c'); insert into ds_d values (1, 'a'), (1, 'a')",
        "delete from ds_u where id = 1; delete from ds_u where id = 2",
        {"insert": 1 + 2, "repair": 1 + 2},
        warned="2 of ds_c may be there already with another u",
        same=False,
        brief=True,
    ),
    Case(
        "up across types",
        "au_c:1",
        "au_p au_q au_c au_r",
        "create table au_p (word text primary key, n int); create table au_q (f float8 primary key);"
        "create table au_c (id int primary key, word char(5) references au_p, f float4 references au_q);"
        "create table au_r (at timestamp primary key, up date references au_r on delete cascade, c int references au_c on delete cascade);"
        "insert into au_p values ('ab', 1), ('ab ', 2); insert into au_q values (0.10000000149011612), (0.1);"
        "insert into au_c values (1, 'ab', 0.1); insert into au_r values ('2020-01-01', '2020-01-01', 1), ('2020-01-01 10:00', '2020-01-01', null)",
        "delete from au_c where id = 1; delete from au_p where word = 'ab'; delete from au_q where f = 0.10000000149011612",
        {"insert": 1 + 2 + 2},
        brief=True,
    ),
    Case(
        "loose parent",
        "lp_p:ADA",
        "lp_p lp_c",
        "create table lp_p (name text collate loose primary key); create table lp_c (id int primary key, name varchar(9) references lp_p on delete cascade);"
        "insert into lp_p values ('ADA'), ('bob'); insert into lp_c values (1, 'ada'), (2, 'BOB'), (3, 'Àda')",
        "delete from lp_p where name = 'ADA'",
        {"insert": 3},
        brief=True,
    ),
    Case(
        "zoned",
        "zo_p:1",
        "zo_p zo_d",
        "create table zo_p (id int primary key, at timestamptz unique);"
        "create table zo_d (id int primary key, at date references zo_p(at) on delete cascade)",
        "delete from zo_p where id = 1",
        {"insert": 2},
        more=(
            "do $$ begin execute format('alter database %I set timezone = ''Asia/Tokyo''', current_database()); end $$",
            "set timezone = 'Asia/Tokyo'",
            "insert into zo_p values (1, '2020-01-01'), (2, '2020-01-01 09:00')",
            "insert into zo_d values (1, '2020-01-01')",
            "reset timezone",
        ),
        warned="depends on the time zone",
        brief=True,
    ),
]


SQLITE = [
    LATER,
    DEFAULTED,
    APART,
    *MOVED,
    triggered(
        "create trigger tr_i after insert on tr_c begin update tr_c set stamp = 'made' where id = new.id; end",
        "create trigger tr_u after update of c on tr_n when new.c is not null"
        " begin update tr_n set stamp = 'back' where id = new.id; end",
    ),
    rewritten("create trigger rw_i after insert on rw_v begin update rw_v set x = 'made' where rowid = new.rowid; end"),
    moved("create trigger mo_i after insert on mo_c begin update mo_c set id = id + 100; end"),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_p sp_n sp_t",
        "create table sp_c (name text collate nocase primary key, boss text references sp_c on delete cascade);"
        "create table sp_o (id integer primary key, name text references sp_c on delete cascade);"
        "create table sp_p (id integer primary key, name text collate nocase references sp_c on delete cascade);"
        "create table sp_n (id integer primary key, name references sp_c on delete set null);"
        "create table sp_t (name text references sp_c on delete set null, n int);"
        "insert into sp_c values ('ADA', null), ('Jose', 'ada'), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Ada'), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_p values (1, 'ada'), (2, 'bob');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSe', 2)",
        "delete from sp_c where name = 'ADA'",
        {"insert": 3 + 4 + 1, "repair": 2 + 3},
    ),
    Case(
        "affinities",
        "af_c:1",
        "af_c af_o af_b",
        "create table af_c (id text primary key, n numeric);"
        "create table af_o (k integer primary key, id int references af_c on delete cascade);"
        "create table af_b (k integer primary key, id references af_c on delete set null);"
        "insert into af_c values ('1', 1.5), ('2', 2), ('01', 3);"
        "insert into af_o values (1, 1), (2, 2); insert into af_b values (1, '1'), (2, '2'), (3, '01')",
        "delete from af_c where id = '1'",
        {"insert": 2, "repair": 1},
    ),
    Case(
        "fallen back",
        "fb_u:7,1",
        "fb_u fb_d fb_e",
        "create table fb_u (t int, id int, primary key (t, id));"
        "create table fb_d (t int default 7, u int default (-1), x text default 'a',"
        " foreign key (t, u) references fb_u on delete set default);"
        "create table fb_e (t int not null default 8, u int default '1', k integer primary key,"
        " foreign key (t, u) references fb_u on delete set default);"
        "insert into fb_u values (7, 0), (7, 1), (7, -1), (8, 1);"
        "insert into fb_d values (7, 1, 'x'), (8, 1, 'x'), (7, 1, 'x'); insert into fb_e values (7, 1, 1), (7, 0, 2)",
        "delete from fb_u where t = 7 and id = 1",
        {"insert": 1, "repair": 2 + 1},
    ),
    Case(
        "selfnull",
        "s1_e:1",
        "s1_e",
        "create table s1_e (id integer primary key, boss int references s1_e on delete set null, x text);insert into s1_e values (1,null,'a'),(2,1,'b'),(3,2,'c')",
        "delete from s1_e where id=1",
        {"insert": 1, "repair": 1, "same": 1},
    ),
    Case(
        "reuse",
        "r1_p:2",
        "r1_p r1_o",
        "create table r1_p (id integer primary key, n text);create table r1_o (id integer primary key, p int references r1_p on delete cascade);insert into r1_p values (1,'a'),(2,'b');insert into r1_o values (1,2)",
        "delete from r1_p where id=2;insert into r1_p (n) values ('newer')",
        {"conflict": 1, "insert": 1},
        refused=True,
    ),
    Case(
        "reusechild",
        "q1_p:2",
        "q1_p q1_o",
        "create table q1_p (id integer primary key, n text);create table q1_o (id integer primary key, p int references q1_p on delete cascade);insert into q1_p values (1,'a'),(2,'b');insert into q1_o values (1,2)",
        "delete from q1_p where id=2;insert into q1_o (p) values (1)",
        {"conflict": 1, "insert": 1},
        refused=True,
    ),
    Case(
        "auto",
        "a1_p:2",
        "a1_p a1_o",
        "create table a1_p (id integer primary key autoincrement, n text);create table a1_o (id integer primary key autoincrement, p int references a1_p on delete cascade);insert into a1_p values (1,'a'),(2,'b');insert into a1_o values (1,2)",
        "delete from a1_p where id=2;insert into a1_p (n) values ('newer')",
        {"insert": 2},
        same=False,
    ),
    Case(
        "worowid",
        "w1_p:a,1",
        "w1_p w1_c",
        "create table w1_p (a text, b int, n int unique, primary key (a,b)) without rowid;create table w1_c (b int, a text, x, primary key (a,b), foreign key (a,b) references w1_p on delete cascade) without rowid;insert into w1_p values ('a',1,7),('b',1,8);insert into w1_c values (1,'a',x'00'),(1,'b',null)",
        "delete from w1_p where a='a'",
        {"insert": 2},
    ),
    Case(
        "strict",
        "t1_p:1",
        "t1_p t1_c",
        "create table t1_p (id any primary key, n int) strict;create table t1_c (i int primary key, p any references t1_p on delete cascade) strict;insert into t1_p values ('1',1),(1,2);insert into t1_c values (1,'1'),(2,1)",
        "delete from t1_p where n=2",
        {"insert": 2},
    ),
    Case(
        "partial",
        "u1_p:1",
        "u1_p",
        "create table u1_p (id integer primary key, mail text, gone int default 0);create unique index u1_i on u1_p (lower(mail)) where not gone;insert into u1_p values (1,'A@x',0)",
        "delete from u1_p;insert into u1_p values (2,'a@X',0)",
        {"insert": 1},
        refused=True,
    ),
    Case(
        "rowidcol",
        "o1_p:1",
        "o1_p o1_l",
        "create table o1_p (id integer primary key);create table o1_l (rowid int, _rowid_ int, oid int, p int references o1_p on delete set null);insert into o1_p values (1);insert into o1_l values (1,1,1,1),(1,1,1,1),(1,1,1,null)",
        "delete from o1_p",
        {"insert": 1, "repair": 2},
        refused=True,
    ),
    Case(
        "nullkey",
        "n1_p:1",
        "n1_p n1_c",
        "create table n1_p (id integer primary key);create table n1_c (k text primary key, p int references n1_p on delete cascade);insert into n1_p values (1);insert into n1_c values (null,1),(null,1),('a',1)",
        "delete from n1_p",
        {"insert": 4},
    ),
    Case(
        "triggers2",
        "y1_c:1",
        "y1_c y1_o",
        "create table y1_c (id integer primary key, n int default 0);create table y1_o (id integer primary key, c int references y1_c on delete cascade);insert into y1_c values (1,0);insert into y1_o values (1,1),(2,1)",
        "delete from y1_c",
        {"insert": 3},
        more=("create trigger y1_t after insert on y1_o begin update y1_c set n = n + 1 where id = new.c; end",),
        triggers=False,
    ),
    Case(
        "restrict",
        "x1_p:1",
        "x1_p x1_c",
        "create table x1_p (id integer primary key);create table x1_c (id integer primary key, p int references x1_p on delete restrict on update cascade);insert into x1_p values (1);insert into x1_c values (1,1)",
        "delete from x1_c;delete from x1_p",
        {"insert": 2},
    ),
]


ROUGH = Case(
    "not transactional",
    "my_c:1",
    "my_c",
    "create table my_c (id int primary key) engine = MyISAM; insert into my_c values (1)",
    "delete from my_c",
    {"insert": 1},
)
