
=pod

=head1 NAME

TransportTest - a transport, called from SQL without the rest of the library

=head1 SYNOPSIS

  use TransportTest;

  my $node = start_node($broker->url);
  my @results = run(
      publisher(1), publish(1, 'author', 'a', 'b'),
      consumer(0),
      q{subscribe | 0 | 'shop' | 10}, next_of(0, 3));
  is($results[-1], delivery(2, 'author', 'b'), 'in order');

=head1 DESCRIPTION

The functions are those of test/tools/transport.c, with "t_" before their
names.

=cut

package TransportTest;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(
  start_node
  run
  consumer
  publisher
  publish
  next_of
  delivery
  conform
  $WAIT
);

# Milliseconds that a call waits for an event at most.
our $WAIT = 60_000;

# The largest body that is tried.
my $LARGE = 16 * 1024 * 1024;

my ($node, $url);

my %functions = (
	connect =>
	  'number int, url text, consumes bool, lease text, vacant text[], max_delivery int, timeout_ms int, heartbeat_s int',
	close       => 'number int, politely bool',
	publish     => 'number int, key text, id text, body text',
	prepare     => 'number int, queue text, bindings text[], quorum bool',
	unbind      => 'number int, queue text, bindings text[]',
	delete      => 'number int, queue text',
	subscribe   => 'number int, queue text, size int',
	unsubscribe => 'number int',
	acknowledge => 'number int, tag int',
	read_mark   => 'number int, name text',
	write_mark  => 'number int, name text, mark text',
	next        => 'number int, timeout_ms int');

=head1 FUNCTIONS

=over

=item start_node($url)

Starts a server with the functions; connections are to that URL, unless a
parameter names another one.

=cut

sub start_node
{
	($url) = @_;
	$node = PostgreSQL::Test::Cluster->new('plain');
	$node->init(extra => [ '-E', 'UTF8' ]);
	$node->start;
	$node->safe_psql(
		'postgres',
		join '',
		map {
			"CREATE FUNCTION t_$_($functions{$_}) RETURNS text
				AS '$ENV{CQRS_TRANSPORT}', 'transport_$_' LANGUAGE C;\n"
		} sort keys %functions);
	$node->safe_psql('postgres',
		"CREATE FUNCTION t_memory() RETURNS bigint AS '$ENV{CQRS_TRANSPORT}', 'transport_memory' LANGUAGE C"
	);
	return $node;
}

=item run(@calls)

Calls functions in a session of their own, and returns their lines.  A call
begins with the name of a function and the number of a connection; the parts
are separated by " | ".

=cut

sub run
{
	my @calls = @_;
	my $sql   = join '', map {
		my ($name, @arguments) = split / \| /;
		"SELECT t_$name(" . join(', ', @arguments) . ");\n"
	} @calls;
	my ($status, $out, $error) = $node->psql('postgres', $sql);
	return split /\n/, $out . ($error ne '' ? "\n$error" : '');
}

=item consumer($number, %params), publisher($number, %params)

Calls that make a connection.  C<url>, C<lease>, C<vacant>, C<max>, C<timeout>,
C<heartbeat>.

=cut

sub consumer
{
	my ($number, %params) = @_;
	return
	  sprintf q{connect | %d | '%s' | true | '%s' | '{%s}' | %d | %d | %d},
	  $number, $params{url} // $url, $params{lease} // '',
	  $params{vacant}  // '',     $params{max}       // 20_000_000,
	  $params{timeout} // 20_000, $params{heartbeat} // 10;
}

sub publisher
{
	my ($number, %params) = @_;
	return sprintf q{connect | %d | '%s' | false | '' | '{}' | 0 | %d | %d},
	  $number, $params{url} // $url, $params{timeout} // 20_000,
	  $params{heartbeat} // 10;
}

=item publish($number, $key, @bodies), next_of($number, $times)

Calls that publish and wait for the confirms; that wait for events.

=cut

