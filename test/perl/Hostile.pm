
=pod

=head1 NAME

Hostile - a server whose broker misbehaves

=head1 SYNOPSIS

  use Hostile;

  my $hostile = Hostile->new('name', 500, %misbehaviours);    # as of FakeBroker
  my $key = $hostile->write_row;
  $hostile->misbehave('nonsense');
  $hostile->wait_for_reason('nonsense', qr/nonsense/);
  $hostile->recover($key);

CQRS_SLOW in the environment: how many times slower than usual all is, because
of a sanitizer for instance.

=cut

package Hostile;

use strict;
use warnings;

use CqrsTest;
use FakeBroker;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $SLOW = $ENV{CQRS_SLOW} // 1;

# What the publisher may need beyond what it needed at first.  A sanitizer keeps
# some of what has been freed, and notes on all memory.
my $RSS_ALLOWED_KB = ($SLOW > 1 ? 128 : 48) * 1024;
my $STOP_LIMIT_S   = 2;

# A flood is under way when the broker has sent so much.
my $FLOOD_BYTES = 200_000;

=head1 METHODS

=over

=item Hostile->new($name, $timeout_ms, %misbehaviours), ($name, $timeout_ms, $broker)

A server with the table "item", a master, whose publisher is connected to a
FakeBroker, or to that broker, and waits so long for an answer in the handshake, and twice as long
for a confirm.

=cut

sub new
{
	my ($class, $name, $timeout_ms, @broker) = @_;
	my $broker = @broker == 1 ? $broker[0] : FakeBroker->new(@broker);
	my $connect_timeout_ms = int($timeout_ms * $SLOW);
	my $confirm_timeout_ms = 2 * $connect_timeout_ms;
	my $heartbeat_s        = int(0.5 + $SLOW);
	my $node               = new_master($name, $broker, conf => <<"END");
cqrs.reconnect_delay = '10ms'
cqrs.reconnect_delay_max = '10ms'
cqrs.connect_timeout = '${connect_timeout_ms}ms'
cqrs.confirm_timeout = '${confirm_timeout_ms}ms'
cqrs.heartbeat = '${heartbeat_s}s'
END
	my $self = bless {
		name   => $name,
		broker => $broker,
		node   => $node,
		key    => 0 }, $class;

	$node->safe_psql(
		'postgres', q{
		CREATE TABLE item (id int PRIMARY KEY, data text);
		SELECT cqrs_register('item')});
	$self->open_session;
	$self->write_row;
	wait_published($node);
	$self->{started} = $self->_started;
	$self->{rss_kb}  = $self->rss_kb;
	return $self;
}

sub broker { return $_[0]{broker}; }
sub node   { return $_[0]{node}; }

# Queries are many, and a psql for each would be most of the time.
sub open_session
{
	my ($self) = @_;

	@$self{qw(in out err)} = ('', '', '');
	$self->{psql} =
	  open_psql($self->{node}, \$self->{in}, \$self->{out}, \$self->{err});
	return;
}

sub close_session
{
	my ($self) = @_;

	$self->{psql}->kill_kill;
	return;
}

=item query($sql)

The result of a query, as text.

=cut

