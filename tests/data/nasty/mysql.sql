-- Everything that a MySQL backup is known to lose. The current database is filled; each block names its trap.
set sql_mode='NO_ENGINE_SUBSTITUTION', names utf8mb4, time_zone='+00:00';

-- zero dates, BIT, BLOB, GEOMETRY, ENUM '' against the invalid value, FLOAT, generated and invisible columns, character sets
create table t(id int auto_increment primary key, d date, dt datetime, ts timestamp(6) default current_timestamp(6), y year, b bit(9), bl blob, vb varbinary(16), j json, g geometry, p point, e enum('a','b',''), s set('x','y'), f float, db double, de decimal(30,10), ti time(3), g1 int generated always as (y*2) virtual, g2 int as (y*3) stored, inv int default 7 invisible, t text character set latin1, t4 text character set utf8mb4, c char(5)) engine=innodb;
insert into t(id,d,dt,y,b,bl,vb,j,g,p,e,s,f,db,de,ti,inv,t,t4,c) values(1,'0000-00-00','2024-02-00 00:00:00',0,b'101010101',x'00ff0a5c27',x'00',  '{"a": 1}',st_geomfromtext('LINESTRING(0 0,1 1)',4326),point(1.1,2.2),'', 'x,y',0.1,1e-300,1.0000000001,'-838:59:59',99,'\xe9\xa0','😀\0\'\"\\\n','ab  ');
insert into t(id,d,f,db,e) values(-5,'2024-06-30',16777217,0.1+0.2,'invalid');
set sql_mode='NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'; insert into t(id) values(0); set sql_mode='NO_ENGINE_SUBSTITUTION';

-- JSON has a type of its own: numbers of every kind, dates and bytes inside, text of every kind, deep, and as a key of many values
create table docs(id int primary key, j json, n json not null, k json default (json_array(1, 'x')), key tags((cast(j->'$.tags' as unsigned array))));
insert into docs(id,j,n) values(1,'{"tags": [1,2,18446744073709551615], "long key": null, "b": [true,false,null,{}], "": ""}','null'),(2,null,'"\\\\N \\t\\n \\" \\\\ é 😀 \\u0000"'),(3,json_object('d',cast(1.50 as decimal(10,2)),'big',12345678901234567890123.5,'day',cast('2024-02-29' as date),'t',cast('-10:00:00.5' as time(1)),'bytes',cast(x'00ff5c0a' as binary)),'[]'),(4,'[1e300, -0.0, 0.1, 1.0, 5e-324, 100000000000000000000, -9223372036854775808]','"NULL"'),(5,'"text"','12'),(6,concat(repeat('[',90),repeat(']',90)),'{"b":1,"a":2,"b":3}');

-- FLOAT has six digits in every text; DOUBLE and DECIMAL at their ends
create table floats(id int primary key, f float not null, fn float, fd float(7,3), d double not null, m decimal(65,30), u float unsigned);
insert into floats values(1,16777216,16777217,1234.567,1.7976931348623157e308,99999999999999999999999999999999999.999999999999999999999999999999,3.4028234e38),(2,-0.0,1.17549435e-38,-0.001,-0.0,-1e-30,0),(3,0.1,1e-45,null,4.9e-324,null,null),(4,1e10,-3.4028235e38,9999.999,2.2250738585072014e-308,0,1);

-- dates that are none, the ends of every range, a year of zero, negative times
set sql_mode='ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION';
create table dates(id int primary key, d date not null, dt datetime(6), ts timestamp null, ts3 timestamp(3) not null default '0000-00-00', t time(6), y year);
insert into dates values(1,'2024-02-31','9999-12-31 23:59:59.999999','2038-01-19 03:14:07','1970-01-01 00:00:01.001','838:59:59',1901),(2,'0000-00-00','0000-00-00','0000-00-00','0000-00-00','-00:00:00.000001',2155),(3,'0001-01-01','1000-00-00 00:00:00.1',null,'2024-06-30 12:00:00.5',null,'0000'),(4,'2024-00-31',null,'2024-03-31 02:30:00','2024-10-27 01:30:00',0,null);
set sql_mode='NO_ENGINE_SUBSTITUTION';

