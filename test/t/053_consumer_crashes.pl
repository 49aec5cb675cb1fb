# Nothing that was sent is lost and no row goes back, whatever ends the
# consumer, its connection, the server or the broker (I24); a message that crashes
# the server is found (I26); a fast shutdown takes less than two seconds.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $LIMIT_S = 2;

my $broker = RabbitMQ->new('crashes');
$broker->start;
my $node = new_master('crashes', $broker, conf => <<'END');
cqrs.heartbeat = '2s'
cqrs.reconnect_delay_max = '500ms'
restart_after_crash = on
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('item');
	SELECT cqrs_register('author')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('item');
	SELECT cqrs_register_replica('author');
	-- Whether a revision ever went back.
	CREATE TABLE went_back (id int);
	CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.cqrs_revision <= OLD.cqrs_revision THEN
			INSERT INTO public.went_back VALUES (NEW.id);
		END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER watch BEFORE UPDATE ON item
		FOR EACH ROW EXECUTE FUNCTION watch();
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');

sub master
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub replica
{
	my ($sql) = @_;
	return $node->safe_psql('shop', $sql);
}

sub same_rows
{
	my ($what) = @_;
	my $sql =
	  q{SELECT count(*), md5(string_agg(id || data || cqrs_revision, ',' ORDER BY id)) FROM item};

	wait_applied($broker, $node, 'shop', 'shop');
	is(replica($sql), master($sql),
		"replica and master have the same rows: $what");
	is(replica('SELECT count(*) FROM went_back'),
		0, "no row went back: $what");
	return;
}

sub write_much
{
	master(
		q{INSERT INTO item SELECT i, 'a' FROM generate_series(1, 4000) i
		ON CONFLICT (id) DO UPDATE SET data = item.data || 'x'});
	master(q{UPDATE item SET data = data || 'y' WHERE id % 3 = 0});
	master(q{DELETE FROM item WHERE id % 7 = 0});
	return;
}

sub counters
{
	return split /\|/,
	  replica('SELECT stats_since, received FROM cqrs.consumer_stats');
}

sub applied
{
	return replica(
		'SELECT inserted + updated + deleted FROM cqrs.consumer_stats');
}

# Writes, and waits until the first of it is applied.
sub apply_much
{
	my $applied = applied();

	write_much();
	$node->poll_query_until('shop',
		"SELECT inserted + updated + deleted > $applied FROM cqrs.consumer_stats"
	) or BAIL_OUT('nothing is applied');
	return;
}

# Ends something while messages are being applied.
sub in_the_middle
{
	my ($what, $end) = @_;

	# Slow enough for the end to come in between.
	apply_much();
	$end->();
	same_rows($what);
	return;
}

same_rows('at the beginning');
in_the_middle(
	'the connection is cut',
	sub {
		$broker->ctl('close_all_connections', 'test');
	});
in_the_middle(
	'the broker is killed',
	sub {
		$broker->kill9;
		$broker->start;
	});
in_the_middle(
	'the server crashes',
	sub {
		$node->stop('immediate');
		$node->start;
	});
in_the_middle(
	'the consumer is killed',
	sub {
		kill 'KILL', replica('SELECT pid FROM cqrs.consumer_stats') || 0;
		$node->poll_query_until('shop', 'SELECT true');
	});
in_the_middle(
	'the server is restarted',
	sub {
		my ($since, $received) = counters();
		$node->restart;
		my ($since_later, $received_later) = counters();
		is($since_later, $since, 'counters of the consumer outlast that');
		cmp_ok($received_later, '>=', $received, 'all of them');
	});

# A message that crashes the server is found, and becomes a dead letter.
wait_applied($broker, $node, 'shop', 'shop');
replica(
	q{CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.name = 'crash' THEN
			EXECUTE pg_catalog.format('COPY (SELECT 1) TO PROGRAM ''kill -9 %s''',
				pg_catalog.pg_backend_pid());
			PERFORM pg_catalog.pg_sleep(10);
		END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER crash BEFORE INSERT ON author
		FOR EACH ROW EXECUTE FUNCTION crash()});
