# Masters whose route does not work are held and tried again, in order (I8),
# while others flow on: no queue, a full queue, an exchange that is wrong or
# missing.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('held');
$broker->start;
my $node = new_master('held', $broker, conf => <<'END');
cqrs.unroutable = 'keep'
cqrs.reconnect_delay_max = '300ms'
cqrs.confirm_window = 50
END
my @masters = qw(steady nobody filled wrong secret hot);
foreach my $master (@masters)
{
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE $master (id int PRIMARY KEY, data text);
		SELECT cqrs_register('$master')});
}
declare_queue($broker, 'steady', 'steady');
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# What cqrs_check finds of the broker.
sub broker_finding
{
	return query(
		q{SELECT status || ': ' || detail FROM cqrs_check()
		WHERE item = 'broker'});
}

# So many rows, each changed again twice: more than the window holds.
my %rows;

sub change
{
	my ($master, $count) = @_;
	my $first = ($rows{$master} // 0) + 1;
	my $last  = $rows{$master} = $first + $count - 1;

	query(
		"INSERT INTO $master SELECT i, 'x' FROM generate_series($first, $last) i"
	);
	query("UPDATE $master SET data = 'y' WHERE id >= $first") foreach 1 .. 2;
	return;
}

sub change_with_exchange
{
	my ($master, $exchange, $count) = @_;

	query('SELECT cqrs_pause()');
	wait_for_state($node, 'paused');
	query(qq{SELECT cqrs_alter('$master', '{"exchange": "$exchange"}')});
	change($master, $count);
	query(qq{SELECT cqrs_alter('$master', '{"exchange": null}')});
	query('SELECT cqrs_resume()');
	return;
}

# All changes of a master arrive in its queue, and of each row in order.
sub arrives
{
	my ($master, $what) = @_;
	my @messages = drain_queue($broker, $master);
	my @expected;

	foreach my $row (1 .. $rows{$master})
	{
		push @expected, map { [ $master, $row, $_ ] } 0 .. 2;
	}
	is(join("\n", ledger_errors(\@messages, \@expected)), '', $what);
	return scalar @messages;
}

sub exchange
{
	my ($name) = @_;
	return qq{rabbit_misc:r(<<"/">>, exchange, <<"$name">>)};
}

sub steady_flows
{
	my ($what) = @_;
	my $before = $rows{steady} // 0;

	change('steady', 20);
	ok( RabbitMQ->poll_until(
			sub { return $broker->queue_length('steady') >= 60 }, 60),
		"another master flows: $what");
	my @messages = drain_queue($broker, 'steady');
	my @expected;
	foreach my $row ($before + 1 .. $rows{steady})
	{
		push @expected, map { [ 'steady', $row, $_ ] } 0 .. 2;
	}
	is(join("\n", ledger_errors(\@messages, \@expected)),
		'', "all of it: $what");
	return;
}

# No queue.
my $offset = -s $node->logfile;
my $began  = time;
change('nobody', 100);
wait_for_stats($node, 'held = 1');
steady_flows('no queue is bound');
wait_for_stats($node, 'held = 1 AND pending >= 300');
like(
	query('SELECT last_error FROM cqrs.stats'),
	qr/^master "nobody": no queue is bound/,
	'last_error says why');
like(
	broker_finding(),
	qr/^error: connected, but 1 masters are held, last error: master "nobody": no queue/,
	'so does cqrs_check');
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /messages of master "nobody" are held/g),
	1,
	'it is logged once');
declare_queue($broker, 'nobody', 'nobody');
wait_published($node);
is(query('SELECT held, parked FROM cqrs.stats'),
	'0|0', 'nothing is held once a queue is bound');
is(arrives('nobody', 'all of it arrives, in order'), 300,
	'each message once');

# Again at once: it is held, and the log says nothing new.
$broker->ctl('delete_queue', 'nobody');
change('nobody', 1);
wait_for_stats($node, 'held = 1');
declare_queue($broker, 'nobody', 'nobody');
wait_published($node);
foreach my $line ('held:', 'published again')
{
	cmp_ok(
		scalar(
			() =
			  slurp_file($node->logfile, $offset) =~
			  /messages of master "nobody" are $line/g),
		'<=',
		1 + int((time - $began) / 60),
		"once a minute at most: $line");
}

# A full queue.
declare_queue($broker, 'filled', 'filled');
$broker->ctl('set_policy', 'full', '^filled$',
	'{"max-length":10,"overflow":"reject-publish"}',
	'--apply-to', 'queues');
