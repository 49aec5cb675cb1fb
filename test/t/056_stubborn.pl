# A trigger that catches whatever is to end it: the message becomes a dead letter,
# its neighbours are applied, and the table is not locked for ever (I26).  The queue
# has a delivery limit, and nothing comes near it.  A quorum queue of ours has none.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

# More than the 20 that RabbitMQ 4 allows.
my $RETURNS = 22;

my $broker = RabbitMQ->new('stubborn');
$broker->start;
my $node =
  new_master('stubborn', $broker, conf => "cqrs.apply_timeout = '500ms'\n");
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \$\$$STUBBORN\$\$;
	CREATE TRIGGER hang BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.name = 'stubborn') EXECUTE FUNCTION hang();
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop', quorum => true)});
wait_consumer($node, 'postgres', 'consuming');

# What is returned to the queue for the sixth time is dropped.  One return more
# than the process ends is possible: a window that grows can cost one.
$broker->ctl(
	'set_policy', 'limit',
	'^shop$',     '{"delivery-limit": 5}',
	'--apply-to', 'queues');

publish(
	$broker, 'cqrs', 'author',
	save_body('author', 1, 'good'),
	save_body('author', 2, 'stubborn'),
	save_body('author', 3, 'good'));
$node->poll_query_until('postgres',
	q{SELECT instance_pk = '2' FROM cqrs.dead_letters})
  or BAIL_OUT('no dead letter');
is( $node->safe_psql('postgres', 'SELECT error FROM cqrs.dead_letters'),
	'the server or the consumer has ended twice while messages were applied, the last time while this message was processed',
	'a message that nothing ends becomes a dead letter');
ok( $node->poll_query_until(
		'postgres', q{SELECT string_agg(id::text, ',') = '1,3' FROM author}),
	'its neighbours are applied');
my @lines = slurp_file($node->logfile) =~
  /consumer ends because a message took longer than twice/g;
is(scalar @lines, 2, 'the log says why the consumer has ended');

# The trigger is dropped, and the message is applied after all.
$node->safe_psql('postgres',
	'DROP FUNCTION hang() CASCADE; SELECT cqrs_retry_failed()');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM author}),
	'the message can be tried again');

# A message goes back to the queue more often than RabbitMQ 4 allows by default,
# each time before anything could be committed: the queue has no delivery limit.
sub stats
{
	my ($column) = @_;
	return $node->safe_psql('postgres',
		"SELECT $column FROM cqrs.consumer_stats");
}

$broker->ctl('clear_policy', 'limit');
$node->safe_psql(
	'postgres', q{
	ALTER SEQUENCE cqrs.failed_id MAXVALUE 100;
	SELECT setval('cqrs.failed_id', 100)});
my $received = stats('received');
publish($broker, 'cqrs', 'author', save_body('author', 4, 'bad'));
$node->safe_psql(
	'postgres', qq{
	SET statement_timeout = '120s';
	DO \$\$
	BEGIN
		FOR n IN 1 .. $RETURNS LOOP
			WHILE (SELECT state <> 'backing off' OR received < $received + n FROM cqrs.consumer_stats) LOOP
				PERFORM pg_sleep(0.01);
			END LOOP;
			PERFORM cqrs_pause_consumer();
			COMMIT;
			WHILE (SELECT state <> 'paused' FROM cqrs.consumer_stats) LOOP
				PERFORM pg_sleep(0.01);
			END LOOP;
			PERFORM cqrs_resume_consumer();
			COMMIT;
		END LOOP;
	END\$\$});
wait_consumer($node, 'postgres',
	"state = 'backing off' AND received = $received + $RETURNS + 1");
publish($broker, 'cqrs', 'author',
	map { save_body('author', $_, 'good') } 5 .. 50);
$node->safe_psql('postgres', 'ALTER SEQUENCE cqrs.failed_id NO MAXVALUE');
ok( $node->poll_query_until('postgres', q{SELECT count(*) = 49 FROM author}),
	'neighbours of a message that was returned many times are applied');
is($node->safe_psql('postgres', 'SELECT instance_pk FROM cqrs.failed'),
	4, 'the message is not lost');
is(stats('delivery_count'), $RETURNS, 'its returns are shown');
like(
	$node->safe_psql(
		'postgres',
		q{SELECT status || ': ' || detail FROM cqrs_check() WHERE item = 'consumer'}
	),
	qr/^warning: a message was returned to the queue $RETURNS times/,
	'cqrs_check warns of that');
@lines = slurp_file($node->logfile) =~
  /a message was returned to its queue (\d+) times/g;
is("@lines", 10, 'it is logged, once');

# The process is asked to end at the moment when it ends because of such a message:
# the next one takes the message for a suspect all the same.
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \$\$$STUBBORN\$\$;
	CREATE TRIGGER hang BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.name = 'stubborn') EXECUTE FUNCTION hang()});
publish($broker, 'cqrs', 'author', save_body('author', 51, 'stubborn'));
my $HANGS = q{backend_type = 'cqrs consumer' AND wait_event = 'PgSleep'};
$node->poll_query_until('postgres',
	"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $HANGS)")
  or BAIL_OUT('the consumer does not hang');
my ($pid, $now) = split /\|/,
  $node->safe_psql('postgres',
	"SELECT pid, clock_timestamp() FROM pg_stat_activity WHERE $HANGS");
kill 'STOP', $pid;
$node->poll_query_until('postgres',
	"SELECT clock_timestamp() > '$now'::timestamptz + '1.1 s'");
kill $_, $pid foreach ('TERM', 'CONT');
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM cqrs.dead_letters WHERE instance_pk = '51'})
  or BAIL_OUT('no dead letter');
@lines = slurp_file($node->logfile) =~
  /consumer ends because a message took longer than twice/g;
is(scalar @lines, 4, 'a request to end does not make the end one in order');
$node->stop;
done_testing();