master(
	q{INSERT INTO author SELECT i, CASE i WHEN 10 THEN 'crash' ELSE 'fine' END
	FROM generate_series(1, 20) i});
$node->poll_query_until('shop',
	q{SELECT count(*) = 1 FROM cqrs.dead_letters WHERE instance_pk = '10'})
  or BAIL_OUT('the message that crashes the server is not found');
$node->poll_query_until('shop', 'SELECT count(*) = 19 FROM author')
  or BAIL_OUT('its neighbours are not applied');
pass('a message that crashes the server becomes a dead letter');

# The publisher, whose server has crashed as well, sends the message again.
wait_published($node);
wait_consumer($node, 'shop', 'consuming');
RabbitMQ->poll_until(sub { return $broker->queue_length('shop') == 0 }, 60)
  or BAIL_OUT('the queue is not drained');
is(replica('SELECT count(*) FROM cqrs.failed'), 1, 'and no other one does');
master(
	q{INSERT INTO author SELECT i, 'fine' FROM generate_series(21, 3000) i});
$node->poll_query_until('shop', 'SELECT count(*) = 2999 FROM author');
$node->poll_query_until('shop',
	'SELECT prefetch > 1 FROM cqrs.consumer_stats');
is(replica('SELECT suspect IS NULL FROM cqrs.consumer'),
	't', 'then the consumer is not wary any more');

# Such a message cannot be kept, and then its connection is cut.
replica(
	q{BEGIN; LOCK TABLE cqrs.failed IN SHARE MODE; PREPARE TRANSACTION 'failed'}
);
my $offset = -s $node->logfile;

# The crash can end the session that writes.
$node->psql('postgres', q{INSERT INTO author VALUES (4000, 'crash')});
RabbitMQ->poll_until(
	sub {
		(() = slurp_file($node->logfile, $offset) =~
			  /was terminated by signal 9/g) >= 2;
	},
	180) or BAIL_OUT('the server does not crash twice');
wait_consumer($node, 'shop', 'errors > 2');
my $errors = replica('SELECT errors FROM cqrs.consumer_stats');
$broker->ctl('close_all_connections', 'test');
wait_consumer($node, 'shop', "errors > $errors + 3");
replica(q{COMMIT PREPARED 'failed'});
$node->poll_query_until('shop',
	q{SELECT count(*) = 1 FROM cqrs.dead_letters WHERE instance_pk = '4000'})
  or BAIL_OUT('the message is not kept');
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /was terminated by signal 9/g),
	2,
	'a message that was found is not tried again before it is a dead letter');
replica('DROP FUNCTION crash() CASCADE; SELECT cqrs_retry_failed()');
$node->poll_query_until('shop', 'SELECT count(*) = 3001 FROM author');

# The queue is deleted: it is declared anew, and nothing is lost.
$broker->ctl('delete_queue', 'shop');
ok( RabbitMQ->poll_until(
		sub { return defined $broker->queue_length('shop') }, 60),
	'a queue that was deleted is declared anew');
wait_consumer($node, 'shop', 'consuming');
write_much();
same_rows('the queue was deleted');
like(
	slurp_file($node->logfile),
	qr/the broker has ended the consumption of queue "shop"/,
	'that is logged');

