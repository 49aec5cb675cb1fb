
=pod

=head1 NAME

FakeRedis - a Redis server that misbehaves on request

=head1 SYNOPSIS

  use FakeRedis qw(:replies);

  my $broker = FakeRedis->new(
	  nonsense => { at => 'publish', answer => sub { $_[0]->put('nonsense') } });

=head1 DESCRIPTION

A FakeBroker that speaks the protocol of Redis, and knows the commands and
scripts of the transport by their kind.  It takes messages, which it
acknowledges as if there were one queue for each, and has nothing to consume.

C<at> of a misbehaviour is C<connect>, C<auth>, C<select>, C<name>, C<lease>,
C<drop>, C<publish> (a batch with messages), C<body> (the beginning of a large
one), C<renew> (an empty batch),
C<count> (how many replicas have what was sent), C<subscribe>, C<consume>, C<wait>, C<bind>,
C<unbind>, C<scan>, C<delete>, C<get>, C<set>.  If it is C<pushed> (the command
of a direct batch) or C<direct> (its transaction), the server says that all
messages have the same queue.  The hash that C<answer> gets has
the C<words> of the command, the number of C<messages>, and the good answer:
C<good>.

=cut

package FakeRedis;

use strict;
use warnings;

use Exporter 'import';
use FakeBroker;

our @ISA = ('FakeBroker');
our (@EXPORT_OK, %EXPORT_TAGS);

BEGIN
{
	@EXPORT_OK   = qw(bulk array);
	%EXPORT_TAGS = (replies => \@EXPORT_OK);
}

our $PASSWORD = 's3cret-wörd';

=head1 REPLIES

=over

=item bulk($octets), array(@replies)

A string; an array of what is encoded already.

=back

=cut

sub bulk { return '$' . length($_[0]) . "\r\n$_[0]\r\n"; }

sub array { return '*' . @_ . "\r\n" . join '', @_; }

=head1 METHODS

=over

=item $broker->url

With a user and a password, which is $FakeRedis::PASSWORD.

=back

=cut

sub url { return "redis://shop:s3cret-w%C3%B6rd\@127.0.0.1:$_[0]{port}/0"; }

package FakeRedis::Connection;

use strict;
use warnings;

use MIME::Base64 ();

our @ISA = ('FakeBroker::Connection');

BEGIN { FakeRedis->import(':replies'); }

my $READ_BYTES = 1024 * 1024;
my $BIG_BYTES  = 200_000;

# What commands are called in misbehaviours, and their good answers.
my %COMMANDS = (
	AUTH   => [ auth   => "+OK\r\n" ],
	SELECT => [ select => "+OK\r\n" ],
	CLIENT => [ name   => "+OK\r\n" ],
	INFO   => [ info   => "-ERR unknown command\r\n" ],
	WAIT   => [ count  => ":9\r\n" ],
	BLMOVE => [ wait   => "\$-1\r\n" ],
	SADD   => [ bind   => ":1\r\n" ],
	SCAN   => [ scan   => array(bulk('0'), array()) ],
	DEL    => [ delete => ":1\r\n" ],
	GET    => [ get    => "\$-1\r\n" ],
	SET    => [ set    => "+OK\r\n" ]);

# The same for scripts, by what only they contain.
my @SCRIPTS = (
	[ qr/LRANGE/,                 consume   => array() ],
	[ qr/LLEN/,                   subscribe => ":0\r\n" ],
	[ qr/SREM/,                   unbind    => ":1\r\n" ],
	[ qr/'SET', KEYS\[1\], ARGV/, lease     => ":1\r\n" ],
	[ qr/'DEL', key/,             drop      => ":1\r\n" ]);

sub receive
{
	my ($self) = @_;
	my $length = sysread $self->{socket}, $self->{input}, $READ_BYTES,
	  length $self->{input};

	return if !defined $length && $!{EAGAIN};
	return $self->end unless $length;
	while (!$self->{deaf} && defined fileno $self->{socket})
	{
		my @words = $self->next_command or last;
		$self->obey(@words);
	}
	$self->begin_body;
	return;
}

