# The lease as a token (amqp_token.c): whatever a broker does on its channel, the
# publisher ends the connection with a reason, keeps its memory, stops in time,
# and goes on with the next connection.
use strict;
use warnings;

use FakeBroker qw(:frames);
use FakeTokens;
use Hostile;
use PostgreSQL::Test::Utils;
use Test::More;

my $VIOLATION = qr/protocol violation by the broker: /;
my $CHANNEL   = 3;

# A delivery without its content, and a return of what was sent with that key.
sub deliver
{
	return method($CHANNEL, 60, 60,
		shortstr('lease-1') . pack('Q>C', $_[0], 0) . shortstr('') x 2);
}

sub return_of
{
	return method($CHANNEL, 60, 50,
		pack('n', 312) . shortstr('') x 2 . shortstr($_[0]));
}

sub header { return frame(2, $CHANNEL, pack('nnQ>n', @_, 0)); }
sub body   { return frame(3, $CHANNEL, $_[0]); }

sub consume_ok { return method($CHANNEL, 60, 21, shortstr('lease-1')); }

# What can come in the place of any answer on that channel.
my %anything = (
	'header of no token' => [
		header(60, 0, 0), qr/unexpected content on the channel of the lease/
	],
	'body of no token' =>
	  [ body('x'), qr/unexpected content on the channel of the lease/ ],
	'return of nothing' =>
	  [ return_of('cqrs.lease.x'), qr/return of a token whose queue exists/ ],
	'return without arguments' =>
	  [ method($CHANNEL, 60, 50), qr/malformed AMQP_BASIC_RETURN_METHOD/ ],
	'delivery of tag 0' =>
	  [ deliver(0), qr/delivery that was not asked for/ ],
	'delivery of the last possible tag, twice' => [
		join('', (deliver(~0) . header(60, 0, 0)) x 2),
		qr/delivery that was not asked for/ ],
	'delivery without arguments' =>
	  [ method($CHANNEL, 60, 60), qr/malformed AMQP_BASIC_DELIVER_METHOD/ ],
	'delivery to a long tag' => [
		method(
			$CHANNEL, 60, 60,
			shortstr('x' x 255) . pack('Q>C', 1000, 0) . shortstr('') x 2),
		qr/delivery that was not asked for/ ],
	'delivery, then another one' => [
		deliver(1000) . deliver(1001),
		qr/method within the content of a token/ ],
	'header of another class' =>
	  [ deliver(1000) . header(10, 0, 0), qr/unexpected content/ ],
	'header of a body without end' =>
	  [ deliver(1000) . header(60, 0, ~0), qr/unexpected content/ ],
	'header of 512 MB and one' =>
	  [ deliver(1000) . header(60, 0, 2**29 + 1), qr/unexpected content/ ],
	'body that is too long' => [
		deliver(1000) . header(60, 0, 1) . body('xx'),
		qr/unexpected content/ ],
	'body of no bytes' =>
	  [ deliver(1000) . header(60, 0, 1) . body(''), qr/unexpected content/ ],
	'two headers' => [
		deliver(1000) . header(60, 0, 1) . header(60, 0, 1),
		qr/unexpected content/ ],
	'heartbeat' => [ frame(8, $CHANNEL, ''), qr/unexpected content/ ],
	'confirm'   => [
		method($CHANNEL, 60, 80, pack('Q>C', 1, 0)),
		qr/unexpected method on the channel of the lease/ ],
	'unknown method' =>
	  [ method($CHANNEL, 999, 7), qr/unexpected method on the channel/ ],
	'method of the connection' =>
	  [ method($CHANNEL, 10, 61), qr/unexpected method on the channel/ ],
	'basic.cancel' => [
		method($CHANNEL, 60, 30, shortstr('lease-1') . "\0"),
		qr/could not keep the lease: the broker has ended the subscription/ ],
	'close by 405' => [
		method($CHANNEL, 20, 40, close_args(405, 'locked', 50, 10)),
		qr/405 locked/ ],
	'close by 403' => [
		method($CHANNEL, 20, 40, close_args(403, 'refused', 50, 10)),
		qr/403 refused/ ],
	'close by 406' => [
		method($CHANNEL, 20, 40, close_args(406, 'timeout', 60, 80)),
		qr/406 timeout/ ],
	'close with invalid UTF-8' => [
		method($CHANNEL, 20, 40, close_args(541, "\xC3\n\xFF")),
		qr/541 \?\?\?/ ],
	'close without arguments' =>
	  [ method($CHANNEL, 20, 40), qr/malformed AMQP_CHANNEL_CLOSE_METHOD/ ]);

my (%misbehaviours, %reasons);

sub misbehave_at
{
	my ($name, $at, $answer, $reason) = @_;

	$misbehaviours{$name} = { at => $at, answer => $answer };
	$reasons{$name}       = $reason;
	return;
}

foreach my $at (qw(declare bind consume publish qos nack))
{
	foreach my $name (sort keys %anything)
	{
		my ($octets, $reason) = @{ $anything{$name} };

		misbehave_at("$at: $name", "lease.$at", sub { $_[0]->put($octets) },
			$reason);
	}
}
misbehave_at('declare: silence',
	'lease.declare', sub { },
	qr/could not take the lease: no answer in time/);
misbehave_at('consume: silence',
	'lease.consume', sub { },
	qr/could not take the lease: no answer in time/);
misbehave_at(
	'consume: never a token',
	'lease.consume',
	sub { $_[0]->put(consume_ok()) },
	qr/could not take the lease: |connection lost: |^$/);