sub publish
{
	my ($number, $key, @bodies) = @_;
	return map {
		(   "publish | $number | '$key' | 'id $_' | '$_'",
			"next | $number | $WAIT")
	} @bodies;
}

sub next_of
{
	my ($number, $times) = @_;
	return ("next | $number | $WAIT") x ($times // 1);
}

=item delivery($tag, $key, $body, %params)

The line of a delivery.  C<count>, C<redelivered>, C<id>, C<length>.

=cut

sub delivery
{
	my ($tag, $key, $body, %params) = @_;
	return sprintf 'delivery %d %d%s %s %s %d %s', $tag, $params{count} // 0,
	  $params{redelivered} ? ' redelivered' : '', $key,
	  $params{id} // "id $body", $params{length} // length $body,
	  substr $body, 0, 20;
}

=item conform($broker, %ways)

Tests what all transports have in common, with a broker of RabbitMQ's or
Redis's.  What differs is in C<ways>: C<wrong_url>, of a user who is not let in;
C<block> and C<unblock>, functions that have the broker take no messages, and
take them again; C<take_lease> and C<give_lease>, the same with a lease of that
name and another owner, unless another connection is one.

=back

=cut

sub conform
{
	my ($broker, %ways) = @_;

	run(consumer(0), q{prepare | 0 | 'shop' | '{cqrs author}' | false});
	_refused($broker, %ways);
	_published();
	_consumed($broker);
	_large($broker);
	_blocked(%ways);
	_leased(%ways);
	_frozen($broker);
	_lost($broker);
	run(consumer(0), q{delete | 0 | 'shop'});
	return;
}

sub _refused
{
	my ($broker, %ways) = @_;
	my $nobody = $broker->url =~ s/:\d+(\/|$)/:1$1/r;

	foreach my $side (\&consumer, \&publisher)
	{
		my ($lost)    = run($side->(0, url => $nobody));
		my ($refused) = run($side->(0, url => $ways{wrong_url}));
		like($lost, qr/^transport: .*Connection refused/, 'nobody listens');
		like(
			$refused,
			qr/^transport: could not log in: /,
			'the login is refused');
		unlike($refused, qr/wr0ng/, 'without the password');
	}
	return;
}

sub _published
{
	my @results = run(
		publisher(1),
		publish(1, 'author', 'a' .. 'f'),
		publish(1, 'nobody', 'r'),
		next_of(1), publish(1, 'author', 'g'));
	is_deeply(
		\@results,
		[   'ok', (map { ('ok', "ack $_") } 1 .. 6),
			'ok',    'returned id r',
			'ack 7', 'ok', 'ack 8' ],
		'messages are confirmed, and returned if there is no queue'
	) or diag explain \@results;
	return;
}

sub _consumed
{
	my ($broker) = @_;
	my @results = run(
		consumer(0),
		q{subscribe | 0 | 'shop' | 1},
		next_of(0, 2),
		q{next | 0 | 300},
		'unsubscribe | 0',
		next_of(0),
		q{subscribe | 0 | 'shop' | 2},
		next_of(0, 3),
		q{next | 0 | 300},
		'acknowledge | 0 | 3',
		next_of(0, 2),
		'unsubscribe | 0',
		'acknowledge | 0 | 4',
		next_of(0),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 3),
		'close | 0 | true');
	is_deeply(
		\@results,
		[   'ok',                       'ok',
			'subscribed',               delivery(1, 'author', 'a'),
			'nothing',                  'ok',
			'cancelled: ',              'ok',
			'subscribed',               delivery(2, 'author', 'b'),
			delivery(3, 'author', 'c'), 'nothing',
			'ok',                       delivery(4, 'author', 'd'),
			delivery(5, 'author', 'e'), 'ok',
			'ok',                       'cancelled: ',
			'ok',                       'subscribed',
			delivery(6, 'author', 'f'), delivery(7, 'author', 'g'),
			'ok' ],
		'in order, a window at a time') or diag explain \@results;
	is($broker->queue_length('shop'), 3, 'what is acknowledged is gone');

	@results = run(
		(   consumer(0),
			q{subscribe | 0 | 'shop' | 10},
			next_of(0, 4),
			'close | 0 | false') x 2,
		consumer(0),
		q{subscribe | 0 | 'shop' | 1},
		next_of(0, 2),
		'unsubscribe | 0',
		next_of(0),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 3),
		'close | 0 | false',
		consumer(0),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 4),
		publisher(1),
		publish(1, 'author', 'h'),
		next_of(0),
		'acknowledge | 0 | 4',
		'close | 0 | true');
	my @again = map { delivery($_->[0], 'author', $_->[1], redelivered => 1) }
	  [ 1, 'e' ], [ 2, 'f' ], [ 3, 'g' ];
	is_deeply([ @results[ 3 .. 5 ] ], \@again, 'what was not comes again');
	is_deeply([ @results[ 17, 22, 23 ] ],
		\@again, 'over two subscriptions, too');
	is_deeply([ @results[ 28 .. 30 ] ], \@again, 'as often as it takes');
	is($results[-3], delivery(4, 'author', 'h'), 'a new one is not marked')
	  or diag explain \@results;
	is($broker->queue_length('shop'), 0, 'acknowledged before the end');
	return;
}

