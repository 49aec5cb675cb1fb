# Redis: queues that are full, and a cluster, which is refused.
use strict;
use warnings;

use CqrsTest;
use RabbitMQ;
use Redis;
use Test::More;

my $broker = Redis->new('limits');
$broker->start;
my $node = new_master('limits', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '300ms'
cqrs.queue_limit = 500
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub configure
{
	my ($line) = @_;

	$node->append_conf('postgresql.conf', $line);
	$node->reload;
	return;
}

query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	CREATE TABLE book (id int PRIMARY KEY, title text);
	SELECT cqrs_register('book')});
$broker->bind('full', 'author');
$broker->bind('copy', 'author');
$broker->bind('free', 'book');
wait_for_state($node, 'publishing');

# One queue reaches the limit, within a batch; another master flows on.
query(
	q{INSERT INTO author SELECT i, 'a' FROM generate_series(1, 200) i;
	INSERT INTO author SELECT i, 'a' FROM generate_series(201, 333) i});
wait_published($node);
$broker->drain('copy');
my $connected = query('SELECT connected_at FROM cqrs.stats');
query(
	q{INSERT INTO author SELECT i, 'a' FROM generate_series(334, 1000) i;
	UPDATE author SET name = 'b' WHERE id > 300});
wait_for_stats(
	$node,
	q{held = 1 AND pending = 1200 AND last_error ~ 'queue "full" has reached cqrs.queue_limit'},
	'the master is held');
is($broker->queue_length('full'), 500, 'the queue has as many as the limit');
is($broker->queue_length('copy'),
	500 - 333, 'no other queue gets what one cannot take');
query(q{INSERT INTO book SELECT i, 'b' FROM generate_series(1, 400) i});
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('free') == 400 }, 60),
	'another master flows on');
is(query('SELECT connected_at FROM cqrs.stats'),
	$connected, 'by the same connection');

# As its consumer takes messages, the rest arrives, in order.
my @expected = map { [ 'author', $_, 0 ] } 1 .. 1000;
push @expected, map { [ 'author', $_, 1 ] } 301 .. 1000;
my %received = (full => [], copy => []);
ok( RabbitMQ->poll_until(
		sub {
			push @{ $received{$_} }, $broker->drain($_)
			  foreach keys %received;
			return query('SELECT pending FROM cqrs.stats') == 0;
		},
		60),
	'all messages are published by and by');
push @{ $received{full} }, $broker->drain('full');
is(join("\n", ledger_errors($received{full}, \@expected)), '', 'in order');

# A limit that is raised takes effect at once.
query(q{INSERT INTO author SELECT i, 'a' FROM generate_series(2001, 2600) i});
wait_for_stats($node, 'held > 0', 'held again');
configure('cqrs.queue_limit = 0');
wait_for_stats($node, 'pending = 0', 'without limit');
is($broker->queue_length('full'), 600, 'all are there');

# A queue that can be looked at and not written to, beside one that takes all: what
# the latter got before is sent again.
$broker->command(
	qw(ACL SETUSER limited on >pw ~cqrs.* ~_kombu.* ~a_first %R~b_readonly ~free +@all)
);
$broker->command('DEL', '_kombu.binding.cqrs');
$broker->bind($_,     'author') foreach qw(a_first b_readonly);
$broker->bind('free', 'book');
$broker->drain('free');
configure(
	"cqrs.url = 'redis://limited:pw\@127.0.0.1:@{[ $broker->port ]}/0'");
query(
	q{INSERT INTO author SELECT i, 'a' FROM generate_series(3001, 3300) i;
	INSERT INTO book SELECT i, 'a' FROM generate_series(3001, 3300) i});
wait_for_stats(
	$node,
	q{held = 1 AND last_error ~ 'could not publish' AND pending >= 300},
	'its master is held');
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('free') == 300 }, 60),
	'another one flows on');
is($broker->queue_length('b_readonly'), 0, 'nothing is written');
$broker->command(qw(ACL SETUSER limited ~b_readonly));
wait_for_stats($node, 'pending = 0', 'with the permission');
@expected = map { [ 'author', $_, 0 ] } 3001 .. 3300;
is(join("\n", ledger_errors([ $broker->drain($_) ], \@expected)),
	'', "all have arrived in order: $_")
  foreach qw(a_first b_readonly);

# A cluster, also one that has all slots.
my $cluster = Redis->new('cluster', config => 'cluster-enabled yes');
$cluster->start;
configure("cqrs.url = '@{[ $cluster->url ]}'");
query(q{INSERT INTO author VALUES (9000, 'c')});
wait_for_stats(
	$node,
	q{last_error ~ 'is a Redis Cluster, which is not supported: CLUSTERDOWN'},
	'a cluster without slots');
$cluster->command(qw(CLUSTER ADDSLOTSRANGE 0 16383));
wait_for_stats(
	$node,
	q{last_error ~ 'is a Redis Cluster, which is not supported: (CROSSSLOT|ERR.*(same slot|cluster))'},
	'a cluster');
configure("cqrs.url = '@{[ $cluster->url(1) ]}'");
wait_for_stats(
	$node,
	q{last_error ~ 'is a Redis Cluster, which is not supported: ERR SELECT'},
	'another database of a cluster');
$cluster->stop;

done_testing();