-- numbers at their ends, and zeros in front
create table numbers(a bigint unsigned primary key, b bigint, c int(8) zerofill, d tinyint(1), e mediumint unsigned, f smallint, g bit(1), h bit(64), i bool, j decimal(5,0), k year(4));
insert into numbers values(0,-9223372036854775808,7,-128,16777215,-32768,b'1',b'1111111111111111111111111111111111111111111111111111111111111111',true,-99999,0),(18446744073709551615,9223372036854775807,4294967295,127,0,32767,b'0',0,false,99999,2155),(1,null,null,null,null,null,null,b'100000000',null,null,null);

-- text that looks like what the format is made of
create table texts(id int primary key, t longtext, v varchar(100) not null default '', c char(10), b longblob, z varbinary(40));
insert into texts values(1,'\\N','NULL','\t','\\N',''),(2,NULL,'\N','\n',NULL,NULL),(3,'','','','',''),(4,'tab\tnewline\nreturn\rbackslash\\nul\0quote\'double\"ctrl-z\Z\b','\\\\','\\',x'5c5c4e0a09000d','\\'),(5,'ends with \\','\\t\\n\\0','  a','\'),(\'','%s %% %d'),(6,repeat('0123456789\n\t\\',3000),'😀𝄞é','ÄÖÜ',repeat(x'00ff',5000),x'4e'),(7,'\'),(\'','--','/*','*/ ; ;; delimiter','#');
create table one_text(t text); insert into one_text values(''),(NULL),('NULL'),('\\N'),('\n'),('N'),('');
create table `empty`(a int primary key, b text);

-- character sets: one byte, several bytes, not Unicode's; bytes that are of another character set than they say
create table charsets(id int primary key, a char(20) character set ascii, l varchar(300) character set latin1, l2 varchar(50) character set latin2, cp varchar(50) character set cp1251, k varchar(50) character set koi8r, u3 varchar(50) character set utf8mb3, u16 varchar(50) character set utf16, u32 varchar(50) character set utf32, u2 varchar(50) character set ucs2, gb varchar(50) character set gbk, sj varchar(50) character set sjis, c9 varchar(50) character set cp932, eu varchar(50) character set eucjpms, b5 varchar(50) character set big5, bin varchar(50) character set binary, tis varchar(20) character set tis620, s7 varchar(20) character set swe7);
insert into charsets(id,a,l,l2,cp,k,u3,u16,u32,u2,gb,sj,c9,eu,b5,bin,tis,s7) values(1,'plain','é€ß','ąęł','привет','привет','äöü€','😀','😀','äö','中文','表ソ','①','日本','中文',x'00ff','กข','ab');
insert into charsets(id,l,c9,sj,gb) values(2,x'808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0ff',x'879aed40fa40',x'835c955c',x'815c5c');
insert into charsets(id,l) values(3,x'c3a9e282ac');
create table latin(a varchar(10) character set latin1 collate latin1_swedish_ci primary key); insert into latin values('é'),('Z'),('a');
create table collated(a varchar(20) collate utf8mb4_unicode_ci primary key, b int) default character set utf16; insert into collated values('ä',1),('B',2),('c',3),('😀',4);

-- members of ENUM and SET: '' and the invalid value, quotes, commas, other character sets
create table members(id int primary key, a enum('','x'), b enum('x','it''s','c,d','\\'), c set('','p','q'), d set('a','b'), e enum('é','ß') character set latin1, f enum('1','0','2') not null, g set('1','2','4','8') not null, h enum('表','b') character set sjis);
insert into members values(1,'',0,'','','é','0','1,8','表'),(2,0,'it''s','p,q','a,b','ß','1','','b'),(3,null,'c,d',null,null,null,'2','2','b'),(4,'x','\\',0,0,'nope',0,'4,2',0);