sub _large
{
	my ($broker) = @_;
	my @results = run(
		publisher(1),
		qq{publish | 1 | 'author' | 'large' | repeat('x', $LARGE)},
		next_of(1),
		consumer(0, max => $LARGE),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 2),
		'close | 0 | false',
		consumer(0, max => 1000),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 2),
		'close | 0 | false',
		q{memory},
		consumer(0, max => $LARGE),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 2),
		'acknowledge | 0 | 1',
		'close | 0 | true');
	is($results[6],
		delivery(1, 'author', 'x' x 20, id => 'large', length => $LARGE),
		'16 MB');
	like(
		$results[11],
		qr/^transport: could not consume: message of \d+ bytes.*, more than the \d+ accepted$/,
		'larger than allowed');
	cmp_ok($results[13], '<', 10_000, 'no memory is left behind');
	is($broker->queue_length('shop'), 0, 'a large one is acknowledged');
	return;
}

# Nothing is taken for a while.
sub _blocked
{
	my (%ways)  = @_;
	my $session = _session();
	my $ask     = sub { return _ask($session, $_[0]) };

	$ask->(publisher(1));
	$ways{block}->();
	$ask->(q{publish | 1 | 'author' | 'id i' | 'i'});
	like(
		$ask->("next | 1 | $WAIT"),
		qr/^blocked: /,
		'the broker takes nothing');
	is($ask->('next | 1 | 300'), 'nothing', 'not confirmed meanwhile');
	$ways{unblock}->();
	is_deeply(
		[ sort map { $ask->("next | 1 | $WAIT") } 1 .. 2 ],
		[ 'ack 1', 'event 8' ],
		'and then all');
	is(_ask($session, consumer(0)), 'ok', 'a consumer');
	$ask->(q{subscribe | 0 | 'shop' | 10});
	is($ask->("next | 0 | $WAIT"), 'subscribed', 'subscribes');
	$ways{block}->();
	is( $ask->("next | 0 | $WAIT"),
		delivery(1, 'author', 'i'),
		'consumed while nothing is taken');
	$ask->('acknowledge | 0 | 1');
	is($ask->('next | 0 | 1500'),  'nothing', 'acknowledged too');
	is($ask->('close | 0 | true'), 'ok',      'closed');
	$ways{unblock}->();
	_finish($session);
	return;
}

