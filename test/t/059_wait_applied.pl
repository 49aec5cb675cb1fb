# cqrs_wait_applied: a session reads its own write at the replica.  What is
# waited for, how the wait ends, that it holds nothing, and who may wait.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $WRITERS = 200;

my $broker = RabbitMQ->new('wait_applied');
$broker->start;
my $node = new_master('wait_applied', $broker, conf => <<'END_CONF');
max_connections = 500
cqrs.max_pending_bytes = 0
END_CONF
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE place (country text, town text, name text,
		PRIMARY KEY (country, town));
	SELECT cqrs_register('author');
	SELECT cqrs_register('place')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE EXTENSION dblink;
	CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE TABLE place (country text, town text, name text, gone boolean,
		PRIMARY KEY (country, town));
	SELECT cqrs_register_replica('author', retry_delay => '1 h');
	SELECT cqrs_register_replica('place', soft_delete => 'gone');
	CREATE FUNCTION handle(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
	SELECT cqrs_register_replica(NULL, 'event', handler => 'handle');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');

# Writes at the master, and returns the revision.
sub change
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "$sql RETURNING cqrs_revision") =~
	  s/\n.*//sr;
}

# Waits, and returns what CALL gives, or the error.
sub wait_for
{
	my ($arguments) = @_;
	my ($status, $out, $err) =
	  $node->psql('shop', "CALL cqrs_wait_applied($arguments)");
	return $status == 0 ? $out : $err;
}

# A session that waits, without a timeout.
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
my $PID =
  q{(SELECT pid FROM pg_stat_activity WHERE application_name = 'waiter')};

sub begin_wait
{
	my ($arguments) = @_;

	$out = '';
	$in .= "CALL cqrs_wait_applied($arguments);\n";
	$session->pump_nb;
	$node->poll_query_until('postgres',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $PID"
	) or BAIL_OUT('it does not wait');
	return;
}

sub end_wait
{
	RabbitMQ->poll_until(
		sub { $session->pump_nb; return $out =~ /\n/ || $err ne '' }, 60)
	  or BAIL_OUT('the session does not go on');
	return "$out$err" =~ s/\n\z//r;
}

$in = "\\c shop\nSET application_name = 'waiter';\n\\echo ready\n";
$session->pump until $out =~ /ready/;

my $revision = change(q{INSERT INTO author VALUES (1, 'Ada')});
is(wait_for("'author', '1', $revision, '60 s'"),        'applied|', 'INSERT');
is($node->safe_psql('shop', 'SELECT name FROM author'), 'Ada', 'is there');
$revision = change(q{UPDATE author SET name = 'Eva'});
is(wait_for("'author', '1', $revision, '60 s'"),        'applied|', 'UPDATE');
is($node->safe_psql('shop', 'SELECT name FROM author'), 'Eva', 'is there');
is(wait_for("'author', '1', 0"), 'applied|', 'an earlier revision');
is(wait_for("'author', '1', $revision + 1, '0'"),
	'timeout|', 'a later revision has not arrived');
is(wait_for("'author', '2', 0, '0'"), 'timeout|', 'an unknown row');
$node->safe_psql('postgres', 'DELETE FROM author');
is(wait_for("'author', '1', NULL, '60 s'"), 'applied|',          'DELETE');
is($node->safe_psql('shop', 'SELECT count(*) FROM author'), '0', 'is gone');

# Keys of several columns, with characters that JSON can escape; soft deletes.
change(q{INSERT INTO place VALUES ('é', E'a"\\\\b', 'x')});
is(wait_for(q{'place', '["\u00e9", "a\"\\\\b"]', 0, '60 s'}),
	'applied|', 'key of two columns');
is(wait_for(q{'place', '["é", "a\"\\\\b"]', NULL, '0'}),
	'timeout|', 'the row is not marked as deleted');
$node->safe_psql('postgres', 'DELETE FROM place');
is(wait_for(q{'place', '["é", "a\"\\\\b"]', NULL, '60 s'}),
	'applied|', 'the row is marked as deleted');
is(wait_for(q{'place', '["é", "a\"\\\\b"]', 1, '0'}),
	'applied|', 'and has the revision of the DELETE');

