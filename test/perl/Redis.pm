
=pod

=head1 NAME

Redis - a private Redis server for tests

=head1 SYNOPSIS

  use Redis;

  my $broker = Redis->new('main');    # chooses a port; nothing runs yet
  $broker->start;
  print $broker->url;                 # redis://127.0.0.1:PORT/0
  $broker->bind('queue', 'author');
  my @messages = $broker->drain('queue');
  print $broker->command('CONFIG', 'SET', 'maxmemory', '10mb');
  $broker->kill9;
  $broker->start;
  $broker->suspend;                   # SIGSTOP
  $broker->resume;                    # SIGCONT
  $broker->stop;

=head1 DESCRIPTION

Every server has its own directory, and listens on 127.0.0.1 only.  Each write
is in its append-only file before the reply, unless configured otherwise.  Its
port and its data survive stop, kill9 and start.  Servers end with the object
or with the process that created it.  Only processes that were started here
are ever signalled.

=cut

package Redis;

use strict;
use warnings;

use Carp;
use File::Path qw(make_path);
use File::Temp ();
use IO::Socket::INET;
use JSON::PP     ();
use MIME::Base64 ();
use POSIX        qw(:sys_wait_h);
use RabbitMQ;

my $SEPARATOR       = "\x06\x16";
my $START_TIMEOUT_S = 60;
my $STOP_TIMEOUT_S  = 30;
my $json            = JSON::PP->new->utf8->allow_bignum;

=head1 METHODS

=over

=item Redis->new($name, %params)

C<config>: more lines of redis.conf.  C<dir>: the server's directory, by
default one under TESTDIR's F<tmp_check>, or a temporary one.

=cut

sub new
{
	my ($class, $name, %params) = @_;
	my $dir = $params{dir};

	$dir //= "$ENV{TESTDIR}/tmp_check/redis_$name" if defined $ENV{TESTDIR};
	$dir //= File::Temp::tempdir(
		"redis_${name}_XXXX",
		TMPDIR  => 1,
		CLEANUP => 1);
	make_path($dir);
	my $self = bless {
		name      => $name,
		owner_pid => $$,
		dir       => $dir,
		port      => RabbitMQ::free_port(),
		pid       => undef }, $class;
	open my $fh, '>', "$dir/redis.conf"
	  or croak "could not create $dir/redis.conf: $!";
	print $fh <<"END";
