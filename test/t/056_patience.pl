# What may pass (a lock, a lack of resources) is waited for, but not again and
# again: messages of such a replica do not hold up those of another one
# (I26).  A function "retry" that does not end holds up nobody either.  A database
# that commits nothing for a minute gives its messages back to the queue.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

# Far below a wait for each message, and far above what the work takes.
my $LIMIT_S = 20;

my $broker = RabbitMQ->new('patience');
$broker->start;
my $node =
  new_master('patience', $broker, conf => "cqrs.apply_timeout = '2s'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE TABLE other (id int PRIMARY KEY, name text);
	CREATE TABLE third (id int PRIMARY KEY, name text);
	CREATE FUNCTION hang(cqrs.message, int, text, text) RETURNS interval
		LANGUAGE plpgsql AS
		$$BEGIN PERFORM pg_sleep(1000); RETURN '1 day'; END$$;
	CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN RAISE 'full' USING ERRCODE = 'insufficient_resources'; END$$;
	CREATE TRIGGER fail BEFORE INSERT ON other
		FOR EACH ROW EXECUTE FUNCTION fail();
	SELECT cqrs_register_replica('author', retry => 'public.hang');
	SELECT cqrs_register_replica('other');
	SELECT cqrs_register_replica('third');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# Another database can store no failed message, and not write to cqrs.consumer
# either, until the end of this file: most of the minute passes meanwhile.
$node->safe_psql('postgres', 'CREATE DATABASE stuck');
$node->safe_psql(
	'stuck', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('item', max_retries => 0);
	ALTER SEQUENCE cqrs.failed_id MAXVALUE 2;
	SELECT setval('cqrs.failed_id', 2);
	SELECT cqrs_consume('stuck')});
wait_consumer($node, 'stuck', 'consuming');
publish(
	$broker, 'cqrs', 'item',
	save_body('item', 1, 'bad'),
	save_body('item', 2, 'good'));
wait_consumer($node, 'stuck', 'backing off');
$node->safe_psql(
	'stuck', q{
	BEGIN;
	LOCK TABLE cqrs.consumer IN SHARE MODE;
	PREPARE TRANSACTION 'seat'});
my $PROCESS = 'SELECT pid, started_at FROM cqrs.consumer_stats';
my $process = $node->safe_psql('stuck', $PROCESS);
is( $node->safe_psql(
		'stuck', 'SELECT connected_at IS NULL FROM cqrs.consumer_stats'),
	'f',
	'a consumer that commits nothing stays connected at first');

my $pk = 0;

# Sends messages that are new rows of these tables.
sub send_rows
{
	my ($name, @tables) = @_;

	publish($broker, 'cqrs', 'author',
		map { save_body($_, ++$pk, $name) } @tables);
	return;
}

# Sends such messages, the last one for "third", which has to arrive soon.
sub arrives_soon
{
	my ($what, @tables) = @_;
	my $start = time;

	send_rows('good', @tables, 'third');
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM third WHERE id = $pk")
	  or BAIL_OUT("no message arrives: $what");
	my $elapsed = time - $start;
	note sprintf '%.1f s: %s', $elapsed, $what;
	cmp_ok($elapsed, '<', $LIMIT_S, "a neighbour arrives soon: $what");
	return;
}

send_rows('bad', 'author');
arrives_soon('the function "retry" of another replica hangs');
is($node->safe_psql('postgres', q{SELECT sqlstate FROM cqrs.failed}),
	'23514', 'the message of that replica has failed');
$node->safe_psql('postgres', 'DELETE FROM cqrs.failed');

# The first one is waited for, to and fro.
send_rows('good', 'other');
wait_consumer($node, 'postgres', 'waiting = 1');
arrives_soon('messages of a replica without patience', ('other') x 3);
arrives_soon('nothing has changed for that replica',   'other');