sub query
{
	my ($self, $sql) = @_;

	$self->{out} = '';
	$self->{in} .= "$sql;\n\\echo the end\n";
	until ($self->{out} =~ s/^the end\n//m)
	{
		BAIL_OUT("$sql: $self->{err}") unless $self->{psql}->pumpable;
		$self->{psql}->pump;
	}
	chomp $self->{out};
	return $self->{out};
}

=item write_row($bytes)

Commits a row, of that size, and returns its key.

=cut

sub write_row
{
	my ($self, $bytes) = @_;
	my $key  = ++$self->{key};
	my $size = $bytes // 10;

	$self->query("INSERT INTO item VALUES ($key, repeat('x', $size))");
	return $key;
}

=item misbehave($name)

Has the broker misbehave from now on.

=cut

sub misbehave
{
	my ($self, $name) = @_;

	$self->{since} = $self->query('SELECT clock_timestamp()');
	$self->{broker}->misbehave($name);
	return;
}

=item configure($lines)

Changes settings.

=cut

sub configure
{
	my ($self, $lines) = @_;

	$self->{node}->append_conf('postgresql.conf', $lines);
	$self->query('SELECT pg_reload_conf()');
	return;
}

=item wait_for_reason($name, $reason)

Waits until the broker has misbehaved, and the publisher has failed for that
reason since.

=cut

sub wait_for_reason
{
	my ($self, $name, $reason) = @_;

	$self->wait_for_hit($name);
	return $self->wait_until(
		"SELECT last_error FROM cqrs.lanes WHERE last_error_at > '$self->{since}'",
		$reason);
}

=item wait_for_hit($name)

Waits until the broker has misbehaved.

=cut

sub wait_for_hit
{
	my ($self, $name) = @_;

	RabbitMQ->poll_until(sub { return $self->{broker}->hits > 0 }, 60 * $SLOW)
	  or BAIL_OUT("$name: the broker was not met");
	return;
}

=item wait_until($sql, $pattern)

Waits until the result of a query matches, and returns it.

=cut

sub wait_until
{
	my ($self, $sql, $pattern) = @_;
	my $seen;

	RabbitMQ->poll_until(
		sub {
			$seen = $self->query($sql);
			return $seen =~ $pattern;
		},
		60 * $SLOW) or BAIL_OUT("$sql: \"$seen\", not $pattern");
	return $seen;
}

=item recover($key)

Has the broker behave, and waits until the row has arrived.

=cut

sub recover
{
	my ($self, $key, $name) = @_;

	$self->{broker}->behave;
	$self->query('SELECT cqrs_retry_parked(), pg_reload_conf()');
	RabbitMQ->poll_until(
		sub {
			return 1 if $self->{broker}->has_received($key);
			$self->query('SELECT cqrs_retry_parked(), pg_reload_conf()')
			  if $self->query('SELECT held + parked FROM cqrs.stats') > 0;
			return 0;
		},
		60 * $SLOW)
	  or BAIL_OUT(
		"$name: no recovery; " . $self->query('SELECT * FROM cqrs.lanes'));
	return;
}

=item rss_kb()

The publisher's memory, shared memory apart.

=cut

sub rss_kb
{
	my ($self)   = @_;
	my $pid      = $self->query('SELECT pid FROM cqrs.lanes');
	my $status   = slurp_file("/proc/$pid/status");
	my ($rss_kb) = $status =~ /^RssAnon:\s*(\d+)/m;

	return $rss_kb;
}

sub _started
{
	my ($self) = @_;
	return $self->query(
		'SELECT pg_postmaster_start_time(), started_at FROM cqrs.lanes');
}

=item check_alive()

Tests that server and publisher are those of the beginning, and as large.

=cut

sub check_alive
{
	my ($self) = @_;

	is($self->_started, $self->{started},
		'the server and the publisher have run on');
	no_crash($self->{node});
	cmp_ok(
		$self->rss_kb, '<',
		$self->{rss_kb} + $RSS_ALLOWED_KB,
		'the memory of the publisher is bounded');
	is( $self->query(
			q{SELECT last_error = convert_from(convert_to(last_error, 'UTF8'), 'UTF8')
			FROM cqrs.lanes}),
		't',
		'the last error is text');
	return;
}

=item check_secret()

Tests that the password of the broker, s3cret, is in no log and no view.

=cut

sub check_secret
{
	my ($self) = @_;

	unlike(slurp_file($self->{node}->logfile),
		qr/s3cret/, 'no password in the log');
	unlike(
		$self->query(
			q{SELECT string_agg(query_to_xml(format('SELECT * FROM %I.%I', schemaname, viewname), true, true, '')::text, '')
			FROM pg_views WHERE schemaname = 'cqrs'}),
		qr/s3cret/,
		'no password in a view');
	return;
}

=item check_stop($name, $bytes)

Tests that the server stops in time while the broker misbehaves so, a flood
being under way if it is one, and that it publishes when it has been started
again.

=cut

sub check_stop
{
	my ($self, $name, $bytes) = @_;

	$self->misbehave($name);
	$self->write_row($bytes);
	RabbitMQ->poll_until(
		sub {
			return $self->{broker}->hits > 0
			  && ($name !~ /flood/ || $self->{broker}->sent > $FLOOD_BYTES);
		},
		60 * $SLOW) or BAIL_OUT("$name: the broker was not met");
	$self->close_session;
	my $start = time;
	$self->{node}->stop('fast');
	cmp_ok(time - $start, '<', $STOP_LIMIT_S * $SLOW, "$name: stop in time");
	$self->{broker}->behave;
	$self->{node}->start;
	$self->open_session;

	# The broker may have confirmed the other one before it misbehaved.
	$self->recover($self->write_row, $name);
	$self->{started} = $self->_started;
	return;
}

=back

=cut

1;