change('filled', 50);
wait_for_stats($node, 'held = 1 AND nacked > 0');
steady_flows('a queue is full');
like(
	query('SELECT last_error FROM cqrs.stats'),
	qr/^master "filled": .*basic\.nack/,
	'last_error says so');
$broker->ctl('clear_policy', 'full');
wait_published($node);
arrives('filled', 'a full queue gets all, in order, when there is room');

# One row that is changed all the time, and a queue that has no room for large
# messages and some for small ones: it takes what was under way behind a message
# that it refuses.  All of that comes again behind that one, so the last arrivals
# have the order of the commits, and nothing is missing.
declare_queue($broker, 'hot', 'hot');
$broker->ctl('set_policy', 'full', '^hot$',
	'{"max-length-bytes":10000,"overflow":"reject-publish"}',
	'--apply-to', 'queues');
query(q{INSERT INTO hot VALUES (1, 'x')});
my $writers = start_pgbench(
	$node,
	'postgres',
	"UPDATE hot SET data = repeat('x', 6000 * (random() < 0.2)::int) WHERE id = 1;\n",
	'-c',
	4,
	'-R',
	100);
my $nacked = query('SELECT nacked FROM cqrs.stats');
my @hot;
RabbitMQ->poll_until(
	sub {
		push @hot, drain_queue($broker, 'hot');
		return query("SELECT nacked >= $nacked + 300 FROM cqrs.stats") eq 't';
	},
	60) or BAIL_OUT('the queue does not refuse enough');
stop_pgbench($node, $writers);
$broker->ctl('clear_policy', 'full');
wait_published($node);
push @hot, drain_queue($broker, 'hot');
my %last;
$last{ $hot[$_]{body}{instance_data}{cqrs_revision} } = $_ foreach 0 .. $#hot;
is( join(',', sort { $last{$a} <=> $last{$b} } keys %last),
	join(',', 0 .. query('SELECT cqrs_revision FROM hot')),
	'a hot row under refusals: all of it arrives, in the end in order');
cmp_ok(
	scalar(@hot), '>',
	scalar(keys %last),
	'what was taken behind a refused message has come again');

# An exchange of another type.
$broker->ctl('eval',
		'rabbit_exchange:declare('
	  . exchange('wrong')
	  . ', fanout, true, false, false, [], <<"test">>).');
change_with_exchange('wrong', 'wrong', 30);
wait_for_stats($node, 'held = 1');
like(
	query('SELECT last_error FROM cqrs.stats'),
	qr/declare the exchange: broker closed the channel: 406 .*type/,
	'an exchange of another type');
steady_flows('an exchange is of another type');
$broker->ctl('eval',
	'rabbit_exchange:delete(' . exchange('wrong') . ', false, <<"test">>).');
wait_for_stats($node, q{last_error LIKE '%no queue is bound%'});
my $consume = $ENV{CQRS_CONSUME};
system_or_bail(
	$consume, '--url',   $broker->url, '--exchange',
	'wrong',  '--queue', 'wrong',      '--bind',
	'wrong',  '--declare-only');
wait_published($node);
arrives('wrong', 'its messages arrive when it is of the right one');

# An exchange that the user may not write to.
$broker->ctl('set_permissions', '-p', '/', 'guest', '.*',
	'^(?!secret$).*', '.*');
change_with_exchange('secret', 'secret', 30);
wait_for_stats($node, 'held = 1');
like(
	query('SELECT last_error FROM cqrs.stats'),
	qr/publish: broker closed the channel: 403 ACCESS_REFUSED/,
	'an exchange that is not permitted');
like(broker_finding(), qr/^error: .*403 ACCESS_REFUSED/,
	'cqrs_check says so');
steady_flows('an exchange is not permitted');
$broker->ctl('set_permissions', '-p', '/', 'guest', '.*', '.*', '.*');
wait_for_stats($node, q{last_error LIKE '%no queue is bound%'});
system_or_bail(
	$consume, '--url',   $broker->url, '--exchange',
	'secret', '--queue', 'secret',     '--bind',
	'secret', '--declare-only');
wait_published($node);
arrives('secret', 'its messages arrive when it is permitted');

# The exchange is deleted while messages flow.
$broker->ctl('eval',
	'rabbit_exchange:delete(' . exchange('cqrs') . ', false, <<"test">>).');
change('steady', 100);
wait_for_stats($node, q{last_error LIKE '%no queue is bound%' AND held = 1});
like(
	slurp_file($node->logfile, $offset),
	qr/broker closed the channel: 404 NOT_FOUND/,
	'a missing exchange');
declare_queue($broker, 'steady', 'steady');
wait_published($node);
is(query('SELECT parked FROM cqrs.stats'), 0, 'none of this parks anything');

$node->stop;
done_testing();