sub _leased
{
	my (%ways) = @_;
	my $session = _session();

	$ways{take_lease}
	  ? $ways{take_lease}->('mine')
	  : _ask($session, consumer(0, lease => 'mine'));
	my @results = run(consumer(0, lease => 'mine'),
		consumer(0, lease => 'other', vacant => 'mine'));
	like($results[0], qr/^lease: could not/, 'the lease is taken');
	like($results[1], qr/^lease: could not/, 'the lease is not free');
	$ways{give_lease}
	  ? $ways{give_lease}->('mine')
	  : _ask($session, 'close | 0 | true');
	_finish($session);
	@results = run(
		consumer(0, lease => 'mine'),
		'close | 0 | true',
		consumer(1, lease => 'other', vacant => 'mine'));
	is_deeply(\@results, [ ('ok') x 3 ], 'the lease is free again');
	return;
}

# The broker does nothing, and its sockets stay open.
sub _frozen
{
	my ($broker) = @_;
	my $session  = _session();
	my $ask      = sub { return _ask($session, $_[0]) };

	$ask->($_)
	  foreach publisher(0, heartbeat => 1),
	  publisher(1, heartbeat => 1), consumer(2, heartbeat => 1),
	  q{subscribe | 2 | 'shop' | 10}, next_of(2);
	$broker->suspend;
	$ask->(q{publish | 0 | 'author' | 'id j' | 'j'});
	like(
		$ask->("next | 0 | $WAIT"),
		qr/^transport: .*nothing came/,
		'a frozen broker, while a confirm is awaited');
	like(
		$ask->("next | 2 | $WAIT"),
		qr/^transport: .*nothing came/,
		'while deliveries are awaited');
	is($ask->("close | $_ | true"), 'ok', 'a connection to it is closed')
	  foreach 0, 2;

	foreach my $side (\&publisher, \&consumer)
	{
		like(
			$ask->($side->(0, timeout => 500)),
			qr/^transport: .*no answer in time$/,
			'it cannot be connected to');
	}
	$broker->resume;
	_finish($session);
	return;
}

# The broker is killed.
sub _lost
{
	my ($broker) = @_;
	my $session  = _session();
	my $ask      = sub { return _ask($session, $_[0]) };

	$ask->($_)
	  foreach publisher(0), publisher(1), consumer(2),
	  q{subscribe | 2 | 'shop' | 10}, next_of(2), consumer(3);
	$ask->(q{publish | 0 | 'author' | 'id k' | repeat('k', 1000000)});
	$broker->kill9;
	$ask->(q{publish | 1 | 'author' | 'id l' | 'l'});
	my ($event, %ends);
	foreach my $number (0 .. 2)
	{
		# A confirm, and what was delivered, may have come before.
		do { $event = $ask->("next | $number | $WAIT") }
		  until $event !~ /^(ack|delivery)/;
		$ends{$number} = $event;
	}
	like($ends{$_}, qr/^transport: connection lost/, "connection $_ is lost")
	  foreach 0 .. 2;
	like(
		$ask->(q{prepare | 3 | 'shop' | '{cqrs author}' | false}),
		qr/^transport: could not/,
		'while a queue is made ready');
	is($ask->("close | $_ | true"), 'ok', "connection $_ is closed")
	  foreach 0 .. 3;
	$broker->start;
	is_deeply(
		[ map { $ask->($_) } publisher(1), publish(1, 'author', 'm') ],
		[ 'ok', 'ok', 'ack 1' ],
		'the next one works');
	_finish($session);
	return;
}

# A session that lasts while the broker is treated.
sub _session
{
	my $session = { in => '', out => '', err => '' };
	$session->{psql} =
	  IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err});
	return $session;
}

sub _ask
{
	my ($session, $call) = @_;
	my ($name, @arguments) = split / \| /, $call;

	$session->{out} = '';
	$session->{in} .=
	  "SELECT t_$name(" . join(', ', @arguments) . ");\n\\echo the end\n";
	$session->{psql}->pump
	  until $session->{out} =~ s/^the end\n//m
	  || !$session->{psql}->pumpable;
	chomp $session->{out};
	return $session->{out} ne '' ? $session->{out} : $session->{err};
}

sub _finish
{
	my ($session) = @_;

	$session->{in} .= "\\q\n";
	$session->{psql}->finish;
	return;
}

1;