misbehave_at(
	'consume: twice the answer',
	'lease.consume',
	sub { $_[0]->put(consume_ok() x 2) },
	qr/unexpected method on the channel of the lease/);
misbehave_at('qos: silence', 'lease.qos', sub { },
	qr/could not take the lease of all lanes: no answer in time/);
misbehave_at(
	'qos: twice the answer',
	'lease.qos',
	sub { $_[0]->put(method($CHANNEL, 60, 11) x 2) },
	qr/unexpected method on the channel of the lease/);
misbehave_at('publish: every queue exists',
	'lease.publish', sub { },
	qr/could not take the lease of all lanes: |connection lost: |^$/);

misbehave_at(
	'publish: an alarm',
	'lease.publish',
	sub { $_[0]->put(method(0, 10, 60, shortstr('low on memory'))) },
	qr/could not take the lease of all lanes: the broker accepts no messages: low on memory/
);

# A lane that is connected to an older node of the cluster.
misbehave_at(
	'queue.delete: an exclusive queue',
	'queue.delete',
	sub {
		$_[0]->put(
			method(1, 20, 40, close_args(405, 'RESOURCE_LOCKED', 50, 40)));
	},
	qr/could not take the lease of all lanes: .* 405 RESOURCE_LOCKED/);

# All leases of other lanes seem to have queues, and then a message for one of
# these comes back.
$misbehaviours{'a return while leases are checked'} = {
	anywhere => sub {
		my ($connection, $at, $what, $good) = @_;

		push @{ $connection->{keys} }, $what->{key} if $at eq 'lease.publish';
		return ''    if $at eq 'lease.publish';
		return $good if $at ne 'lease.cancel';
		return join '',
		  (map { return_of($_) . content($CHANNEL, pack('n', 0), '') }
			  @{ $connection->{keys} }),
		  $good;
	}
};
$reasons{'a return while leases are checked'} =
  qr/return of a token whose queue exists/;
misbehave_at(
	'nack: silence', 'lease.nack',
	sub { $_[0]{misbehaved} = 0 },    # heartbeats go on
	qr/could not keep the lease: the broker has given it to another connection/
);
misbehave_at(
	'consume: flood of tokens',
	'lease.consume',
	sub {
		$_[0]->put(consume_ok());
		$_[0]->flood($_[0]->token(tag => 1));
	},
	qr/delivery that was not asked for/);

# Others have published what is large, and the queue keeps it.
$misbehaviours{'large token'} = {
	at     => 'lease.consume',
	answer => sub {
		my ($connection) = @_;

		$connection->{misbehaved} = 0;
		$connection->put(
			consume_ok()
			  . $connection->token(
				content => header(60, 0, 200_000) . body('x' x 100_000) x 2));
	}
};

# The channel of the lease is closed while a message is in flight, and no confirm
# comes.
foreach my $code (403, 406)
{
	$misbehaviours{"$code beside a message"} = {
		at     => 'publish',
		answer => sub {
			$_[0]->put(
				method(
					$CHANNEL, 20, 40,
					close_args($code, 'of the lease', 60, 90)));
		}
	};
}

my $hostile = Hostile->new('lease', 3000, FakeTokens->new(%misbehaviours));
$hostile->configure("cqrs.heartbeat = '1s'\n");
$hostile->recover($hostile->write_row, 'in order');
pass('a lease is taken');

# The wait for a token that has been returned takes half a minute: of these, some.
my $met = 0;
foreach my $name (sort keys %reasons)
{
	next if $name =~ /^nack/ && $name !~ /basic.cancel|two headers/;
	$hostile->misbehave($name);
	my $key    = $hostile->write_row;
	my $reason = $hostile->wait_for_reason($name, $reasons{$name});
	$hostile->recover($key, $name);
	pass("$name: $reason");
	$met++;
}
cmp_ok($met, '>=', 60, 'these are many');
$hostile->check_alive;

# A token that does not come back.
$hostile->misbehave('nack: silence');
$hostile->wait_for_reason('nack: silence', $reasons{'nack: silence'});
pass('a lease that is lost ends the connection');
$hostile->recover($hostile->write_row, 'lost');

is( $hostile->query(
		q{SELECT cqrs.broker_remedy('could not take the lease: the broker accepts no messages: low on memory', 'cqrs.url')}
	),
	'free memory or disk space at the broker',
	'what to do in an alarm');

$hostile->misbehave('large token');
my $key = $hostile->write_row;
RabbitMQ->poll_until(sub { return $hostile->broker->has_received($key) }, 60)
  or BAIL_OUT('no lease by a large token: '
	  . $hostile->query('SELECT last_error FROM cqrs.lanes'));
pass('a lease by a large token');
$hostile->recover($hostile->write_row, 'large token');

foreach my $code (403, 406)
{
	my $name = "$code beside a message";

	$hostile->misbehave($name);
	$key = $hostile->write_row;
	ok(RabbitMQ->poll_until(sub { return $hostile->broker->hits > 3 }, 30),
		"$name: the message is sent again and again");
	is($hostile->query('SELECT parked, held FROM cqrs.stats'),
		'0|0', "$name: it is neither parked nor held");
	$hostile->recover($key, $name);
}

$hostile->check_stop("consume: $_") for 'never a token', 'silence';
$hostile->check_stop('qos: silence');
$hostile->check_alive;
$hostile->close_session;
$hostile->node->stop;

done_testing();