-- keys: none, unique only, by prefix, descending, of text, of two columns, and a secondary index that covers all columns
create table nopk(a int, b text); insert into nopk values(1,'x'),(1,'x'),(null,null);
create table uniq(a int not null, b int not null, c varchar(10), unique key u(b,a), key(c)); insert into uniq values(1,2,'x'),(2,1,'y'),(3,3,null);
create table prefixed(a text not null, b int, primary key(a(3))); insert into prefixed values('abc',1),('zzzz',2),('äöü',3);
create table covered(a int, b int, primary key(a,b), key(b,a)); insert into covered values(1,9),(2,8),(3,7),(1,1);
create table fulls(id int primary key, t text, g geometry not null, fulltext key(t), spatial key(g)); insert into fulls values(1,'some words here',point(1,2)),(2,'other words',point(3,4));

-- AUTO_INCREMENT beyond its largest row, negative and zero, as the second column of a key
create table counter(id int unsigned auto_increment primary key, v int) auto_increment=1000; insert into counter(v) values(1),(2); delete from counter where v=2;
create table grouped(g int, n int auto_increment, primary key(g,n)) engine=myisam; insert into grouped(g) values(1),(1),(2),(1);
create table counted_bits(id bigint auto_increment primary key, b bit(3), e enum('','a')) auto_increment=50; set sql_mode='NO_AUTO_VALUE_ON_ZERO'; insert into counted_bits values(0,b'101',''),(-1,b'0','a'); set sql_mode='NO_ENGINE_SUBSTITUTION';

-- engines without transactions, and one without rows
create table my_isam(a int) engine=myisam; insert into my_isam values(1);
create table ar(a int, b varchar(10)) engine=archive; insert into ar values(1,'x'),(2,null);
create table mem(a int) engine=memory; insert into mem values(1);
create table comma(a int not null, b varchar(20) not null) engine=csv; insert into comma values(1,'a,"b"'),(2,'');

-- partitions of every kind
create table keyed(a int primary key) partition by key(a) partitions 3; insert into keyed values(1),(2),(3);
create table part(a int) partition by range(a)(partition p0 values less than(10), partition p1 values less than maxvalue); insert into part values(1),(20);
create table hashed(a int primary key, b int) partition by hash(a) partitions 4; insert into hashed values(1,1),(2,2),(3,3),(4,4),(5,5),(0,0);
create table subs(a int, d date) partition by range(year(d)) subpartition by hash(a) subpartitions 2 (partition p0 values less than (2000), partition p1 values less than maxvalue); insert into subs values(1,'1999-01-01'),(2,'2024-01-01');
create table listed(a int, b int, primary key(a,b)) partition by list(b)(partition x values in(1,2), partition y values in(3)); insert into listed values(1,1),(2,3),(0,2);

-- foreign keys: to itself, in a circle, by two columns, to what comes later in the alphabet
create table fk1(id int primary key, par int, foreign key(par) references fk1(id) on delete cascade); insert into fk1 values(1,null),(2,1);
create table ring_a(id int primary key, b int); create table ring_b(id int primary key, a int, foreign key(a) references ring_a(id)); alter table ring_a add constraint `to b` foreign key(b) references ring_b(id) on update set null; insert into ring_a values(1,null); insert into ring_b values(1,1); update ring_a set b=1;
create table zz_parent(a int, b int, primary key(a,b)); create table aa_child(x int, y int, foreign key(x,y) references zz_parent(a,b) on delete restrict); insert into zz_parent values(1,2); insert into aa_child values(1,2),(null,5);

-- checks, also broken ones; expressions as defaults; comments; generated columns only
create table chk(a int check (a>0) not enforced, b int, constraint `b is small` check (b < 10) not enforced, c int check (c <> 7)); insert into chk values(-1,100,1);
create table defaults(a int default (1+1), b datetime default current_timestamp on update current_timestamp, c varchar(60) default 'it''s; -- "x" \\ \n' comment 'semi; colon '' quote \\ `tick`\nsecond line', u varchar(36) default (uuid()), p point default (point(1,2)) srid 0, z text default ('text; ''x''')) comment='table; comment /* no */ -- no'; insert into defaults(a,b,u) values(5,'2024-01-01','123e4567-e89b-12d3-a456-426614174000');
create table packed(id int primary key, t text, v varbinary(200)) row_format=compressed key_block_size=8; insert into packed values(1,repeat('pack ',200),x'00ff'),(2,null,'');

