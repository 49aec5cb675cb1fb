# A copy of a database publishes nothing, and consumes nothing, before somebody
# says so (I31): a dump that is restored, on the same server or on another one,
# and a database that was made from another one as its template.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $dir    = PostgreSQL::Test::Utils::tempdir();
my $broker = RabbitMQ->new('restored');
$broker->start;
my $node =
  new_master('production', $broker, conf => "max_worker_processes = 30\n");

# A session of a database: its result, and what it was told.
sub session
{
	my ($at, $dbname, $sql) = @_;

	my ($status, $stdout, $stderr) = $at->psql($dbname, $sql);
	is($status, 0, "$dbname: $sql") or diag $stderr;
	return ($stdout, $stderr);
}

sub query
{
	my ($dbname, $sql, $at) = @_;

	return (session($at // $node, $dbname, $sql))[0];
}

# Runs pg_dump or pg_restore; returns whether it has succeeded, and what it said.
sub run_program
{
	my ($at, $dbname, @command) = @_;
	my $stderr;
	my $ok = IPC::Run::run([ @command, '-d', $at->connstr($dbname) ],
		'>', \my $stdout, '2>', \$stderr);

	return ($ok, $stderr);
}

# What has arrived since the last call: keys with data, in order.
sub arrived
{
	return join ', ',
	  map { "$_->{body}{instance_pk} $_->{body}{instance_data}{data}" }
	  drain_queue($broker, 'replica');
}

# Expects that a database is held back: nothing of what it writes arrives.
sub held_back
{
	my ($dbname, $at) = @_;

	# A publisher that has run before looks at its next reading.
	ok( ($at // $node)->poll_query_until(
			$dbname, q{SELECT state = 'restored' FROM cqrs.stats}),
		"$dbname: is held back");
	my ($published, $warning) = session(
		$at // $node, $dbname,
		qq{UPDATE item SET data = '$dbname' WHERE id = 1;
		SELECT cqrs_wait_published('300ms')});
	is($published, 'f', "$dbname: what is written there waits");
	like(
		$warning,
		qr/WARNING:  publishing is held back.*HINT: .*cqrs_resume\(\)/s,
		"$dbname: who waits for it is told why");
	is(arrived(), '', "$dbname: nothing arrives");
	return;
}

query('postgres', 'CREATE DATABASE shop');
query(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');
query('shop', q{INSERT INTO item VALUES (1, 'a'), (2, 'b')});
wait_published($node, 'shop');
is(arrived(), '1 a, 2 b', 'the original publishes');
my $dump = "$dir/shop.dump";
my ($ok, $said) = run_program($node, 'shop', 'pg_dump', '-Fc', '-f', $dump);
ok($ok, 'pg_dump') or diag $said;

# On the same server.
query('postgres', 'CREATE DATABASE copy');
($ok, $said) = run_program($node, 'copy', 'pg_restore', '-ve', $dump);
ok($ok, 'pg_restore');
like(
	$said,
	qr/WARNING:  publishing is held back.*HINT: .*cqrs_resume\(\)/s,
	'the restore says that the copy is held back');
held_back('copy');
is( query(
		'copy',
		q{SELECT status, detail ~ '^publishing is held back', remedy ~ 'cqrs_resume\(\)'
		FROM cqrs_check() WHERE item = 'publisher'}),
	'warning|t|t',
	'cqrs_check says so, with the remedy');
query('copy', q{CALL cqrs_sync_all('item', 'id = 2')});
query('copy', q{UPDATE item SET data = 'later' WHERE id = 1});
query('copy', q{SELECT cqrs_pause()});
is(query('copy', 'SELECT state, pending FROM cqrs.stats'),
	'restored|3', 'changes and syncs wait');
query('copy', q{SELECT cqrs_resume()});
wait_published($node, 'copy');
is( arrived(),
	'1 copy, 2 b, 1 later',
	'cqrs_resume has them published, in order');
query('copy', q{SELECT cqrs_register('item', 'again')});
$node->restart;
query('copy', q{UPDATE item SET data = 'restarted' WHERE id = 2});
wait_published($node, 'copy');
is(arrived(), '2 restarted', 'and that lasts');
query('shop', q{UPDATE item SET data = 'original' WHERE id = 2});
wait_published($node, 'shop');
is(arrived(), '2 original', 'nothing of all that concerns the original');

# The copy is at home now; what is made of it is a copy in its turn.
($ok, $said) =
  run_program($node, 'copy', 'pg_dump', '-Fc', '-f', "$dir/copy.dump");
ok($ok, 'pg_dump of the copy');
query('postgres', 'CREATE DATABASE third');
($ok, $said) =
  run_program($node, 'third', 'pg_restore', '-e', "$dir/copy.dump");
ok($ok, 'pg_restore of the copy');
held_back('third');
query('postgres', 'DROP DATABASE third');

# On another server; a restart does not change it.
my $other = new_master('other', $broker, extension => 0);
query('postgres', 'CREATE DATABASE shop', $other);
($ok, $said) = run_program($other, 'shop', 'pg_restore', '-e', $dump);
ok($ok, 'pg_restore on another server');
held_back('shop', $other);
$other->restart;
held_back('shop', $other);

# Data only, without triggers, into a database that publishes masters of its own.
query('postgres', 'CREATE DATABASE staging', $other);
query(
	'staging', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item', 'own')}, $other);
wait_for_state($other, 'publishing', 'staging');
($ok, $said) =
  run_program($other, 'staging', 'pg_restore', '-e', '--data-only',
	'--disable-triggers', $dump);
ok($ok, 'pg_restore --data-only --disable-triggers') or diag $said;
query('staging', q{UPDATE item SET data = 'x'}, $other);
held_back('staging', $other);
like(
	slurp_file($other->logfile),
	qr/LOG:  cqrs publisher holds messages back/,
	'the log says that the database is held back');
$other->stop;

# A master alone.
query('postgres', 'CREATE DATABASE single');
query(
	'single', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item', 'own');
	INSERT INTO item VALUES (1, 'a')});
wait_published($node, 'single');
(undef, $said) = session($node, 'single',
	q{INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('item', 'item', true)}
);
like($said, qr/WARNING:  publishing is held back/, 'a row of cqrs.master');
held_back('single');

# A template.
query('postgres', 'CREATE DATABASE twin TEMPLATE shop');
held_back('twin');
query('twin', 'SELECT cqrs_resume()');
wait_published($node, 'twin');
is(arrived(), '1 twin', 'cqrs_resume has the twin publish');
query('postgres', 'ALTER DATABASE twin RENAME TO sister');
query(
	'sister',
	q{UPDATE item SET data = 'sister' WHERE id = 2;
	SELECT cqrs.wake_publisher()});
wait_published($node, 'sister');
is(arrived(), '2 sister', 'a new name is no copy');

# A template without masters has nothing that could be held back.
query('postgres', 'CREATE DATABASE blank');
query(
	'blank', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text)});
query('postgres', 'CREATE DATABASE fresh TEMPLATE blank');
query('fresh',
	q{SELECT cqrs_register('item'); INSERT INTO item VALUES (3, 'c')});
wait_published($node, 'fresh');
is(arrived(), '3 c', 'a template that has the extension alone');

# A template that consumes: its publishers and its consumer leave for some
# seconds, in which the copy could take its queue.
query('postgres', 'CREATE DATABASE follower');
query(
	'follower', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register_replica('item');
	SELECT cqrs_consume('follow')});
