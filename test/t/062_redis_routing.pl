# The script that publishes routes as Kombu did when this was recorded (django-cqrs
# 3.1.0, kombu 5.7.0), and executes batches in sequence.
use strict;
use warnings;
use utf8;

use Cwd qw(abs_path);
use File::Basename;
use Redis;
use Test::More;

# Routing keys, and those of the patterns whose queues Kombu had them in.  Not
# recorded here: Kombu takes "basic\n" for "basic".
my %recorded = (
	'basic'          => [ '#', '*', 'basic' ],
	'basicx'         => [ '#', '*' ],
	'a'              => [ '#', '*' ],
	'a.b'            => [ '#', '#.b', '*.b', 'a.#', 'a.*' ],
	'a.b.c'          => [ '#', 'a.#', 'a.#.c', 'a.*.c' ],
	'a..b'           => [ '#', '#.b', 'a.#', 'a..b' ],
	'.b'             => [ '#', '#.b' ],
	'b'              => [ '#', '*', 'a*b' ],
	'x.b'            => [ '#', '#.b', '*.b' ],
	'a.c'            => [ '#', 'a.#', 'a.*' ],
	'a.x.c'          => [ '#', 'a.#', 'a.#.c', 'a.*.c' ],
	'aab'            => [ '#', '*', 'a*b' ],
	'ab'             => [ '#', '*', 'a*b' ],
	'x#'             => [ '#', '*', 'x#' ],
	'x'              => [ '#', '*' ],
	'q-1.é'          => [ '#', 'q-1.é' ],
	'A_b'            => [ '#', '*', 'A_b' ],
	''               => [ '', '#' ],
	'cqrs.q_a.basic' => [ '#', 'cqrs.q_a.basic' ],
	'cqrsXq_aXbasic' => [ '#', '*' ],
	'a b'            => [ '#', '*', 'a b' ],
	'a.b|c'          => [ '#', 'a.#', 'a.*', 'a.b|c' ],
	'a.'             => [ '#', 'a.#' ]);

# A script, as the compiler reads it.
sub script
{
	my ($name) = @_;
	my $file =
	  abs_path(dirname(__FILE__) . '/../../src/broker/redis_scripts.h');
	open my $fh, '<', $file or BAIL_OUT("could not open $file: $!");
	my $text = do { local $/; <$fh> };

	my ($separator) = $text =~ /#define LUA_SEPARATOR (".*")/;
	my ($lines)     = $text =~ /#define CQRS_SCRIPT_$name \\\n(.*?)\n\n/s;
	$lines =~ s/LUA_SEPARATOR/$separator/g;
	my $script = '';
	while ($lines =~ /"((?:[^"\\]|\\.)*)"/g)
	{
		my $part = $1;
		$part =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
		$script .= $part;
	}
	return $script;
}

my $publish = script('PUBLISH');
my $broker  = Redis->new('routing');
$broker->start;

# A batch; its number, then key and envelope of each message.
sub batch
{
	my ($number, $flag, @messages) = @_;
	return [
		'EVAL', $publish, 2, '_kombu.binding.cqrs', 'lease', 'owner epoch',
		60000, $number, $flag, 0, '', @messages ];
}

my %patterns = map { $_ => 1 } map { @$_ } values %recorded;
$broker->command('SET', 'lease', 'owner epoch 0');
$broker->bind_key('cqrs', "queue $_", $_) foreach keys %patterns;

my @keys    = sort keys %recorded;
my $counts  = $broker->command(@{ batch(1, '', map { ($_, "<$_>") } @keys) });
my %arrived = map { $_ => [] } @keys;
foreach my $pattern (sort keys %patterns)
{
	foreach my $message (
		@{ $broker->command('LRANGE', "queue $pattern", 0, -1) })
	{
		utf8::decode($message);
		my ($key, $tag) = $message =~ /^<(.*)>(.*)$/ or die $message;
		push @{ $arrived{$key} }, $pattern;
	}
}
foreach my $i (0 .. $#keys)
{
	my $key      = $keys[$i];

	is_deeply(
		$arrived{$key},
		[ sort @{ $recorded{$key} } ],
		"routing key \"$key\"");
	is($counts->[$i], scalar @{ $arrived{$key} }, "count of \"$key\"");
}

# In sequence.
sub error
{
	my ($number, $flag, @messages) = @_;
	return eval { $broker->command(@{ batch($number, $flag, @messages) }); 1 }
	  ? 'none'
	  : $@ =~ s/\n//r;
}

is(error(3, '', 'x', 'y'), 'GAP 1', 'a batch behind one that is missing');
is(error(1, '', 'x', 'y'), 'GAP 1', 'a batch again');
$broker->command('SET', 'no list', 'x');
$broker->bind_key('cqrs', 'no list', 'bad');
my $length = $broker->queue_length('queue #');
like(error(2, '', 'x', '1', 'bad', '2', 'x', '3'),
	qr/^WRONGTYPE/, 'stopped at a message');
is($broker->queue_length('queue #'), $length + 1, 'after the first one');
is(error(3, '', 'x', '4'), 'GAP 1', 'nothing follows');
like(error(2, 'probe', 'bad', '5'), qr/^WRONGTYPE/, 'a probe is stopped');
is(error(3, '', 'x', '6'), 'none', 'and does not stop others');
$broker->command('SET', 'lease', 'owner other 3');
like(error(4, '', 'x', '7'), qr/^LEASE lease belongs/, 'former owner');
$broker->command('DEL', 'lease');
like(error(4, '', 'x', '7'), qr/^LEASE lease belongs/, 'expired');

done_testing();
