# A fast shutdown of the server takes less than two seconds, whatever the
# broker does or does not do.
use strict;
use warnings;
use feature 'state';

use CqrsTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $LIMIT_S = 2;

my $broker = RabbitMQ->new('stop');
$broker->start;
my $node = new_master('stop', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '500ms'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE blob (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('blob')});
declare_queue($broker, 'replica', 'blob');

# Writes so many messages of so many bytes, in one transaction.
sub insert
{
	my ($count, $bytes) = @_;

	$node->safe_psql('postgres',
		"INSERT INTO blob (data) SELECT repeat('x', $bytes) FROM generate_series(1, $count)"
	);
	return;
}

# Stops the server and measures that, and starts it again.
sub restart_node
{
	my ($what) = @_;
	my $start = time;

	$node->stop('fast');
	my $elapsed = time - $start;
	note sprintf '%s: %.2f s', $what, $elapsed;
	cmp_ok($elapsed, '<', $LIMIT_S, "stops within $LIMIT_S s: $what");
	return;
}

# Whether the socket of a process to the broker takes no more data: then its
# queue of unsent bytes is not empty and does not change.
sub send_waits
{
	state $before = -1;
	my $port   = sprintf '%04X', $broker->port;
	my ($size) = slurp_file('/proc/net/tcp') =~
	  /^\s*\d+: \S+ 0100007F:$port 01 ([0-9A-F]{8}):/m;
	my $stuck = defined $size && hex($size) > 0 && $size eq $before;
	$before = $size // -1;
	return $stuck;
}

sub set_url
{
	my ($url) = @_;
	$node->append_conf('postgresql.conf', "cqrs.url = '$url'");
	return;
}

wait_for_state($node, 'publishing');
restart_node('idle');

$node->start;
wait_for_state($node, 'publishing');
$node->safe_psql('postgres',
	q{INSERT INTO blob (data) SELECT 'x' FROM generate_series(1, 20000)});
wait_for_stats($node, 'confirmed > 0 AND pending > 0');
restart_node('publishing');

$node->start;
wait_published($node);
my %seen;
$seen{$_} = 1 foreach arrived_keys($broker, 'replica');
is(scalar(keys %seen), 20000, 'nothing was lost by the stop');

# Frozen while publishing: the window is full.
my $base = $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
$broker->suspend;
insert(5000, 10);
wait_for_stats($node, "published >= $base + 2000");
restart_node('broker frozen, window full');
$broker->resume;

# Frozen while publishing: the socket is full, and the send waits.
$node->start;
wait_published($node);
$base = $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
$broker->suspend;
insert(40, 1_000_000);
wait_for_stats($node, "published > $base");
ok(RabbitMQ->poll_until(sub { return send_waits() }, 10),
	'the publisher waits in a send');
my $published =
  $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
cmp_ok($published - $base, '<', 40, 'not everything could be sent');
restart_node('broker frozen, socket full');

# Frozen before the publisher connects: the handshake hangs.
$node->start;
wait_for_stats($node, q{state = 'connecting'});
$base = $node->safe_psql('postgres', 'SELECT confirmed FROM cqrs.stats');
restart_node('broker frozen, handshake hangs');
$broker->resume;

# All that was held up arrives.
$node->start;
wait_published($node);
is( $node->safe_psql(
		'postgres', "SELECT state, confirmed > $base FROM cqrs.stats"),
	'publishing|t',
	'everything is published once the broker answers again');
$broker->ctl('purge_queue', 'replica');

# An alarm: the broker reads nothing of those that publish.  From RabbitMQ 4.2 on, a
# publisher that connects publishes to see whether the leases of lanes are free.
my ($version) = $broker->ctl('version') =~ /^(\d+\.\d+)/m;
my $kept_out =
  $version >= 4.2
  ? q{last_error LIKE '%the broker accepts no messages%'}
  : 'false';
$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
insert(10, 10);
wait_for_state($node, 'blocked');
insert(10, 10);
my ($confirmed, $pending) =
  split /\|/,
  $node->safe_psql('postgres', 'SELECT confirmed, pending FROM cqrs.stats');
cmp_ok($pending, '>', 0, 'messages wait while the broker blocks');
restart_node('blocked by a memory alarm');
$node->start;
insert(40, 1_000_000);
wait_for_stats($node, "state = 'blocked' OR $kept_out");
$base = $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
restart_node('blocked by a memory alarm, with large messages');
$node->start;
wait_for_stats($node, "published > $base OR $kept_out");
$broker->ctl('set_vm_memory_high_watermark', '0.4');
wait_published($node);
wait_for_state($node, 'publishing');
my $rows = $node->safe_psql('postgres', 'SELECT max(id) FROM blob');
%seen = ();
$seen{$_} = 1 foreach arrived_keys($broker, 'replica');
is(join(',', grep { !$seen{$_} } $rows - 59 .. $rows),
	'', 'everything arrives after the alarm');

# The other alarm.
$broker->ctl('set_disk_free_limit', '100000GB');
insert(10, 10);
wait_for_state($node, 'blocked');
like(
	slurp_file($node->logfile),
	qr/cqrs publisher is blocked by the broker: .*disk/,
	'the log has the words of the broker');
restart_node('blocked by a disk alarm');
$node->start;
insert(10, 10);
wait_for_stats($node, "state = 'blocked' OR $kept_out");
$broker->ctl('set_disk_free_limit', '1MB');
wait_published($node);
wait_for_state($node, 'publishing');
%seen = ();
$seen{$_} = 1 foreach arrived_keys($broker, 'replica');
is(join(',', grep { !$seen{$_} } $rows + 1 .. $rows + 20),
	'', 'everything arrives after the disk alarm');

# No broker.
$broker->stop;
wait_for_state($node, 'waiting');
restart_node('broker down');

# Something that accepts connections and never says a word.
my $hole = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 5) or BAIL_OUT("could not listen: $!");
set_url('amqp://guest:guest@127.0.0.1:' . $hole->sockport);
$node->start;
wait_for_stats($node, q{state = 'connecting'});
restart_node('no answer from the address');

# Something that does not even accept: the queue of the socket is full.
my $full = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 1) or BAIL_OUT("could not listen: $!");
my @fillers = map {
	IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $full->sockport,
		Blocking => 0)
} 1 .. 4;
set_url('amqp://guest:guest@127.0.0.1:' . $full->sockport);
$node->start;
wait_for_stats($node, q{state = 'connecting'});
restart_node('the address does not accept');

# A name server that does not answer: getaddrinfo() hangs.
my $shim = "$PostgreSQL::Test::Utils::tmp_check/hang";
append_to_file("$shim.c", <<'END');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *,
						 struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	while (node && strcmp(node, "broker.invalid") == 0 &&
		   !(hints->ai_flags & AI_NUMERICHOST))
		pause();
	return real(node, service, hints, result);
}
END
system_or_bail('cc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c");
set_url('amqp://guest:guest@broker.invalid');
{
	local $ENV{LD_PRELOAD} = "$shim.so";
	$node->start;
}
wait_for_stats($node, q{state = 'connecting'});
is( $node->safe_psql(
		'postgres', q{SELECT state, query FROM pg_stat_activity
		WHERE backend_type = 'cqrs publisher'}),
	'active|connecting to the broker',
	'pg_stat_activity shows it');
restart_node('the name server does not answer');

done_testing();