# What a wait holds, and that the consumer's commit ends it.
$node->safe_psql('shop', 'SELECT cqrs_pause_consumer()');
wait_consumer($node, 'shop', 'paused');
$revision = change(q{INSERT INTO author VALUES (1, 'Ada')});
begin_wait("'author', '1', $revision");
is( $node->safe_psql(
		'postgres', qq{
		SELECT backend_xmin IS NULL AND backend_xid IS NULL
		FROM pg_stat_activity WHERE pid = $PID}),
	't',
	'a wait holds no snapshot');
is( $node->safe_psql(
		'postgres', qq{
		SELECT count(*) FROM pg_locks WHERE pid = $PID AND locktype <> 'virtualxid'}
	),
	'0',
	'a wait holds no lock');
$node->safe_psql('shop', 'ALTER TABLE author ADD COLUMN more text');
$node->safe_psql('shop', 'SELECT cqrs_resume_consumer()');
is(end_wait(), 'applied|', 'the commit ends the wait');

# In a transaction block; with other rows' commits in between.
$in .= "BEGIN;\n";
begin_wait("'author', '2', 0");
$revision = change(q{UPDATE author SET name = 'Eva'});
is(wait_for("'author', '1', $revision, '60 s'"), 'applied|', 'another row');
change(q{INSERT INTO author VALUES (2, 'Bea')});
is(end_wait(), 'applied|', 'in a transaction block');
$out = '';
$in .= "SELECT name FROM author WHERE id = 2; COMMIT;\n";
is(end_wait(), 'Bea', 'which then sees the row');

# A row that is deleted during the wait.
begin_wait("'author', '2', 100");
$node->safe_psql('postgres', 'DELETE FROM author WHERE id = 2');
is(end_wait(), 'deleted|', 'the row is deleted before it has the revision');

# A message that fails.
my $ERROR = qr/^failed\|new row for relation "author" violates check/;
$revision = change(q{UPDATE author SET name = 'bad'});
$node->poll_query_until('shop', 'SELECT count(*) = 1 FROM cqrs.failed')
  or BAIL_OUT('nothing fails');
like(wait_for("'author', '1', $revision, '0'"),
	$ERROR, 'a message that is to be tried again, at the timeout');
begin_wait("'author', '1', $revision");
$node->safe_psql('shop',
	q{SELECT cqrs_alter_replica('author', '{"max_retries": 0}'); SELECT cqrs_retry_failed()}
);
like(end_wait(), $ERROR, 'a dead letter ends the wait');
is(wait_for("'author', '1', $revision + 1, '0'"),
	'timeout|', 'a later change has not failed');
$revision = change(q{UPDATE author SET name = 'good'});
is(wait_for("'author', '1', $revision, '60 s'"),
	'applied|', 'the next change is applied');
$node->safe_psql(
	'shop', q{
	CREATE TABLE book (author_id int REFERENCES author);
	INSERT INTO book VALUES (1)});
$node->safe_psql('postgres', 'DELETE FROM author');
like(
	wait_for("'author', '1', NULL, '300 s'"),
	qr/^failed\|.*violates foreign key/,
	'a DELETE that fails');

# A long wait keeps nothing of its looks, such as the error of a failed message.
$node->safe_psql(
	'shop', q{
	CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN RAISE '%', repeat('x', 500000); END$$;
	CREATE TRIGGER complain BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.id = 3) EXECUTE FUNCTION complain();
	SELECT cqrs_alter_replica('author', '{"max_retries": 30}')});
change(q{INSERT INTO author VALUES (3, 'Cid')});
$node->poll_query_until('shop',
	'SELECT count(*) = 1 FROM cqrs.failed WHERE length(error) >= 500000')
  or BAIL_OUT('nothing fails');

# Bytes of all memory contexts of the session.
sub memory
{
	my $begin = -s $node->logfile;
	my $total;

	$node->safe_psql('postgres',
		"SELECT pg_log_backend_memory_contexts($PID)");
	RabbitMQ->poll_until(
		sub {
			($total) = slurp_file($node->logfile, $begin) =~
			  /Grand total: (\d+) bytes/;
			return defined $total;
		},
		60) or BAIL_OUT('memory is not logged');
	return $total;
}

begin_wait("'author', '3', 0");
my $memory = memory();
foreach my $id (1001 .. 1020)
{
	change("INSERT INTO author VALUES ($id, 'x')");
	is(wait_for("'author', '$id', 0, '60 s'"), 'applied|', 'a commit')
	  if $id == 1020;
	$node->poll_query_until('shop',
		"SELECT count(*) = 1 FROM author WHERE id = $id");
}
cmp_ok(memory() - $memory, '<', 2_000_000, 'a wait needs no more memory');
$node->safe_psql('shop',
	'DROP FUNCTION complain() CASCADE; SELECT cqrs_retry_failed()');