bind 127.0.0.1
port $self->{port}
dir $dir
logfile $dir/redis.log
daemonize no
# A title is written over the environment, which has the mark of the run that is to
# end this process.
set-proc-title no
save ""
appendonly yes
appendfsync always
@{[ $params{config} // '' ]}
END
	close $fh or croak "could not write $dir/redis.conf: $!";
	return $self;
}

=item $broker->name, dir, port, pid, log_file, url($database)

What they say; pid is undefined while the server is down.

=cut

sub name     { return $_[0]->{name}; }
sub dir      { return $_[0]->{dir}; }
sub port     { return $_[0]->{port}; }
sub pid      { return $_[0]->{pid}; }
sub log_file { return "$_[0]->{dir}/redis.log"; }

sub url
{
	my ($self, $database) = @_;
	return "redis://127.0.0.1:$self->{port}/" . ($database // 0);
}

=item $broker->start, stop, kill9, restart, suspend, resume

As those of RabbitMQ.

=cut

sub start
{
	my ($self) = @_;

	croak "server $self->{name} is running" if $self->{pid};
	my $pid = fork // croak "could not fork: $!";
	if (!$pid)
	{
		if (   open(STDIN, '<', '/dev/null')
			&& open(STDOUT, '>>', "$self->{dir}/startup.log")
			&& open(STDERR, '>&', \*STDOUT))
		{
			POSIX::setpgid(0, 0);
			exec 'redis-server', "$self->{dir}/redis.conf";
		}
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	RabbitMQ->poll_until(
		sub {
			croak "server $self->{name} ended, see $self->{dir}/redis.log"
			  unless $self->_is_running;
			return $self->is_ready;
		},
		$START_TIMEOUT_S) or croak "server $self->{name} does not get ready";
	return;
}

sub is_ready
{
	my ($self) = @_;
	my $reply = eval { $self->command('PING') };

	return defined $reply || ($@ // '') =~ /^(NOAUTH|NOPERM)/;
}

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	kill 'CONT', $self->{pid};
	kill 'TERM', $self->{pid};
	$self->_wait_for_end or croak "server $self->{name} does not stop";
	return;
}

sub kill9
{
	my ($self) = @_;

	croak "server $self->{name} is not running" unless $self->{pid};
	kill 'KILL', $self->{pid};
	$self->_wait_for_end or croak "server $self->{name} does not die";
	return;
}

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->start;
	return;
}

sub suspend
{
	my ($self) = @_;
	croak "server $self->{name} is not running" unless $self->{pid};
	RabbitMQ->freeze($self->{pid});
	return;
}

sub resume
{
	my ($self) = @_;
	croak "server $self->{name} is not running" unless $self->{pid};
	kill 'CONT', $self->{pid};
	return;
}

=item $broker->command(@words)

Runs a command on a connection of its own and returns its reply: a string, a
number, undef or, for an array, a reference.  Dies with the text of an error.

=cut

sub command
{
	my ($self, @words) = @_;

	return ($self->commands(\@words))[0];
}

=item $broker->commands(@commands)

Runs several commands, each one a list of words, on one connection.

=cut

sub commands
{
	my ($self, @commands) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $self->{port},
		Timeout  => 5) or croak "could not connect to $self->{name}: $!";
	my @replies;

	binmode $socket;
	foreach my $words (@commands)
	{
		my @bytes =
		  map { my $w = "$_"; utf8::encode($w) if utf8::is_utf8($w); $w }
		  @$words;
		print $socket '*' . @bytes . "\r\n",
		  map { '$' . length($_) . "\r\n$_\r\n" } @bytes;
		$socket->flush;
		push @replies, _read_reply($socket);
	}
	close $socket;
	return @replies;
}

sub _read_reply
{
	my ($socket) = @_;
	my $line = <$socket> // die "the server closed the connection\n";
	my ($type, $rest) = $line =~ /^(.)(.*)\r\n$/ or die "strange reply $line";

	die "$rest\n" if $type eq '-';
	return $rest  if $type eq '+' || $type eq ':';
	return undef  if $rest < 0;
	return [ map { _read_reply($socket) } 1 .. $rest ] if $type eq '*';
	my ($value, $got) = ('', 0);
	while ($got < $rest + 2)
	{
		my $n = read $socket, $value, $rest + 2 - $got, $got;
		die "the server closed the connection\n" unless $n;
		$got += $n;
	}
	return substr $value, 0, $rest;
}

=item $broker->bind($queue, @cqrs_ids)

Binds a queue to these ids, and to the syncs of these to this queue, as Kombu
does for a replica of that name.

=cut

sub bind
{
	my ($self, $queue, @cqrs_ids) = @_;

	$self->bind_key('cqrs', $queue, $_, "cqrs.$queue.$_") foreach @cqrs_ids;
	return;
}

=item $broker->bind_key($exchange, $queue, @keys)

Binds a queue to routing keys of an exchange.

=cut

sub bind_key
{
	my ($self, $exchange, $queue, @keys) = @_;

	$self->commands(
		map {
			[   'SADD', "_kombu.binding.$exchange",
				join($SEPARATOR, $_, '^' . quotemeta($_) . '$', $queue) ]
		} @keys);
	return;
}

=item $broker->queue_length($queue)

How many messages are in a queue.

=cut

sub queue_length
{
	my ($self, $queue) = @_;
	return $self->command('LLEN', $queue);
}

=item $broker->drain($queue)

Takes what waits in a queue, and returns it as CqrsTest's messages() does; the
body of a large message is not decoded.

=cut

sub drain
{
	my ($self, $queue) = @_;
	my ($messages) =
	  $self->commands([ 'LRANGE', $queue, 0, -1 ], [ 'DEL', $queue ]);

	return map { _decode($_) } reverse @$messages;
}

# JSON::PP takes seconds for a large string.
sub _decode
{
	my ($text) = @_;
	my ($body) = $text =~ /\A\{"body": "([^"]*)"/ or croak "strange: $text";

	substr($text, $-[1], length $body) = '';
	my $envelope   = $json->decode($text);
	my $properties = $envelope->{properties};
	my $raw        = MIME::Base64::decode($body);

	return {
		envelope    => $envelope,
		exchange    => $properties->{delivery_info}{exchange},
		routing_key => $properties->{delivery_info}{routing_key},
		properties  => $properties,
		raw         => $raw,
		body        => length $raw > 100_000
		? undef
		: eval { $json->decode($raw) } };
}

=back

=cut

sub _wait_for_end
{
	my ($self) = @_;

	RabbitMQ->poll_until(sub { return !$self->_is_running }, $STOP_TIMEOUT_S)
	  or return 0;
	$self->{pid} = undef;
	return 1;
}

# Whether the server runs; collects it when it has ended.
sub _is_running
{
	my ($self) = @_;
	return 0 unless $self->{pid};
	return waitpid($self->{pid}, WNOHANG) == 0;
}

sub DESTROY
{
	my ($self) = @_;

	return unless $$ == $self->{owner_pid} && $self->{pid};
	local ($?, $!, $@);
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

1;
