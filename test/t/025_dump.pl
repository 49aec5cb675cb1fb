# Dumps: masters work in the restored database, which is held back at first (I31),
# and restoring sends nothing.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_master('dump');
my $dir  = PostgreSQL::Test::Utils::tempdir();

# Schemas before and after "cqrs", because data are dumped in this order.
my $SCHEMA = q{
	CREATE SCHEMA app;
	CREATE SCHEMA zoo;
	CREATE TABLE app.author (id int PRIMARY KEY, name text, note text);
	CREATE TABLE zoo.animal (tag uuid, part int, kind text, PRIMARY KEY (tag, part));
	CREATE TABLE zoo.silent (id int PRIMARY KEY);
	CREATE TABLE zoo.herd (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE zoo.cows PARTITION OF zoo.herd FOR VALUES IN (1);
	CREATE TABLE zoo.goats (v text, id int NOT NULL);
	ALTER TABLE zoo.herd ATTACH PARTITION zoo.goats FOR VALUES IN (2);
	CREATE FUNCTION zoo.meta(a zoo.animal, signal text, data jsonb, old jsonb)
	RETURNS jsonb LANGUAGE sql STABLE
	AS $$SELECT jsonb_build_object('kind', a.kind)$$;
	SELECT EXT.cqrs_register('app.author', 'writer', fields => '{id,name}',
		tracked_fields => '{name}', field_map => '{"id": "key"}');
	SELECT EXT.cqrs_register('app.author');
	SELECT EXT.cqrs_register('zoo.animal', meta => 'zoo.meta');
	SELECT EXT.cqrs_register('zoo.silent', produce => false);
	SELECT EXT.cqrs_register('zoo.herd', replication => 'always');
	ALTER TABLE app.author RENAME COLUMN name TO full_name;
	INSERT INTO app.author VALUES (1, 'Ada', 'n'), (2, 'Bob', 'n');
	INSERT INTO zoo.animal
	VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1, 'cat');
	UPDATE app.author SET note = 'm' WHERE id = 1;
	INSERT INTO zoo.herd VALUES (1, 'cow'), (2, 'goat');
	CREATE TABLE zoo.keeper (id int PRIMARY KEY, name text);
	CREATE FUNCTION zoo.keep(m cqrs.message) RETURNS boolean LANGUAGE sql
	AS 'SELECT true';
	SELECT EXT.cqrs_register_replica('zoo.keeper', 'staff', fields => '{id,name}',
		handler => 'zoo.keep', max_retries => NULL, retry_delay => '5 s');
	ALTER TABLE zoo.keeper RENAME COLUMN name TO full_name;
	SELECT EXT.cqrs_register_replica(NULL, 'bare', handler => 'zoo.keep');
	SELECT EXT.cqrs_pause()};
my $MASTERS  = 'SELECT * FROM cqrs.master ORDER BY cqrs_id';
my $REPLICAS = 'SELECT * FROM cqrs.replica ORDER BY cqrs_id';

# What a restore says of a database that it holds back; pg_restore, only with -v.
my $HELD_BACK = <<'END';
WARNING:  publishing is held back in this database
DETAIL:  Masters were restored from a dump: messages wait in the outbox.
HINT:  If this database is to publish, call cqrs_resume().
END

# Runs a program of PostgreSQL on a database, in the given environment.
sub run_program
{
	my ($name, $dbname, $command, %env) = @_;

	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, %env);
	my ($stdout, $stderr);
	my $ok = IPC::Run::run([ @$command, '-d', $dbname ],
		'>', \$stdout, '2>', \$stderr);
	ok($ok, $name) or diag($stderr);
	$stderr =~ s/^psql:.*?(?=WARNING)//m;
	is( $stderr,
		$name =~ /^psql -f (?!schema|table)/ ? $HELD_BACK : '',
		"$name: without a complaint");
	return;
}

sub dump_database
{
	my ($dbname, $file, @options) = @_;
	run_program("pg_dump @options",
		$dbname, [ 'pg_dump', '-f', "$dir/$file", @options ]);
	return;
}