# Pause and resume; what is paused waits in the queue.
replica('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'shop', 'paused');
write_much();
wait_published($node);
cmp_ok($broker->queue_length('shop'), '>', 0, 'messages wait');
replica('SELECT cqrs_resume_consumer()');
same_rows('paused and resumed');

# Unregistering unbinds.
replica(q{SELECT cqrs_unregister_replica('author')});
ok( RabbitMQ->poll_until(
		sub {
			return $broker->ctl('list_bindings', 'routing_key') !~
			  /^author$/m;
		},
		60),
	'a replica that is gone has no bindings');

# A fast shutdown.
sub stops
{
	my ($what) = @_;
	my $start = time;

	$node->stop('fast');
	my $elapsed = time - $start;
	note sprintf '%s: %.2f s', $what, $elapsed;
	cmp_ok($elapsed, '<', $LIMIT_S, "stops within $LIMIT_S s: $what");
	return;
}

stops('idle');
$node->start;
wait_consumer($node, 'shop', 'consuming');
apply_much();
stops('applying');
$node->start;
same_rows('stopped while applying');

# A trigger hangs; then one that lets no request to cancel end it.
my %hangs = (
	'a trigger hangs' => 'BEGIN PERFORM pg_sleep(1000); RETURN NEW; END',
	'a trigger catches what is to end it' => $STUBBORN);
foreach my $what (sort keys %hangs)
{
	replica(
		qq{CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \$\$$hangs{$what}\$\$;
		CREATE TRIGGER zhang BEFORE UPDATE ON item FOR EACH ROW
		WHEN (NEW.data = '$what') EXECUTE FUNCTION hang()});
	master(qq{UPDATE item SET data = '$what' WHERE id = 1});
	$node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs consumer' AND wait_event = 'PgSleep'}
	) or BAIL_OUT("not reached: $what");
	stops($what);
	$node->start;
	replica('DROP FUNCTION hang() CASCADE');
	same_rows("stopped: $what");
}

my $lock = IPC::Run::start(
	[   'psql', '-XAtq',
		'-d',   $node->connstr('shop'),
		'-c',   'BEGIN; LOCK TABLE item; SELECT pg_sleep(1000)' ],
	'<',
	'/dev/null',
	'>',
	\my $out,
	'2>',
	\my $err);
$node->poll_query_until(
	'shop',
	q{SELECT count(*) = 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock'
	AND relation = 'item'::regclass AND granted}
) or BAIL_OUT('the table is not locked');
master(q{UPDATE item SET data = 'lock' WHERE id = 1});
$node->poll_query_until(
	'postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event_type = 'Lock'}
) or BAIL_OUT('the consumer does not wait for the lock');
stops('waiting for a lock');
$lock->finish;
$node->start;
same_rows('stopped while waiting for a lock');

wait_consumer($node, 'shop', 'consuming');
$broker->suspend;
stops('broker frozen');
$node->start;
wait_consumer($node, 'shop', 'connecting');
stops('broker frozen, handshake hangs');
$broker->resume;
$node->start;
wait_consumer($node, 'shop', 'consuming');

# DROP EXTENSION and DROP DATABASE.
replica('DROP EXTENSION cqrs CASCADE');
is( master(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs consumer'}
	),
	0,
	'the consumer leaves before DROP EXTENSION');
replica(
	q{CREATE EXTENSION cqrs; SELECT cqrs_register_replica('item');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');
same_rows('the extension was created anew');

# A quorum queue, of another name; the old one is dropped.
replica('SELECT cqrs_stop_consuming(true)');
ok( RabbitMQ->poll_until(
		sub { return !defined $broker->queue_length('shop') }, 60),
	'cqrs_stop_consuming drops the queue');
$node->poll_query_until('shop', 'SELECT count(*) = 0 FROM cqrs.consumer');
replica(q{SELECT cqrs_consume('safe', quorum => true)});
wait_consumer($node, 'shop', 'consuming');
my %type = map { split /\t/ } split /\n/,
  $broker->ctl('list_queues', '-s', 'name', 'type');
like($type{safe}, qr/quorum/i, 'a quorum queue');
write_much();
$broker->ctl('close_all_connections', 'test');

# RabbitMQ counts the messages of a quorum queue every few seconds only.
my $COUNT = q{SELECT concat_ws('|', count(*), max(cqrs_revision)) FROM item};
ok($node->poll_query_until('shop', $COUNT, master($COUNT)),
	'rows arrive by a quorum queue');

$node->safe_psql('postgres', 'DROP DATABASE shop');
pass('DROP DATABASE');
unlike(slurp_file($node->logfile), qr/guest:guest/, 'no password in the log');
$node->stop;
done_testing();
