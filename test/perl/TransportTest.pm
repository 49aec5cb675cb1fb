
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
use PostgreSQL::Test::Cluster;

our @EXPORT = qw(
  start_node
  run
  consumer
  publisher
  publish
  next_of
  delivery
  $WAIT
);

# Milliseconds that a call waits for an event at most.
our $WAIT = 60_000;

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
		'postgres', join '',
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
	return sprintf q{connect | %d | '%s' | true | '%s' | '{%s}' | %d | %d | %d},
	  $number, $params{url} // $url, $params{lease} // '',
	  $params{vacant}  // '', $params{max} // 20_000_000,
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
		("publish | $number | '$key' | 'id $_' | '$_'",
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

=back

=cut

sub delivery
{
	my ($tag, $key, $body, %params) = @_;
	return sprintf 'delivery %d %d%s %s %s %d %s', $tag, $params{count} // 0,
	  $params{redelivered} ? ' redelivered' : '', $key,
	  $params{id} // "id $body", $params{length} // length $body,
	  substr $body, 0, 20;
}

1;