wait_consumer($node, 'follower', 'consuming');
query('postgres', 'CREATE DATABASE shadow TEMPLATE follower');
wait_consumer($node, 'shadow', q{state IN ('standing by', 'consuming')});
is( query(
		'shadow',
		q{SELECT state, last_error ~ 'copy' FROM cqrs.consumer_stats}),
	'standing by|t',
	'a copy does not take the queue of its template');
query('follower', 'SELECT cqrs.wake_consumer()');
query('shop',     q{UPDATE item SET data = 'followed' WHERE id = 1});
ok( $node->poll_query_until(
		'follower', q{SELECT data = 'followed' FROM item WHERE id = 1}),
	'the template consumes');
is(query('shadow', 'SELECT count(*) FROM item'), 0, 'the copy does not');
my (undef, undef, $error) =
  $node->psql('shadow', 'SELECT cqrs_stop_consuming(true)');
like(
	$error,
	qr/the queue belongs to another database/,
	'a copy does not drop the queue');
query('follower', 'SELECT cqrs_stop_consuming()');
query('shadow',   q{SELECT cqrs_consume('follow')});
query('shop',     q{UPDATE item SET data = 'shadowed' WHERE id = 1});
ok( $node->poll_query_until(
		'shadow', q{SELECT data = 'shadowed' FROM item WHERE id = 1}),
	'until cqrs_consume() is called there');

$node->stop;
done_testing();
