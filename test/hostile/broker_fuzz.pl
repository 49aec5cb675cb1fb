
# What a broker answers, mutated at random: nothing crashes (I19), the memory of the
# publisher stays bounded, and with a broker that behaves it publishes again.
# CQRS_SEED in the environment: repeats a run; CQRS_FUZZ_SECONDS: how long, one
# minute by default.
use strict;
use warnings;

use FakeBroker qw(:frames);
use Hostile;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $SEED        = $ENV{CQRS_SEED}         // time ^ $$;
my $SECONDS     = $ENV{CQRS_FUZZ_SECONDS} // 60;
my $LARGE_BYTES = 400_000;
my $INTERESTING = pack 'C*', 0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0xCE, 10, 60;
my @recorded;
my $seeded;

# One of the arguments, by chance.
sub any { return $_[ int rand @_ ]; }

sub octets
{
	my ($count) = @_;
	return join '', map { chr int rand 256 } 1 .. $count;
}

# What may happen to octets; each gets them and a place in them.
my @mutations = (
	sub { substr($_[0], $_[1], 1) ^= chr(1 << int rand 8); },
	sub { substr($_[0], $_[1], 1) = any(split //, $INTERESTING); },
	sub { substr($_[0], $_[1], 1 + int rand 8) = ''; },
	sub { substr($_[0], $_[1], 0)              = octets(1 + int rand 16); },
	sub { substr($_[0], $_[1])                 = ''; },
	sub { substr($_[0], $_[1], 4) = pack 'N', any(0, 1, 0x7FFFFFFF, ~0); },
	sub {
		substr($_[0], $_[1], 8) = pack 'Q>',
		  any(0, 1, 2, 1 << 31, 1 << 63, ~0 >> 1, ~0);
	},
	sub { $_[0] .= $_[0]; },
	sub { $_[0] = any(@recorded)  // ''; },
	sub { $_[0] .= any(@recorded) // ''; },
	sub { substr($_[0], $_[1], 0) = octets(1 + int rand 5000); });

sub mutate
{
	my ($octets) = @_;

	for (1 .. 1 + int rand 3)
	{
		last unless length $octets;
		any(@mutations)->($octets, int rand length $octets);
	}
	return $octets;
}

# Frames as they are, or one of them with another payload, channel or type, in
# a frame that is well-formed.
sub mutate_frames
{
	my ($octets) = @_;
	my @frames;

	while (length $octets)
	{
		my ($type, $channel, $size) = unpack 'CnN', $octets;
		push @frames, [ $type, $channel, substr $octets, 7, $size ];
		substr $octets, 0, $size + 8, '';
	}
	my $frame = any(@frames);
	my $part  = int rand 8;
	if    ($part == 0) { $frame->[0] = any(1, 2, 3, 8); }
	elsif ($part == 1) { $frame->[1] = any(0, 1, 2, 3, 65535); }
	else               { $frame->[2] = mutate($frame->[2]); }
	return join '', map { frame(@$_) } @frames;
}

# What else a broker may answer to a message.
sub enrich
{
	my ($message, $good) = @_;
	my ($channel, $tag)  = @$message{qw(channel tag)};

	return any(
		$good, $good, $good,
		method($channel, 60, 80,  pack('Q>C', $tag, 1)),
		method($channel, 60, 120, pack('Q>C', $tag, int rand 2)),
		heartbeat() . $good,
		method(0, 10, 60, shortstr('low on memory'))
		  . method(0, 10, 61)
		  . $good,
		method($channel, 60, 50,
			pack('n', 312) . shortstr('NO_ROUTE') . shortstr('x') x 2)
		  . content(
			$channel,
			pack('n', any(1 << 7, 1 << 7 | 1 << 15 | 1 << 13 | 1 << 12))
			  . shortstr($message->{id}),
			$message->{body})
		  . $good,
		method(
			$channel, 20, 40,
			close_args(any(311, 403, 404, 406, 504), "caf\xC3\xA9", 60, 40)),
		method(0, 10, 50, close_args(any(320, 501, 541), 'no', 0, 0)));
}

sub answer
{
	my ($connection, $at, $what, $good) = @_;

	srand $SEED unless $seeded++;
	$good = enrich($what, $good) if $at eq 'publish';

	# Large ones would be most of what is kept.
	push @recorded, $good if length $good < 5000;
	shift @recorded if @recorded > 200;
	return $good    if rand() < 0.85;
	return rand() < 0.5 ? mutate($good) : mutate_frames($good);
}

my $hostile = Hostile->new('fuzz', 150, fuzz => { anywhere => \&answer });
my $end     = time + $SECONDS;
my $large   = 0;
my $answers = 0;

note "CQRS_SEED=$SEED";
$hostile->misbehave('fuzz');
while (time < $end)
{
	my $before = $hostile->broker->hits;
	$hostile->write_row($large++ % 50 == 0 ? $LARGE_BYTES : 100);
	my $asked =
	  RabbitMQ->poll_until(sub { return $hostile->broker->hits > $before },
		1);

	# A mutation may have eaten what ends the blocking.  A publisher that is
	# blocked rightly waits for as long as heartbeats arrive.
	if (  !$asked
		&& $hostile->query('SELECT state FROM cqrs.lanes') eq 'blocked')
	{
		$answers += $hostile->broker->hits;
		$hostile->misbehave('fuzz');
	}
	$hostile->query('SELECT cqrs_retry_parked(), pg_reload_conf()')
	  if $large % 50 == 0;
}
$answers += $hostile->broker->hits;
$hostile->recover($hostile->write_row, 'fuzz');
note "$answers answers in "
  . $hostile->query('SELECT connects FROM cqrs.lanes')
  . ' connections';
cmp_ok($answers, '>', 10 * $SECONDS, 'the broker was asked enough');
$hostile->check_alive;
$hostile->check_stop('fuzz');
$hostile->close_session;
$hostile->node->stop;

done_testing();
