
# A broker by AMQP that answers all that can be asked, long before it is asked,
# and reads nothing.  A connection that consumes ends when no room is left for
# what it sends; its memory is bounded, and the server goes on.
use strict;
use warnings;

use FakeBroker qw(:frames);
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TransportTest;

my $NOT_READ = qr/^transport: .*the broker does not read what is sent$/m;

# A binding has 700 bytes.
my $KEYS = 20_000;
my $LONG = 250;

my $side_open = method(2, 20, 11, longstr(''));
my $declared  = method(2, 50, 11, shortstr('q') . pack('NN', 0, 0));
my $closed    = method(2, 20, 41);

sub unread
{
	my ($at, $first, $flood) = @_;
	return {
		at     => $at,
		answer => sub {
			my ($connection) = @_;
			$connection->deaf;
			$connection->put($first);
			$connection->flood($flood);
		}
	};
}

my $broker = FakeBroker->new(
	binding => unread(
		'queue.declare',
		$declared . method(2, 40, 11),
		method(2, 50, 21)),
	marks => unread(
		'queue.declare',
		$declared . method(2, 60, 72, shortstr('')) . $closed,
		$side_open . $declared . method(2, 60, 72, shortstr('')) . $closed));
my $node = start_node($broker->url);

$broker->misbehave('binding');
my @lines = run(
	consumer(0),
	sprintf(
		q{prepare | 0 | '%s' | (SELECT array_agg('cqrs ' || lpad(i::text, %d, 'k')) FROM generate_series(1, %d) i) | false},
		'q' x $LONG,
		$LONG, $KEYS),
	'close | 0 | true',
	'memory');
like(join("\n", @lines), $NOT_READ, 'bindings');
cmp_ok($lines[-1], '<', 10_000, 'no memory is kept of bindings');

$broker->misbehave('marks');
@lines = run(
	consumer(0),
	(sprintf q{read_mark | 0 | '%s'}, 'm' x $LONG) x 20_000,
	'close | 0 | true');
my ($first) = grep { $lines[$_] =~ $NOT_READ } 0 .. $#lines;
ok(defined $first, 'requests') or diag "$lines[-2]";
cmp_ok($first // 0, '>', 100, 'for which there was room at first');
is(scalar(grep { !/$NOT_READ/ } @lines[ ($first // 0) .. $#lines - 1 ]),
	0, 'nothing is sent after that');

is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is well');
no_crash($node);
$node->stop;

done_testing();