-- what only MySQL has: functional, descending and invisible indexes, a key that is not seen, places with a system of reference, vectors, its own collations
create table indexed(id int, v varchar(40) collate utf8mb4_0900_ai_ci, w varchar(40) collate utf8mb4_0900_bin, x varchar(20) collate utf8mb4_ja_0900_as_cs, n int, primary key(id desc), key f((lower(v)), (n + 1) desc), key i(n) invisible, unique key u(w)); insert into indexed values(1,'Ä','a ','あ',5),(3,'a','a','ア',4),(2,'A','A',null,null);
create table padded(a varchar(10) collate utf8mb4_0900_ai_ci primary key, b int); insert into padded values('a',1),('a ',2),('é',3),('f',4);
set sql_generate_invisible_primary_key=on; create table unseen(a int, b text); set sql_generate_invisible_primary_key=off; insert into unseen values(1,'x'),(1,'x'),(null,null);
create table places(id int primary key, g geometry not null srid 4326, p point srid 3857, c geomcollection, spatial key(g)); insert into places values(1,st_geomfromtext('POINT(48.1 11.5)',4326),st_geomfromtext('POINT(1 2)',3857),st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,2 2))')),(2,st_geomfromtext('POLYGON((0 0,0 1,1 1,0 0))',4326),null,null);
create table vectors(id int primary key, v vector(3)); insert into vectors values(1,to_vector('[1,2.5,-0.1]')),(2,null);
create table `lower`(a int primary key) stats_persistent=1 stats_sample_pages=30 autoextend_size=4m comment='x'; insert into `lower` values(1);

-- names that somebody forgets to quote
create table `we``ird "na'me; -- \\ é %s`(`col umn` int primary key, `se``lect` text, `%d` int); insert into `we``ird "na'me; -- \\ é %s` values(1,'x',2);
create table `from`(`table` int primary key, `group` int, key `index`(`group`)); insert into `from` values(1,1);

-- views on views, invoker's rights, definers who are gone
create definer=`ghost`@`%` view v as select 1 as x;
create sql security invoker view v_invoker as select 'semi;colon' as a, ';;' as b, '*/' as c;
create view v_check as select id, v from counter where v > 0 with cascaded check option;
create view `a view` as select v_check.v, `from`.`table` as `b``c` from v_check, `from`;
create definer=`ghost`@`%` procedure pr() select 1;
create function fn(a int, b varchar(20) character set utf8mb4) returns varchar(30) character set utf8mb4 deterministic sql security invoker return concat(a,b);
create function total(`x y` int) returns decimal(10,2) reads sql data comment 'says ''hello''; bye' return (select sum(v) from counter);
create view v_fn as select fn(1,'x') as f;

-- bodies with delimiters, comments and quotes in them; modes that change how they are read; a character set of their own
delimiter ;;
create procedure body(in a int, out b text)
begin
  -- a comment; with ' a quote and ;
  declare s varchar(100) default 'a;b''c"d\\';
  /* another; comment */
  /*!50000 set b = concat(s, '/* no comment */', "; \" ;"); */
  if a > 0 then set b = '-- no'; end if; # end;
end;;
create trigger tr before insert on my_isam for each row begin /* don't; */ set new.a=new.a+1; -- it's;
end;;
create trigger tr2 before insert on my_isam for each row follows tr set new.a=new.a*2;;
create trigger `after ``it` after update on counter for each row insert into nopk values(new.id, concat('x;', "y"));;
set sql_mode='ANSI_QUOTES';;
create procedure quoted() select "table" from "from";;
set sql_mode='NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT';;
create procedure slashes() select '\' || ';' as "a\";;
set sql_mode='NO_ENGINE_SUBSTITUTION';;
set names latin1;;
create procedure western() select 'caf�' as c;;
set names utf8mb4;;
delimiter ;

-- events: disabled, once in the future, in another time zone
create event ev on schedule every 1 day starts '2024-01-01 00:00:00' do select 1;
create event ev_off on schedule at '2037-01-01 00:00:00' on completion preserve disable comment 'it''s; off' do insert into nopk values(1,'ev');
set time_zone='+05:30'; create event ev_zone on schedule every 2 hour starts '2024-01-01 00:00:00' ends '2037-01-01 00:00:00' do select ';'; set time_zone='+00:00';
