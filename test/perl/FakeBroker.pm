
=pod

=head1 NAME

FakeBroker - a broker that speaks AMQP 0-9-1, and misbehaves on request

=head1 SYNOPSIS

  use FakeBroker qw(:frames);

  my $broker = FakeBroker->new(
	  nonsense => { at => 'publish', answer => sub { $_[0]->put('nonsense') } });
  my $node = new_master('hostile', $broker);
  $broker->misbehave('nonsense');
  ...
  print $broker->hits;               # how often it did so
  $broker->behave;
  print $broker->has_received(17);   # whether it has confirmed a message

=head1 DESCRIPTION

A process of its own that knows as much of the protocol as publishers and
consumers need: the handshake, the declarations, publishes, which it confirms,
subscriptions to queues that are empty.  It listens on
127.0.0.1 only and ends with the process that created it.

A misbehaviour is a hash.  C<at> names what it takes the place of the answer
to: C<connect>, C<protocol> (the protocol header), a method of the client, such
as C<connection.start-ok>, C<body> (the header of a content with a body), or
C<publish> (a whole message).  C<answer> is called with the connection, and a
hash with the channel and, for a message, the tag, the message id and the body.
C<anywhere> in the place of both is called with each answer of a good broker,
as octets, and returns what is sent instead.

=cut

package FakeBroker;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use POSIX qw(:sys_wait_h);
use RabbitMQ;
use Socket;
use Time::HiRes qw(time);

our (@EXPORT_OK, %EXPORT_TAGS);

BEGIN
{
	@EXPORT_OK =
	  qw(frame method content heartbeat shortstr longstr close_args);
	%EXPORT_TAGS = (frames => \@EXPORT_OK);
}

our $PASSWORD = "s3cret-w\xC3\xB6rd";

my $RECEIVE_BYTES        = 256 * 1024;
my $READ_BYTES           = 1024 * 1024;
my $DRIP_INTERVAL_S      = 0.02;
my $HEARTBEAT_INTERVAL_S = 0.2;

my %METHODS = (
	'10.11'  => 'connection.start-ok',
	'10.31'  => 'connection.tune-ok',
	'10.40'  => 'connection.open',
	'10.50'  => 'connection.close',
	'10.51'  => 'connection.close-ok',
	'20.10'  => 'channel.open',
	'20.40'  => 'channel.close',
	'20.41'  => 'channel.close-ok',
	'40.10'  => 'exchange.declare',
	'50.10'  => 'queue.declare',
	'50.20'  => 'queue.bind',
	'50.40'  => 'queue.delete',
	'60.10'  => 'basic.qos',
	'60.20'  => 'basic.consume',
	'60.30'  => 'basic.cancel',
	'60.70'  => 'basic.get',
	'60.80'  => 'basic.ack',
	'60.120' => 'basic.nack',
	'60.40'  => 'basic.publish',
	'85.10'  => 'confirm.select');

=head1 FRAMES

=over

=item frame($type, $channel, $payload)

=item method($channel, $class, $method, $arguments)

=item content($channel, $properties, $body)

The header, and the body as one frame unless it is empty.  The properties are
encoded: flags and values.

=item heartbeat()

=item shortstr($text), longstr($text)

=item close_args($code, $text, $class, $method)

The arguments of connection.close, channel.close.

=back

=cut

sub frame
{
	my ($type, $channel, $payload) = @_;
	return pack('CnN', $type, $channel, length $payload) . $payload . "\xCE";
}

