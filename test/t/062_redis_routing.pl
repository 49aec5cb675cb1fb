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
	'a.b'            => [ '#', '#.b', '*.b',   'a.#', 'a.*' ],
	'a.b.c'          => [ '#', 'a.#', 'a.#.c', 'a.*.c' ],
	'a..b'           => [ '#', '#.b', 'a.#',   'a..b' ],
	'.b'             => [ '#', '#.b' ],
	'b'              => [ '#', '*',   'a*b' ],
	'x.b'            => [ '#', '#.b', '*.b' ],
	'a.c'            => [ '#', 'a.#', 'a.*' ],
	'a.x.c'          => [ '#', 'a.#', 'a.#.c', 'a.*.c' ],
	'aab'            => [ '#', '*',   'a*b' ],
	'ab'             => [ '#', '*',   'a*b' ],
	'x#'             => [ '#', '*',   'x#' ],
	'x'              => [ '#', '*' ],
	'q-1.é'          => [ '#', 'q-1.é' ],
	'A_b'            => [ '#', '*', 'A_b' ],
	''               => [ '',  '#' ],
	'cqrs.q_a.basic' => [ '#', 'cqrs.q_a.basic' ],
	'cqrsXq_aXbasic' => [ '#', '*' ],
	'a b'            => [ '#', '*',   'a b' ],
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

	my %text = $text =~ /^#define (LUA_\w+) (".*")$/mg;
	my ($lines) = $text =~ /#define CQRS_SCRIPT_$name \\\n(.*?)\n\n/s;
	$lines =~ s/(LUA_\w+)/$text{$1}/g;
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
	my (@keys, @envelopes);

	while (my ($key, $envelope) = splice @messages, 0, 2)
	{
		push @keys,      $key;
		push @envelopes, $envelope;
	}
	return [
		'EVAL', $publish, 2, '_kombu.binding.cqrs', 'lease', 'owner epoch',
		60000,  $number,  $flag, 0, '', @envelopes, @keys ];
}

my %patterns = map { $_ => 1 } map { @$_ } values %recorded;
$broker->command('SET', 'lease', 'owner epoch 0');
$broker->bind_key('cqrs', "queue $_", $_) foreach keys %patterns;

my @keys    = sort keys %recorded;
my $counts  = $broker->command(@{ batch(1, '', map { ($_, "<$_>") } @keys) });
my %arrived = map { $_ => [] } @keys;
foreach my $pattern (sort keys %patterns)
{
	foreach
	  my $message (@{ $broker->command('LRANGE', "queue $pattern", 0, -1) })
	{
		utf8::decode($message);
		my ($key, $tag) = $message =~ /^<(.*)>(.*)$/ or die $message;
		push @{ $arrived{$key} }, $pattern;
	}
}
foreach my $i (0 .. $#keys)
{
	my $key = $keys[$i];

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
	return
	  eval { $broker->command(@{ batch($number, $flag, @messages) }); 1 }
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
is(error(3, '', 'x', '4'),           'GAP 1',     'nothing follows');
like(error(2, 'probe', 'bad', '5'), qr/^WRONGTYPE/, 'a probe is stopped');
is(error(3, '', 'x', '6'), 'none', 'and does not stop others');
$broker->command('SET', 'lease', 'owner other 3');
like(error(4, '', 'x', '7'), qr/^LEASE lease belongs/, 'former owner');
$broker->command('DEL', 'lease');
like(error(4, '', 'x', '7'), qr/^LEASE lease belongs/, 'expired');

# If all messages go to one queue, the script says so, and a transaction does the
# same without it, or nothing.
my $verify = script('VERIFY');
my $set    = '_kombu.binding.cqrs';
$broker->command('DEL', $set);
$broker->bind_key('cqrs', 'one', 'x', 'y');
$broker->command('SET', 'lease', 'owner epoch 0');
my $reply = $broker->command(@{ batch(1, '', 'x', 'a', 'y', 'b') });
my ($tail, $bindings, $queue) = @{ $reply->[2] };
is_deeply([ @$reply[ 0, 1 ], $queue ], [ 1, 1, 'one' ], 'one queue');
$broker->command('DEL', 'one');

# The result, and what is in the queue then.
sub direct
{
	my ($number, %params) = @_;
	my @messages = ("<$number>$tail", "<$number'>$tail");
	my @replies  = eval {
		$broker->commands(
			['MULTI'],
			$params{push} // [ 'LPUSH', 'one', @messages ],
			[   'EVAL',        $verify,
				3,             $set,
				'lease',       'one',
				'owner epoch', 60000,
				$number, $params{bindings} // $bindings,
				$params{limit} // 0, 2,
				"$number'>$tail" ],
			['EXEC']);
	};
	my $result = @replies ? 'done' : $@ =~ s/\n//r;
	my $list   = eval { $broker->command('LRANGE', 'one', 0, -1) } // [];
	return join ' ', $result, map { /<(.*)>/ } reverse @$list;
}

is(direct(2), "done 2 2'",       'pushed');
is(direct(3), "done 2 2' 3 3'",  'pushed again');
is(direct(5), "GAP 3 2 2' 3 3'", 'a batch behind one that is missing');
is(direct(4, limit => 5), "ROUTE has changed 2 2' 3 3'", 'too many');
is(direct(4, limit => 6), "done 2 2' 3 3' 4 4'",         'not too many');
is( direct(5, push => [ 'LPUSHX', 'none', 'x' ]),
	"ROUTE has changed 2 2' 3 3' 4 4'",
	'the push alone has failed');
$broker->bind_key('cqrs', 'another', 'x');
is(direct(5), "ROUTE has changed 2 2' 3 3' 4 4'",     'other bindings');
is($broker->command('GET', 'lease'), 'owner epoch 4', 'it does not count');
$broker->command('SET', 'lease', 'owner other 4');
is(direct(5), "LEASE lease belongs to another connection 2 2' 3 3' 4 4'",
	'former owner');
$broker->command('LPUSH',  'lease2', 'x');
$broker->command('RENAME', 'lease2', 'lease');
like(direct(5), qr/^LEASE .* 2 2' 3 3' 4 4'$/, 'a lease that is none');
$broker->command('DEL', 'lease');
like(direct(5), qr/^LEASE .* 2 2' 3 3' 4 4'$/, 'expired');
$broker->command('SREM', $set,
	grep { /another/ } @{ $broker->command('SMEMBERS', $set) });
$broker->command('SET', 'lease', 'owner epoch 4');
is(direct(5), "done 2 2' 3 3' 4 4' 5 5'", 'the bindings as they were');
$broker->command('SET', 'one', 'x');
like(direct(6), qr/^WRONGTYPE/, 'no queue');
is($broker->command('GET', 'lease'), 'owner epoch 5', 'nor is that a batch');

# Not where it cannot be undone, where a message has two queues or none, where a
# queue is full.
sub ends
{
	my (@messages) = @_;
	$broker->command('SET', 'lease', 'owner epoch 0');
	my $end =
	  $broker->command(@{ batch(1, '', @messages) })->[ @messages / 2 ];
	return ref $end ? $end->[2] : $end;
}

$broker->command('DEL', 'one');
$broker->bind_key('cqrs', 'another', 'z');
is(ends('x', 1, 'y', 2), 'one', 'one queue again');
like(ends('x', 1, 'z',       2), qr/^-/, 'two queues');
like(ends('x', 1, 'nothing', 2), qr/^-/, 'a message without a queue');
$broker->command(qw(ACL SETUSER default -ltrim));
like(ends('x', 1), qr/^-/, 'where it could not be undone');

done_testing();
