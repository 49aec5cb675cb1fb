
=pod

=head1 NAME

FakeTokens - a broker whose leases are tokens, and that misbehaves on request

=head1 DESCRIPTION

A FakeBroker that says it is RabbitMQ 4.2.  On the channel of the lease it plays
quorum queues with a single active consumer, which is always the connection that
asks: it delivers a token after C<basic.consume>, after each token that is
published, and after C<basic.nack>.  What is published to a queue that the
connection has not declared is returned.

Misbehaviours on that channel have C<at> names of their own: C<lease.> and the
method, C<lease.consume> for example, and C<lease.publish>.

=cut

package FakeTokens;

use strict;
use warnings;

use parent 'FakeBroker';

package FakeTokens::Connection;

use strict;
use warnings;

BEGIN { FakeBroker->import(':frames'); }

our @ISA = ('FakeBroker::Connection');

my $CHANNEL = 3;
my %METHODS = (
	'40.10'  => [ 'declare', 40, 11 ],
	'50.10'  => [ 'declare', 50, 11 ],
	'50.20'  => [ 'bind',    50, 21 ],
	'60.10'  => [ 'qos',     60, 11 ],
	'60.20'  => [ 'consume', 60, 21 ],
	'60.30'  => [ 'cancel',  60, 31 ],
	'60.80'  => ['ack'],
	'60.120' => ['nack']);

sub properties
{
	return
		shortstr('product') . 'S'
	  . longstr('RabbitMQ')
	  . shortstr('version') . 'S'
	  . longstr('4.2.0');
}

# A delivery to a consumer.
sub token
{
	my ($self, %part) = @_;
	my $tag = $part{tag} // ++$self->{token_tag};

	return method($CHANNEL, 60, 60,
			shortstr($part{consumer} // $self->{consumer} // 'lease-1')
		  . pack('Q>C', $tag, 0)
		  . shortstr('cqrs.lease')
		  . shortstr('x'))
	  . ($part{content} // content($CHANNEL, pack('n', 0), ''));
}

sub handle_method
{
	my ($self, $channel, $payload) = @_;
	my ($class, $number, $arguments) = unpack 'nn a*', $payload;
	my $method = $channel == $CHANNEL ? $METHODS{"$class.$number"} : undef;

	if ($channel == $CHANNEL && "$class.$number" eq '60.40')
	{
		(undef, undef, $self->{key}) = unpack 'n C/a C/a', $arguments;
		return;
	}
	return $self->SUPER::handle_method($channel, $payload) unless $method;
	my ($name, @answer) = @$method;
	my (undef, $first, $second) =
	  $name =~ /declare|consume/ ? unpack('n C/a C/a', $arguments) : ();
	my $text = '';
	if ("$class.$number" eq '50.10')
	{
		$self->{queues}{$first} = 1;
		$text = shortstr($first) . pack('NN', 0, 0);
	}
	elsif ($name eq 'consume')
	{
		$self->{consumer} = $second;
		$text = shortstr($second);
	}
	elsif ($name eq 'cancel')
	{
		$text = shortstr(unpack 'C/a', $arguments);
	}
	my $good = @answer ? method($CHANNEL, @answer, $text) : '';
	$good .= $self->token if $name eq 'consume' || $name eq 'nack';
	$self->answer("lease.$name", { channel => $channel }, $good);
	return;
}

sub take_message
{
	my ($self, $message) = @_;
	my $key = $self->{key} // '';

	return $self->SUPER::take_message($message)
	  if $message->{channel} != $CHANNEL;
	delete $self->{taking}{$CHANNEL};
	$self->answer(
		'lease.publish',
		{ %$message, key => $key },
		$self->{queues}{$key}
		? $self->token
		: method(
			$CHANNEL,
			60,
			50,
			pack('n', 312)
			  . shortstr('NO_ROUTE')
			  . shortstr('cqrs.lease')
			  . shortstr($key))
		  . content($CHANNEL, pack('n', 0), ''));
	return;
}

1;