sub method
{
	my ($channel, $class, $method, $arguments) = @_;
	return frame(1, $channel,
		pack('nn', $class, $method) . ($arguments // ''));
}

sub content
{
	my ($channel, $properties, $body) = @_;
	my $header =
	  frame(2, $channel, pack('nnQ>', 60, 0, length $body) . $properties);

	return $header . (length $body ? frame(3, $channel, $body) : '');
}

sub heartbeat { return frame(8, 0, ''); }
sub shortstr  { return pack('C/a*', $_[0]); }
sub longstr   { return pack('N/a*', $_[0]); }

sub close_args
{
	my ($code, $text, $class, $method) = @_;
	return
		pack('n', $code)
	  . shortstr($text)
	  . pack('nn', $class // 0, $method // 0);
}

=head1 METHODS

=over

=item FakeBroker->new(%misbehaviours)

=cut

sub new
{
	my ($class, %misbehaviours) = @_;
	my $port     = RabbitMQ::free_port();
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => $port,
		Listen    => 20,
		ReuseAddr => 1,
		Blocking  => 0) or croak "could not listen: $!";

	# So that most of a large body waits at the publisher.
	setsockopt $listener, SOL_SOCKET, SO_RCVBUF, pack('i', $RECEIVE_BYTES)
	  or croak "could not set the size of a buffer: $!";
	socketpair(my $control, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
	  or croak "could not create a pair of sockets: $!";
	my $pid = fork() // croak "could not fork: $!";
	if ($pid == 0)
	{
		close $control;
		local $SIG{PIPE} = 'IGNORE';
		my $server = bless {
			listener      => $listener,
			control       => $theirs,
			misbehaviours => \%misbehaviours,
			mode          => undef,
			hits          => 0,
			sent          => 0,
			received      => {},
			class         => "${class}::Connection",
			connections   => {} },
		  'FakeBroker::Server';
		my $done = eval { $server->run; 1 };
		print STDERR "fake broker: $@" unless $done;
		POSIX::_exit($done ? 0 : 1);
	}
	close $theirs;
	close $listener;
	$control->autoflush(1);
	return bless {
		port      => $port,
		pid       => $pid,
		owner_pid => $$,
		control   => $control }, $class;
}

# With a user and a password, which is $FakeBroker::PASSWORD.
sub url { return "amqp://shop:s3cret-w%C3%B6rd\@127.0.0.1:$_[0]{port}"; }
sub pid { return $_[0]{pid}; }

=item misbehave($name), behave()

Close all connections, and treat new ones so.

=cut

sub misbehave { return $_[0]->_ask("mode $_[1]"); }
sub behave    { return $_[0]->_ask('mode'); }

=item hits()

How often it has misbehaved since it was asked to.

=cut

sub hits { return $_[0]->_ask('hits'); }

=item sent()

How many octets it has sent since then.

=cut

sub sent { return $_[0]->_ask('sent'); }

=item has_received($key)

Whether it has confirmed a message of the row with that integer key, all its
misbehaviours apart.

=cut

sub has_received { return $_[0]->_ask("received $_[1]"); }

=back

=cut

sub _ask
{
	my ($self, $command) = @_;

	print { $self->{control} } "$command\n";
	my $answer = readline $self->{control};
	croak 'the fake broker has died' unless defined $answer;
	chomp $answer;
	return $answer;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);

	return if $self->{owner_pid} != $$;
	close $self->{control};
	waitpid $self->{pid}, 0;
	return;
}

# The process: sockets are non-blocking, and one loop serves them all.
package FakeBroker::Server;

use strict;
use warnings;

use Time::HiRes qw(time);

sub run
{
	my ($self) = @_;
	my ($listener, $control) = @$self{qw(listener control)};

	while (1)
	{
		my @connections = values %{ $self->{connections} };
		my $read        = IO::Select->new($listener, $control,
			map { $_->{socket} } grep { !$_->{deaf} } @connections);
		my $write = IO::Select->new(
			map    { $_->{socket} }
			  grep { length $_->{output} || defined $_->{flood} }
			  @connections);
		my $drips = grep { length $_->{drip} } @connections;
		my ($readable, $writable) =
		  IO::Select->select($read, $write, undef,
			$drips ? $DRIP_INTERVAL_S : $HEARTBEAT_INTERVAL_S);

		foreach my $socket (@{ $readable // [] })
		{
			if ($socket == $control)
			{
				return unless $self->obey;
			}
			elsif ($socket == $listener)
			{
				$self->accept;
			}
			elsif (my $connection = $self->{connections}{ fileno $socket })
			{
				$connection->receive;
			}
		}
		foreach my $socket (@{ $writable // [] })
		{
			my $fd         = fileno $socket;
			my $connection = defined $fd && $self->{connections}{$fd};
			$connection->flush if $connection;
		}
		$_->drip
		  for grep { length $_->{drip} } values %{ $self->{connections} };
		$self->send_heartbeats;
	}
}

# To all that are open, except those that it does not treat well.
sub send_heartbeats
{
	my ($self) = @_;

	return if time < ($self->{heartbeat_at} // 0) + $HEARTBEAT_INTERVAL_S;
	$self->{heartbeat_at} = time;
	$_->put(FakeBroker::heartbeat())
	  for grep { $_->{open} && !$_->{misbehaved} }
	  values %{ $self->{connections} };
	return;
}

# A command of the test's; false when the test has ended.
sub obey
{
	my ($self) = @_;

	sysread($self->{control}, my $line, 1000) or return 0;
	chomp $line;
	my ($command, $argument) = split / /, $line, 2;
	my $answer = 'ok';
	if ($command eq 'mode')
	{
		$self->{mode} =
		  defined $argument ? $self->{misbehaviours}{$argument} : undef;
		$self->{hits} = 0;
		$self->{sent} = 0;
		$_->end for values %{ $self->{connections} };
	}
	elsif ($command eq 'hits' || $command eq 'sent')
	{
		$answer = $self->{$command};
	}
	else
	{
		$answer = $self->{received}{$argument} ? 1 : 0;
	}
	syswrite $self->{control}, "$answer\n";
	return 1;
}

sub accept
{
	my ($self) = @_;
	my $socket = $self->{listener}->accept or return;

	$socket->blocking(0);
	my $connection = bless {
		server => $self,
		socket => $socket,
		input  => '',
		output => '',
		drip   => '',
		deaf   => 0,
		ready  => 0,
		tags   => {},
		taking => {} },
	  $self->{class};
	$self->{connections}{ fileno $socket } = $connection;
	$connection->answer('connect', {}, '');
	return;
}

package FakeBroker::Connection;

use strict;
use warnings;

BEGIN { FakeBroker->import(':frames'); }

# What misbehaviours may do: put() octets, flood() without end, drip() one by
# one, be deaf() to what comes, end().
sub put
{
	my ($self, $octets) = @_;

	$self->{output} .= $octets;
	$self->flush;
	return;
}

sub flood
{
	my ($self, $octets) = @_;

	$self->{flood} = $octets x (1 + int(65536 / length $octets));
	$self->flush;
	return;
}

sub drip
{
	my ($self, $octets) = @_;

	$self->{drip} .= $octets if defined $octets;
	$self->put(substr $self->{drip}, 0, 1, '');
	return;
}

sub deaf { $_[0]{deaf} = 1; return; }

sub end
{
	my ($self) = @_;

	return unless defined fileno $self->{socket};
	delete $self->{server}{connections}{ fileno $self->{socket} };
	close $self->{socket};
	return;
}

# Reset the connection instead of closing it in order.
sub reset
{
	my ($self) = @_;

	setsockopt $self->{socket}, Socket::SOL_SOCKET(), Socket::SO_LINGER(),
	  pack('ii', 1, 0);
	$self->end;
	return;
}

sub flush
{
	my ($self) = @_;

	return unless defined fileno $self->{socket};
	$self->{output} .= $self->{flood}
	  if defined $self->{flood} && length $self->{output} < 65536;
	return unless length $self->{output};
	my $written = syswrite $self->{socket}, $self->{output};
	if (defined $written)
	{
		substr $self->{output}, 0, $written, '';
		$self->{server}{sent} += $written;
	}
	elsif (!$!{EAGAIN})
	{
		$self->end;
	}
	return;
}

# A table, encoded: what it says of itself.
sub properties { return ''; }

sub receive
{
	my ($self) = @_;
	my $length = sysread $self->{socket}, $self->{input}, $READ_BYTES,
	  length $self->{input};

	return if !defined $length && $!{EAGAIN};
	return $self->end unless $length;
	if (!$self->{ready} && length $self->{input} >= 8)
	{
		substr $self->{input}, 0, 8, '';
		$self->{ready} = 1;
		$self->answer(
			'protocol',
			{},
			method(
				0,
				10,
				10,
				pack('CC', 0, 9)
				  . longstr($self->properties)
				  . longstr('PLAIN AMQPLAIN')
				  . longstr('en_US')));
	}
	while ($self->{ready}
		&& !$self->{deaf}
		&& defined fileno $self->{socket}
		&& length $self->{input} >= 7)
	{
		my ($type, $channel, $size) = unpack 'CnN', $self->{input};
		last if length $self->{input} < $size + 8;
		my $payload = substr $self->{input}, 7, $size;
		substr $self->{input}, 0, $size + 8, '';
		$self->handle($type, $channel, $payload);
	}
	return;
}

sub handle
{
	my ($self, $type, $channel, $payload) = @_;

	if ($type == 1)
	{
		$self->handle_method($channel, $payload);
	}
	elsif ($type == 2)
	{
		my ($class, $weight, $size) = unpack 'nnQ>', $payload;
		my $message = $self->{taking}{$channel} =
		  { channel => $channel, size => $size, body => '' };
		$message->{id}  = _message_id(substr $payload, 12);
		$message->{tag} = ++$self->{tags}{$channel};
		$self->answer('body', $message, '') if $size > 0;
		$self->take_message($message)       if $size == 0;
	}
	elsif ($type == 3 && $self->{taking}{$channel})
	{
		my $message = $self->{taking}{$channel};
		$message->{body} .= $payload;
		$self->take_message($message)
		  if length $message->{body} >= $message->{size};
	}
	return;
}

# Properties of a message of ours: content type, delivery mode, correlation id
# or not, message id.
sub _message_id
{
	my ($flags, $rest) = unpack 'n a*', $_[0];
	(undef, $rest) = unpack 'C/a a*', $rest if $flags & 1 << 15;
	(undef, $rest) = unpack 'C a*',   $rest if $flags & 1 << 12;
	(undef, $rest) = unpack 'C/a a*', $rest if $flags & 1 << 10;
	return unpack 'C/a', $rest;
}

sub take_message
{
	my ($self, $message) = @_;

	delete $self->{taking}{ $message->{channel} };
	if ($self->answer(
			'publish',
			$message,
			method(
				$message->{channel}, 60, 80, pack('Q>C', $message->{tag}, 0)))
		&& $message->{body} =~ /"instance_pk":\s*(\d+)/)
	{
		$self->{server}{received}{$1} = 1;
	}
	return;
}

sub handle_method
{
	my ($self, $channel, $payload) = @_;
	my ($class, $number, $arguments) = unpack 'nn a*', $payload;
	my $name = $METHODS{"$class.$number"} // '';
	my $good;

	if ($name eq 'connection.start-ok')
	{
		$good = method(0, 10, 30, pack('nNn', 2047, 131072, 60));
	}
	elsif ($name eq 'connection.tune-ok')
	{
		$good = '';
	}
	elsif ($name eq 'connection.open')
	{
		$good = method(0, 10, 41, shortstr(''));
		$self->{open} = 1;
	}
	elsif ($name eq 'connection.close')
	{
		$good = method(0, 10, 51);
	}
	elsif ($name eq 'channel.open')
	{
		delete $self->{tags}{$channel};
		$good = method($channel, 20, 11, longstr(''));
	}
	elsif ($name eq 'channel.close')
	{
		$good = method($channel, 20, 41);
	}
	elsif ($name eq 'exchange.declare')
	{
		$good = method($channel, 40, 11);
	}
	elsif ($name eq 'queue.declare')
	{
		my (undef, $queue) = unpack 'n C/a', $arguments;
		$good = method($channel, 50, 11, shortstr($queue) . pack('NN', 0, 0));
	}
	elsif ($name eq 'queue.delete')
	{
		my (undef, undef, $bits) = unpack 'n C/a C', $arguments;
		$good = method($channel, 50, 41, pack('N', 0)) unless $bits & 4;
	}
	elsif ($name eq 'queue.bind')
	{
		my (undef, undef, undef, undef, $bits) = unpack 'n C/a C/a C/a C',
		  $arguments;
		$good = method($channel, 50, 21) unless $bits & 1;
	}
	elsif ($name eq 'basic.qos')
	{
		$good = method($channel, 60, 11);
	}
	elsif ($name eq 'basic.consume')
	{
		my (undef, undef, $tag) = unpack 'n C/a C/a', $arguments;
		$good = method($channel, 60, 21, shortstr($tag));
	}
	elsif ($name eq 'basic.cancel')
	{
		$good = method($channel, 60, 31, shortstr(unpack 'C/a', $arguments));
	}
	elsif ($name eq 'basic.get')
	{
		$good = method($channel, 60, 72, shortstr(''));
	}
	elsif ($name eq 'basic.ack')
	{
		$good = '';
	}
	elsif ($name eq 'confirm.select')
	{
		$good = method($channel, 85, 11);
	}
	$self->answer($name, { channel => $channel }, $good) if defined $good;
	return;
}

# Answer as the mode says; returns whether that was the good answer.
sub answer
{
	my ($self, $at, $what, $good) = @_;
	my $mode = $self->{server}{mode};

	if (!defined $mode)
	{
		$self->put($good) if length $good;
		return 1;
	}
	if ($mode->{anywhere})
	{
		if (length $good)
		{
			$self->{server}{hits}++;
			$self->put($mode->{anywhere}->($self, $at, $what, $good));
		}
		return 1;
	}
	if ($mode->{at} ne $at)
	{
		$self->put($good) if length $good;
		return 1;
	}
	$self->{server}{hits}++;
	$self->{misbehaved} = 1;
	$mode->{answer}->($self, $what);
	return 0;
}

1;
