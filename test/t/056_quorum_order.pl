# Connections of a consumer end one after the other, before anything is
# committed: messages are applied in their order all the same (I29), from a queue
# of either type.  A quorum queue puts what comes back behind what came back before.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

# The first four connections take all messages together, the fifth does not.
my $ENDS     = 4;
my $MESSAGES = 300;
my $BEFORE   = 3000;

my $broker = RabbitMQ->new('quorum_order');
$broker->start;
my $node = new_master('quorum_order', $broker);

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

query(
	q{CREATE TABLE item (id int PRIMARY KEY, name text);
	CREATE TABLE applied (n serial PRIMARY KEY, id int);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN
			IF NEW.name = 'slow' THEN PERFORM pg_catalog.pg_sleep(0.1); END IF;
			INSERT INTO public.applied (id) VALUES (NEW.id);
			RETURN NEW;
		END$$;
	CREATE TRIGGER note AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note();
	SELECT cqrs_register_replica('item')});

foreach my $quorum ('false', 'true')
{
	my $type = $quorum eq 'true' ? 'quorum' : 'classic';

	query(
		"TRUNCATE item, applied;
		SELECT cqrs_consume('$type', quorum => $quorum)");
	wait_consumer($node, 'postgres',
		"state = 'consuming' AND queue = '$type'");

	# While messages wait, the window opens; so all that follow are delivered.
	query('SELECT cqrs_pause_consumer()');
	wait_consumer($node, 'postgres', "state = 'paused'");
	publish($broker, 'cqrs', 'item',
		map { save_body('item', $MESSAGES + $_, $_ % 200 ? 'x' : 'slow') }
		  1 .. $BEFORE);
	query('SELECT cqrs_resume_consumer()');
	wait_consumer($node, 'postgres', "prefetch >= $MESSAGES");
	$node->poll_query_until('postgres',
		"SELECT count(*) = $BEFORE FROM applied")
	  or BAIL_OUT('not all is applied');
	query('TRUNCATE applied');

	my ($in, $out, $err) = ('', '', '');
	my $locker = open_psql($node, \$in, \$out, \$err);
	$in = "BEGIN; LOCK TABLE item; SELECT 'locked';\n";
	$locker->pump until $out =~ /locked/ || $err;
	publish($broker, 'cqrs', 'item',
		map { save_body('item', $_, 'x') } 1 .. $MESSAGES);
	wait_consumer($node, 'postgres', "buffered = $MESSAGES");
	foreach my $end (1 .. $ENDS)
	{
		my $waits = "SELECT count(*) = 1 FROM pg_stat_activity
			WHERE backend_type = 'cqrs consumer' AND wait_event_type = 'Lock'";
		my $received = query('SELECT received FROM cqrs.consumer_stats');
		my $again    = $type eq 'quorum' && $end < $ENDS ? $MESSAGES : 1;

		$node->poll_query_until('postgres', $waits)
		  or BAIL_OUT('the consumer does not wait for the lock');
		$broker->ctl('close_all_connections', 'test');
		wait_consumer($node, 'postgres', "received >= $received + $again");
	}
	$in = "COMMIT;\n\\q\n";
	$locker->finish;
	$node->poll_query_until('postgres',
		"SELECT count(*) = $MESSAGES FROM applied")
	  or BAIL_OUT('not all is applied');
	is( query(q{SELECT string_agg(id::text, ' ' ORDER BY n) FROM applied}),
		join(' ', 1 .. $MESSAGES),
		"order of a $type queue");
	query('SELECT cqrs_stop_consuming(true)');
	$node->poll_query_until('postgres',
		'SELECT count(*) = 0 FROM cqrs.consumer')
	  or BAIL_OUT('the queue is not dropped');
}
$node->stop;
done_testing();