is(end_wait(), 'applied|', 'and ends');
$node->safe_psql('postgres', 'DELETE FROM author WHERE id > 1');
is(wait_for("'author', '1020', NULL, '60 s'"), 'applied|', 'all are gone');

# Errors.
my %ERRORS = (
	q{NULL, '1', 0}        => qr/"cqrs_id" must not be null/,
	q{'author', NULL, 0}   => qr/"instance_pk" must not be null/,
	q{'nothing', '1', 0}   => qr/replica "nothing" does not exist/,
	q{'event', '1', 0}     => qr/replica "event" has no table/,
	q{'author', '"x"', 0}  => qr/invalid input syntax for type integer: "x"/,
	q{'author', 'null', 0} => qr/key of replica "author" must not be null/,
	q{'place', '"x"', 0}   =>
	  qr/key of replica "place" is not an array of 2 values/);

foreach my $arguments (sort keys %ERRORS)
{
	like(wait_for($arguments), $ERRORS{$arguments}, "error: $arguments");
}
my $CALL = q{CALL cqrs_wait_applied('author', '1', 0, '0')};
my $BODY = q{$$DECLARE o text; e text;
	BEGIN CALL cqrs_wait_applied('author', '1', 0, '0', o, e); PERFORM 1; END$$};
my $HELD = qr/cannot wait while the transaction holds a snapshot/;

foreach my $case (
	[ "BEGIN ISOLATION LEVEL REPEATABLE READ; $CALL", $HELD ],
	[ "BEGIN; DECLARE c CURSOR FOR SELECT 1; $CALL",  $HELD ],
	[   "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $BODY; SELECT f()",
		$HELD ],
	[ "SET ROLE stranger; $CALL", qr/permission denied for table author/ ],
	[   "GRANT SELECT ON author TO stranger; ALTER TABLE author ENABLE ROW LEVEL SECURITY; SET ROLE stranger; $CALL",
		qr/has row security for role "stranger"/ ])
{
	my ($sql, $expected) = @$case;
	my ($status, undef, $error) = $node->psql(
		'shop',
		"CREATE ROLE stranger; $sql",
		extra_params => [ '-v', 'ON_ERROR_STOP=1' ]);
	like($error, $expected, "error: $sql");
	$node->safe_psql(
		'shop', q{
		ALTER TABLE author DISABLE ROW LEVEL SECURITY;
		DROP OWNED BY stranger; DROP ROLE stranger});
}
is($node->safe_psql('shop', "DO $BODY"), '', 'in a DO block');
$in .= "\\q\n";
$session->finish;

# Many writers, each of which reads what it has written.
$node->safe_psql('shop', 'DROP TABLE book; SELECT cqrs_retry_failed()');
is(wait_for("'author', '1', NULL, '60 s'"), 'applied|', 'the DELETE, again');
$node->safe_psql('postgres',
	"INSERT INTO author SELECT i, '' FROM generate_series(1, $WRITERS) i");
my $connection = $node->connstr('postgres') =~ s/'/''/gr;
$node->pgbench(
	"--no-vacuum --protocol=prepared --client=$WRITERS --jobs=2 --transactions=10",
	0,
	[qr/number of failed transactions: 0/],
	[qr/^$/],
	'all writers read what they have written',
	{ '057_wait_applied' => <<"END_SCRIPT" },
\\set id 1 + :client_id
SELECT CASE WHEN 'm' = ANY (coalesce(dblink_get_connections(), '{}')) THEN ''
	ELSE dblink_connect('m', '$connection') END;
SELECT revision FROM dblink('m',
	'UPDATE author SET name = name || ''x'' WHERE id = ' || :id || ' RETURNING cqrs_revision')
	AS t (revision int) \\gset
CALL cqrs_wait_applied('author', to_jsonb(:id::int), :revision, '120 s') \\gset
SELECT 1 / (cqrs_revision = :revision AND length(name) = :revision)::int
	FROM author WHERE id = :id;
END_SCRIPT
	'shop');
$node->stop;
$broker->stop;
done_testing();