# The words of a command that has come completely.
sub next_command
{
	my ($self) = @_;
	my @words;

	return if length $self->{input} < ($self->{needed} // 0);
	$self->{input} =~ /\G\*(\d+)\r\n/gc or return;
	for (1 .. $1)
	{
		$self->{input} =~ /\G\$(\d+)\r\n/gc or return;
		my $start = pos $self->{input};
		my $end   = $start + $1 + 2;
		if ($end > length $self->{input})
		{
			$self->{needed} = $end;
			pos($self->{input}) = 0;
			return;
		}
		push @words, substr $self->{input}, $start, $1;
		pos($self->{input}) = $end;
	}
	substr $self->{input}, 0, pos $self->{input}, '';
	$self->{needed} = 0;
	$self->{begun}  = 0;
	return @words;
}

# A large body is on its way.
sub begin_body
{
	my ($self) = @_;

	return
		 if $self->{begun}
	  || $self->{deaf}
	  || ($self->{needed} // 0) < $BIG_BYTES
	  || !defined fileno $self->{socket};
	$self->{begun} = 1;
	$self->answer('body', {}, '');
	return;
}

sub obey
{
	my ($self, @words) = @_;
	my $name = uc $words[0];

	return $self->transact($name, @words)
	  if $name =~ /^(MULTI|EXEC)$/ || $self->{queued};
	return $self->publish(@words)
	  if $name eq 'EVALSHA' || $name eq 'EVAL' && $words[1] =~ /gmatch/;
	my ($at, $good) = @{ $COMMANDS{$name} // [] };
	($at, $good) = map { @$_[ 1, 2 ] } grep { $words[1] =~ $_->[0] } @SCRIPTS
	  if $name eq 'EVAL';
	$good = "-ERR unknown command\r\n" unless defined $at;
	$self->{last} = 0 if ($at // '') eq 'lease';
	$self->answer($at // '', { words => \@words, good => $good }, $good);
	return;
}

# A batch, as the script executes it: in sequence.
sub publish
{
	my ($self, @words) = @_;
	my @messages = @words[ 11 .. $#words ];
	my $count    = @messages / 2;
	my $number   = $words[7];
	my $mode     = $self->{server}{mode};
	my @route    = array(map { bulk($_) } '-00000000"}}', 'hash', 'queue');
	my $direct   = $count > 0 && ($mode->{at} // '') =~ /^(direct|pushed)$/;
	my $good     = array((":1\r\n") x $count, $direct ? @route : ());

	if ($number != ($self->{last} // 0) + 1)
	{
		$self->put("-GAP $self->{last}\r\n");
		return;
	}
	return
	  unless $self->answer($count > 0 ? 'publish' : 'renew',
		{ words => \@words, messages => $count, good => $good }, $good);
	$self->take($number, @messages[ 0 .. $count - 1 ]);
	return;
}

# A direct batch, with the same effect.
sub transact
{
	my ($self, $name, @words) = @_;
	my $queued = $self->{queued};

	if ($name eq 'MULTI')
	{
		$self->{queued} = [];
		$self->put("+OK\r\n");
		return;
	}
	if ($name ne 'EXEC')
	{
		push @$queued, \@words;
		$self->answer($name eq 'LPUSH' ? 'pushed' : '', {}, "+QUEUED\r\n");
		return;
	}
	delete $self->{queued};
	if (!$queued || !@$queued)
	{
		$self->put($queued ? array() : "-ERR EXEC without MULTI\r\n");
		return;
	}
	my ($push,   $verify)   = @$queued;
	my ($number, @messages) = ($verify->[8], @$push[ 2 .. $#$push ]);
	my $length = ':' . @messages . "\r\n";
	if ($number != ($self->{last} // 0) + 1)
	{
		$self->put(array($length, "-GAP $self->{last}\r\n"));
		return;
	}
	my $good = array($length, ":1\r\n");
	$self->take($number, @messages)
	  if $self->answer('direct', { good => $good }, $good);
	return;
}

sub take
{
	my ($self, $number, @messages) = @_;

	$self->{last} = $number;
	foreach my $envelope (@messages)
	{
		my ($body) = $envelope =~ /\A\{"body": "([^"]*)"/ or next;
		$self->{server}{received}{$1} = 1
		  if MIME::Base64::decode($body) =~ /"instance_pk":\s*(\d+)/;
	}
	return;
}

1;
