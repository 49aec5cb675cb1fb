# A broker that blocks is waited for on the same connection, even with a large
# message half sent; one that is silent is given up.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('alive');
$broker->start;
my $node = new_master('alive', $broker, conf => <<'END');
cqrs.heartbeat = '2s'
cqrs.reconnect_delay_max = '300ms'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE blob (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('blob')});
declare_queue($broker, 'replica', 'blob');
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Idle for many heartbeats.
wait_for_stats($node, q{clock_timestamp() - connected_at > interval '10 s'});
is(query('SELECT state, reconnects FROM cqrs.stats'),
	'publishing|0', 'an idle connection lasts');

# An alarm: the broker reads nothing, but says so.
$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
query(
	q{INSERT INTO blob (data) SELECT repeat('x', 2000000)
	FROM generate_series(1, 20)});
wait_for_state($node, 'blocked');
my $blocked_at = query('SELECT clock_timestamp()');
wait_for_stats($node, "clock_timestamp() - '$blocked_at' > interval '10 s'");
is(query('SELECT state, reconnects FROM cqrs.stats'),
	'blocked|0', 'so does one that is blocked with a message half sent');
query(q{INSERT INTO blob (data) VALUES ('after')});
$broker->ctl('set_vm_memory_high_watermark', '0.4');
wait_published($node);
is(query('SELECT state, reconnects, published FROM cqrs.stats'),
	'publishing|0|21', 'everything is sent once, on the same connection');
my @keys = arrived_keys($broker, 'replica');
is(join(',', @keys), join(',', 1 .. 21), 'and arrives in order');

# An alarm that comes and goes fills no log.
$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
query(q{INSERT INTO blob (data) VALUES ('again')});
wait_for_state($node, 'blocked');
$broker->ctl('set_vm_memory_high_watermark', '0.4');
wait_published($node);
my $minutes =
  query(
	"SELECT extract(epoch FROM clock_timestamp() - '$blocked_at')::int / 60");
foreach my $line ('is blocked', 'is no longer blocked')
{
	cmp_ok(
		scalar(
			() =
			  slurp_file($node->logfile) =~
			  /cqrs publisher $line by the broker/g),
		'<=',
		1 + $minutes,
		"once a minute at most: $line");
}

# Silence.
$broker->suspend;
wait_for_stats($node,
	q{last_error = 'connection lost: nothing came from the broker for 4 s'});
pass('a silent broker is given up');
query(q{INSERT INTO blob (data) VALUES ('later')});
$broker->resume;
wait_published($node);
is((arrived_keys($broker, 'replica'))[-1],
	23, 'and found again when it is back');

$node->stop;
done_testing();