# The trigger goes with the lock: if a retry succeeded in between, the next
# failure would be waited for again.
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= <<'END';
BEGIN;
LOCK TABLE other;
ALTER TABLE other DISABLE TRIGGER fail;
SELECT 'locked';
END
$session->pump until $out =~ /locked/ || $err;
$node->safe_psql('postgres', 'ALTER SYSTEM SET cqrs.apply_timeout = 0');
$node->reload;
arrives_soon('another table is locked', ('other') x 10);
arrives_soon('messages of a locked table are retried');
arrives_soon('they are retried again');
$in .= "COMMIT;\n\\q\n";
$session->finish;
wait_consumer($node, 'postgres', 'waiting = 0');
is($node->safe_psql('postgres', 'SELECT count(*) FROM other'),
	15, 'all messages are applied in the end');

# The query of a cursor WITH HOLD would run at COMMIT, which nothing limits.
$node->safe_psql(
	'postgres', q{
	ALTER SYSTEM SET cqrs.apply_timeout = '2s';
	SELECT pg_reload_conf();
	CREATE TABLE held (id int PRIMARY KEY, name text);
	CREATE FUNCTION declare() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT pg_sleep(1000)';
		RETURN NEW;
	END $$;
	CREATE TRIGGER declare BEFORE INSERT ON held
		FOR EACH ROW EXECUTE FUNCTION declare();
	SELECT cqrs_register_replica('held', max_retries => 0)});
send_rows('good', 'held');
arrives_soon('a cursor WITH HOLD of another replica hangs');
is( $node->safe_psql('postgres', q{SELECT cqrs_id, error FROM cqrs.failed}),
	'held|the message took longer than "cqrs.apply_timeout"',
	'the message that has declared it has failed');
$node->safe_psql('postgres', 'DELETE FROM cqrs.failed');

# What an internal error ends is not tried for ever: its failures count.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN RAISE 'broken' USING ERRCODE = 'internal_error'; END$$;
	CREATE TRIGGER break BEFORE INSERT ON other
		FOR EACH ROW EXECUTE FUNCTION break();
	SELECT cqrs_alter_replica('other', '{"max_retries": 1, "retry_delay": "100 ms"}')}
);
send_rows('good', 'other');
$node->poll_query_until('postgres',
	q{SELECT attempts = 2 AND sqlstate = 'XX000' FROM cqrs.dead_letters})
  or BAIL_OUT('no dead letter');
pass('a message that always meets an internal error becomes a dead letter');

# The other database, in which nothing can be committed.
wait_consumer($node, 'stuck', 'connected_at IS NULL');
is( $node->safe_psql(
		'stuck', 'SELECT state, buffered FROM cqrs.consumer_stats'),
	'backing off|0',
	'after a minute the consumer is not connected any more');
like(
	$node->safe_psql(
		'stuck',
		q{SELECT status || ': ' || detail FROM cqrs_check() WHERE item = 'consumer'}
	),
	qr/^error: nothing can be committed, last error: .*(?:failed_id|cqrs\.consumer|lock timeout)/,
	'cqrs_check says that nothing can be committed');
ok( RabbitMQ->poll_until(
		sub {
			return $broker->ctl('list_queues', 'name', 'messages_ready',
				'consumers') =~ /^stuck\t2\t0$/m;
		},
		60),
	'the queue has all messages');
like(
	slurp_file($node->logfile),
	qr/cqrs consumer cannot commit: .*failed_id.*\n.*Messages wait in the queue/,
	'the log says why');
$node->safe_psql(
	'stuck', q{
	ALTER SEQUENCE cqrs.failed_id NO MAXVALUE;
	ROLLBACK PREPARED 'seat'});
$node->poll_query_until('stuck',
	q{SELECT count(*) = 1 FROM item WHERE id = 2 AND name = 'good'})
  or BAIL_OUT('the consumer does not go on');
is( $node->safe_psql(
		'stuck', 'SELECT instance_pk, attempts FROM cqrs.dead_letters'),
	'1|1',
	'then each message is applied or stored, and no attempt was counted');
is($node->safe_psql('stuck', $PROCESS), $process, 'in the same process');
$node->stop;
done_testing();