sub psql_file
{
	my ($dbname, $file) = @_;
	run_program(
		"psql -f $file",
		$dbname,
		[ 'psql', '-Xqo/dev/null', '-vON_ERROR_STOP=1', '-f', "$dir/$file" ]);
	return;
}

# A database for a dump to be restored into.
sub create_database
{
	my ($dbname) = @_;
	$node->safe_psql('postgres',
		"CREATE DATABASE $dbname TEMPLATE template0");
	return;
}

# Checks a restored database.
sub check
{
	my ($dbname) = @_;
	my $sql = sub { return $node->safe_psql($dbname, $_[0]) };

	is($sql->('SELECT count(*) FROM cqrs.outbox'),
		0, "$dbname: restoring has sent nothing, and no backlog came along");
	is( $sql->($MASTERS),
		$node->safe_psql('source', $MASTERS),
		"$dbname: masters");
	is( $sql->($REPLICAS),
		$node->safe_psql('source', $REPLICAS),
		"$dbname: replicas");
	is( $sql->(
			q{SET search_path = public, tools;
			SELECT item, status FROM cqrs_check() WHERE item ^@ 'replica'}),
		"replica bare|ok\nreplica staff|ok",
		"$dbname: replicas are complete");
	isnt(
		$node->psql($dbname, 'ALTER TABLE zoo.keeper DROP COLUMN full_name'),
		0,
		"$dbname: replicas are guarded");
	is($sql->('SELECT paused FROM cqrs.publisher'),
		'f', "$dbname: not paused");
	ok( $node->poll_query_until(
			$dbname, q{SELECT state = 'restored' FROM cqrs.stats}),
		"$dbname: held back");
	$sql->('SET search_path = public, tools; SELECT cqrs_resume()');
	is($sql->('SELECT id, cqrs_revision FROM app.author ORDER BY id'),
		"1|1\n2|0", "$dbname: rows with their revisions");
	ok( $node->poll_query_until(
			$dbname, q{SELECT state = 'unconfigured' FROM cqrs.stats}),
		"$dbname: has a publisher");

	$sql->(
		q{
		UPDATE app.author SET full_name = 'Lady Ada' WHERE id = 1;
		DELETE FROM app.author WHERE id = 2;
		UPDATE zoo.animal SET kind = 'dog';
		INSERT INTO zoo.silent VALUES (7);
		TRUNCATE app.author;
		UPDATE zoo.herd SET v = 'x' WHERE id = 1;
		TRUNCATE zoo.goats});
	my $messages = $sql->(
		q{SELECT signal_type, cqrs_id, instance_pk, b -> 'instance_data' ->> 'name',
			b -> 'instance_data' ->> 'cqrs_revision', b -> 'previous_data', b -> 'meta'
		FROM (SELECT *, body::jsonb AS b FROM cqrs.outbox) o ORDER BY id});
	is($messages, <<'END' =~ s/\n\z//r, "$dbname: messages of changes");
SAVE|author|1|Lady Ada|2|null|{}
SAVE|writer|1|Lady Ada|2|{"name": "Ada"}|{}
DELETE|author|2||1|null|{}
DELETE|writer|2||1|null|{}
SAVE|animal|["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 1]||1|null|{"kind": "dog"}
DELETE|author|1||3|null|{}
DELETE|writer|1||3|null|{}
SAVE|herd|1||1|null|{}
DELETE|herd|2||1|null|{}
END
	is( $sql->(
			q{SELECT tgenabled, count(*) FROM pg_trigger
			WHERE tgname ~ '_cqrs_'
				AND tgrelid IN (SELECT relid FROM pg_partition_tree('zoo.herd'))
			GROUP BY 1}),
		'A|9',
		"$dbname: triggers of partitions");
	$node->safe_psql('postgres', "DROP DATABASE $dbname");
	return;
}

create_database('source');
$node->safe_psql('source',
	'CREATE EXTENSION cqrs;' . $SCHEMA =~ s/EXT/public/gr);
is($node->safe_psql('source', 'SELECT count(*) FROM cqrs.outbox'),
	9, 'the original has a backlog');

# The whole database, as a script.
dump_database('source', 'whole.sql');
create_database('whole');
psql_file('whole', 'whole.sql');
check('whole');

# In the custom format, by several sessions at once.
dump_database('source', 'whole.custom', '-Fc');
create_database('parallel');
run_program('pg_restore -j2',
	'parallel', [ 'pg_restore', '-e', '-j2', "$dir/whole.custom" ]);
check('parallel');

# In an order that several sessions may come to: row triggers of the root before
# constraints and triggers of its partitions.
my $whole = "$dir/whole.custom";
my @items = split /\n/, qx{pg_restore -l $whole};
my @first =
  grep { /TRIGGER zoo herd .*_cqrs_(?:update|insert_delete)/ } @items;
my ($constraint) = grep { $items[$_] =~ / CONSTRAINT / } 0 .. $#items;
is(scalar(@first), 2, 'the triggers that come first');
splice @items, $constraint, 0, @first;
my %listed;
append_to_file("$dir/list", "$_\n")
  foreach grep { !/^\d/ || !$listed{$_}++ } @items;
create_database('ordered');
run_program('pg_restore -L',
	'ordered', [ 'pg_restore', '-e', '-L', "$dir/list", $whole ]);
check('ordered');

# First the schema, then the data: with triggers there when rows are loaded.
dump_database('source', 'schema.sql', '--schema-only');
dump_database('source', 'data.sql',   '--data-only');
create_database('parts');
psql_file('parts', 'schema.sql');
psql_file('parts', 'data.sql');
check('parts');

dump_database('source', 'inserts.sql', '--data-only', '--inserts');
create_database('inserts');
psql_file('inserts', 'schema.sql');
psql_file('inserts', 'inserts.sql');
check('inserts');

# A session that has seen the tables before their masters came.
create_database('watched');
psql_file('watched', 'schema.sql');
my $session = $node->background_psql('watched');
$session->query_safe(
	q{INSERT INTO app.author VALUES (9, 'Zoe', 'n'); DELETE FROM app.author});
psql_file('watched', 'data.sql');
is($node->safe_psql('watched', 'SELECT count(*) FROM cqrs.outbox'),
	0, 'restoring has sent nothing');
$session->query_safe(q{UPDATE app.author SET note = 'seen' WHERE id = 1});
is($node->safe_psql('watched', 'SELECT count(*) FROM cqrs.outbox'),
	2, 'other sessions hear of restored masters');
$session->quit;

# What the session that has loaded the masters does is not published, and this
# is said; the revision counts.
is( $node->safe_psql(
		'watched', q{
		SET client_min_messages = error;
		INSERT INTO cqrs.master (cqrs_id, relation, produce)
			VALUES ('by hand', 'zoo.silent', true);
		INSERT INTO zoo.silent VALUES (1);
		UPDATE zoo.silent SET id = 2;
		SELECT count(*) FROM cqrs.outbox WHERE cqrs_id = 'by hand';
		SELECT cqrs_revision FROM zoo.silent}),
	"0\n1",
	'a session that writes to cqrs.master is taken for one that restores');
$node->safe_psql('watched', 'UPDATE zoo.silent SET id = 3');
is( $node->safe_psql(
		'watched',
		q{SELECT count(*) FROM cqrs.outbox WHERE cqrs_id = 'by hand'}),
	2,
	'others publish');
my (undef, undef, $notice) = $node->psql(
	'watched', q{
	INSERT INTO cqrs.master (cqrs_id, relation, produce)
	VALUES ('again', 'zoo.silent', true)});
like(
	$notice,
	qr/^psql:.*NOTICE: .*master "again".*this session/,
	'with a notice');

# Data by several sessions need a setting.
dump_database('source', 'data.dir', '--data-only', '-Fd');
create_database('sessions');
psql_file('sessions', 'schema.sql');
run_program(
	'pg_restore --data-only -j2',
	'sessions',
	[ 'pg_restore', '-e', '-j2', '--data-only', "$dir/data.dir" ],
	PGOPTIONS => '-c cqrs.produce=off');
check('sessions');

# The functions in another schema: that of the original, or one that is chosen
# in the new database.
create_database('moved');
$node->safe_psql('moved',
	'CREATE SCHEMA tools; CREATE EXTENSION cqrs SCHEMA tools');
run_program('pg_restore into another schema',
	'moved', [ 'pg_restore', '-e', "$dir/whole.custom" ]);
is($node->safe_psql('moved', q{SELECT tools.cqrs_sync('writer')}),
	2, 'functions are where they were put');
$node->safe_psql('postgres', 'DROP DATABASE moved');
$node->safe_psql('source',   'DROP EXTENSION cqrs CASCADE');
$node->safe_psql('source',
	'DROP SCHEMA app CASCADE; DROP SCHEMA zoo CASCADE');
$node->safe_psql('source',
	'CREATE SCHEMA tools; CREATE EXTENSION cqrs SCHEMA tools;' . $SCHEMA =~
	  s/EXT/tools/gr);
dump_database('source', 'tools.sql');
create_database('tooled');
psql_file('tooled', 'tools.sql');
check('tooled');

# Over a database that has masters already, which refuses to lose what they need:
# it is held back, although its own masters keep those of the dump out.
create_database('over');
psql_file('over', 'tools.sql');
$node->safe_psql('over', 'SELECT tools.cqrs_resume()');
dump_database('source', 'tools.custom', '-Fc');
is($node->safe_psql('over', 'SELECT cqrs.is_copy()'), 'f', 'let go');
$node->command_checks_all(
	[   'pg_restore',  '--clean',
		'--if-exists', '-d',
		'over',        "$dir/tools.custom" ],
	1,
	[],
	[qr/COPY failed for table "master"/],
	'pg_restore --clean');
is($node->safe_psql('over', 'SELECT cqrs.is_copy()'),
	't', 'held back once more');

# By its own data a database is not taken for a copy.
$node->safe_psql('over',
	'SELECT tools.cqrs_resume(); INSERT INTO cqrs.home TABLE cqrs.home');
is($node->safe_psql('over', 'SELECT cqrs.is_copy()'), 'f', 'its own dump');

# Somebody who is no superuser restores the dump: pg_restore cannot write to
# cqrs.master, and without masters nothing is published.
$node->safe_psql('postgres',
	'CREATE ROLE landlord LOGIN; CREATE DATABASE rented OWNER landlord');
$node->safe_psql('rented',
	'CREATE SCHEMA tools; CREATE EXTENSION cqrs SCHEMA tools');
$node->command_checks_all(
	[   'pg_restore', '--no-owner',
		'-U',         'landlord',
		'-d',         'rented',
		"$dir/tools.custom" ],
	1,
	[],
	[qr/permission denied for table master/],
	'pg_restore as the owner of the database');
$node->safe_psql('rented', q{UPDATE app.author SET note = 'z' WHERE id = 1});
is( $node->safe_psql(
		'rented',
		'SELECT cqrs.is_copy(), (SELECT count(*) FROM cqrs.master), count(*) FROM cqrs.outbox'
	),
	'f|0|0',
	'no masters, and no messages');

# A table alone: its masters are not in the dump, and cqrs_check says so.
dump_database('source', 'table.sql', '-t', 'app.author');
$node->safe_psql('source', 'DROP TABLE app.author');
psql_file('source', 'table.sql');
my $ORPHANS = q{SELECT item, status FROM tools.cqrs_check()
	WHERE item LIKE 'table%'};
is( $node->safe_psql('source', $ORPHANS),
	'table app.author|error',
	'triggers without a master are found');
$node->safe_psql('source', q{SELECT tools.cqrs_register('app.author')});
is($node->safe_psql('source', $ORPHANS), '', 'cqrs_register() is the remedy');
is( $node->safe_psql(
		'source', q{
		UPDATE app.author SET note = 'z' WHERE id = 1;
		SELECT cqrs_id, instance_pk FROM cqrs.outbox ORDER BY id DESC LIMIT 1}),
	'author|1',
	'and changes are captured');

$node->stop;
done_testing();
