# The transport to Redis as a consumer uses it, called from SQL without the rest
# of the library: queues, subscriptions, deliveries, acknowledgements, marks;
# envelopes that are none; a Kombu consumer beside it.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Redis;
use Test::More;
use TransportTest;

my $broker = Redis->new('transport');
$broker->start;
my $url  = $broker->url;
my $node = start_node($url);
my @results;

# As Kombu binds.
@results = run(
	consumer(0),
	q{prepare | 0 | 'shop' | '{cqrs author,cqrs cqrs.shop.a_b,other a-b.*.#.c#}' | false},
	q{prepare | 0 | 'shop' | '{cqrs author}' | false});
is_deeply(\@results, [ ('ok') x 3 ], 'a queue is made ready, also twice');
foreach my $set ('', '_permanent')
{
	is_deeply(
		[ sort @{ $broker->command('SMEMBERS', "_kombu.binding$set.cqrs") } ],
		[   "author\x06\x16^author\$\x06\x16shop",
			"cqrs.shop.a_b\x06\x16^cqrs\\.shop\\.a\\_b\$\x06\x16shop" ],
		"bindings$set");
}

is_deeply(
	$broker->command('SMEMBERS', '_kombu.binding.other'),
	["a-b.*.#.c#\x06\x16^a\\-b\\.[^\\.]+\\..*?\\.c#\$\x06\x16shop"],
	'wildcards');

# Order over a window that grows.
@results = run(
	publisher(1),
	publish(1, 'author', 'a' .. 'f'),
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
	'acknowledge | 0 | 5',
	next_of(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 2),
	'close | 0 | true');
is_deeply(
	[ @results[ 13 .. $#results ] ],
	[   'ok',
		'ok',
		'subscribed',
		delivery(1, 'author', 'a'),
		'nothing',
		'ok',
		'cancelled: ',
		'ok',
		'subscribed',
		delivery(2, 'author', 'b'),
		delivery(3, 'author', 'c'),
		'nothing',
		'ok',
		delivery(4, 'author', 'd'),
		delivery(5, 'author', 'e'),
		'ok',
		'ok',
		'cancelled: ',
		'ok',
		'subscribed',
		delivery(6, 'author', 'f'),
		'ok'
	],
	'in order, a window at a time') or diag explain \@results;
is($broker->queue_length('shop'), 1, 'what is acknowledged is gone');

# What was not acknowledged comes again, in order, marked.
@results = run(
	publisher(1),
	publish(1, 'author', 'g', 'h'),
	consumer(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 4),
	'close | 0 | false',
	consumer(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 4),
	publish(1, 'author', 'i'),
	next_of(0),
	'acknowledge | 0 | 4',
	'close | 0 | true');
is_deeply(
	[ @results[ 12 .. 19 ] ],
	[   'ok', 'ok', 'subscribed',
		delivery(1, 'author', 'f', redelivered => 1),
		delivery(2, 'author', 'g', redelivered => 1),
		delivery(3, 'author', 'h', redelivered => 1),
		'ok', 'ack 3'
	],
	'redelivery') or diag explain \@results;
is($results[20], delivery(4, 'author', 'i'), 'a new one is not marked');
is($broker->queue_length('shop'), 0, 'acknowledged before the end');

# A message that arrives wakes a consumer that waits.
@results = run(
	consumer(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0),
	q{next | 0 | 2500},
	publisher(1),
	publish(1, 'author', 'j'),
	next_of(0),
	'acknowledge | 0 | 1',
	q{next | 0 | 300},
	q{unsubscribe | 0},
	next_of(0),
	'close | 0 | true');
is_deeply(
	[ @results[ 3 .. $#results ] ],
	[   'nothing', 'ok', 'ok', 'ack 1',
		delivery(1, 'author', 'j'),
		'ok', 'nothing', 'ok', 'cancelled: ', 'ok'
	],
	'waiting') or diag explain \@results;
is_deeply($broker->command('KEYS', 'cqrs.consumer.*'),
	[], 'the lease of the queue is given up');

# Somebody else takes messages, and gives one back, as a consumer of Kombu's.
run(publisher(1), publish(1, 'author', 'k' .. 'n'));
@results = run(
	consumer(0),
	q{subscribe | 0 | 'shop' | 2},
	next_of(0, 3),
	q{prepare | 0 | 'shop' | '{cqrs author}' | false});
is($results[-2], delivery(2, 'author', 'l'), 'k and l are delivered');
my $taken = $broker->command('RPOP', 'shop');
@results = run(consumer(0), q{subscribe | 0 | 'shop' | 2}, next_of(0, 3),
	'close | 0 | false');
is($results[-2], delivery(2, 'author', 'm', redelivered => 1),
	'one is gone')
  or diag explain \@results;

# Large ones, and the limit.
my $LARGE = 16 * 1024 * 1024;
$broker->command('DEL', 'shop', 'cqrs.delivered.shop');
@results = run(
	publisher(1),
	qq{publish | 1 | 'author' | 'large' | repeat('x', $LARGE)},
	next_of(1),
	consumer(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 2),
	'acknowledge | 0 | 1',
	'close | 0 | true',
	qq{publish | 1 | 'author' | 'large' | repeat('y', $LARGE)},
	next_of(1),
	consumer(0, max => 1000),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 2),
	'close | 0 | false',
	q{memory});
is($results[6],
	delivery(1, 'author', 'x' x 20, id => 'large', length => $LARGE),
	'16 MB') or diag explain \@results;
like($results[14], qr/^transport: could not consume: message of \d+ bytes.* more than/,
	'larger than allowed');
cmp_ok($results[-1], '<', 10_000, 'no memory is left behind');

# What is no envelope, or an unusual one.
my %strange = (
	''              => qr/^delivery 1 0  - 0 $/,
	'no JSON'       => qr/^delivery 1 0  - 7 no JSON$/,
	'{'             => qr/^delivery 1 0  - 1 \{$/,
	'{"body": "x'   => qr/^delivery 1 0  - 11 \{"body": "x$/,
	'{"body": 7}'   => qr/^delivery 1 0  - 11 \{"body": 7\}$/,
	'[' x 100_000   => qr/^delivery 1 0  - 100000 \[/,
	'{"body": "a\u0062\ud83d\ude00\/\"\ud83d"}' =>
	  qr/^delivery 1 0  - 9 ab.+\/"\?$/,
	'{"properties": {"body_encoding": "base64", "message_id": "i\n", "delivery_info": {"routing_key": "k"}}, "body": "YQ=="}'
	  => qr/^delivery 1 0 k - 1 a$/,
	'{"body": "Y", "properties": {"body_encoding": "base64"}}' =>
	  qr/^delivery 1 0  - 56 /,
	'{"body": "YWI\/", "properties": {"body_encoding": "base64", "x": {"message_id": "no"}, "message_id": "yes"}}'
	  => qr/^delivery 1 0  yes 3 ab\?$/);
foreach my $envelope (sort keys %strange)
{
	my $name = substr $envelope, 0, 40;
	$broker->command('DEL', 'shop', 'cqrs.delivered.shop');
	$broker->command('LPUSH', 'shop', $envelope);
	@results = run(
		consumer(0),
		q{subscribe | 0 | 'shop' | 10},
		next_of(0, 2),
		'acknowledge | 0 | 1',
		'close | 0 | true');
	like($results[3], $strange{$envelope}, "envelope: $name");
	is($broker->queue_length('shop'), 0, "acknowledged: $name");
}

# Wrong types, and a queue that is deleted.
$broker->command('SET', '_kombu.binding.bad', 'x');
$broker->command('SET', 'string', 'x');
@results = run(
	consumer(0),
	q{prepare | 0 | 'shop' | '{bad author}' | false},
	q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	q{unbind | 0 | 'shop' | '{cqrs cqrs.shop.a_b,nothing author}'},
	q{subscribe | 0 | 'string' | 10},
	next_of(0));
like($results[1], qr/^route: could not bind the queue: WRONGTYPE/, 'no set');
is_deeply([ @results[ 2, 3 ] ], [ 'ok', 'ok' ], 'the connection goes on');
like($results[-1], qr/^route: could not consume: WRONGTYPE/, 'no list');
is($broker->command('SCARD', '_kombu.binding.cqrs'), 1, 'one is unbound');
$broker->command('DEL', '_kombu.binding.bad');
@results = run(consumer(0), q{delete | 0 | 'shop'}, q{delete | 0 | 'shop'});
is_deeply(\@results, [ ('ok') x 3 ], 'a queue is deleted, also twice');
is_deeply($broker->command('KEYS', '_kombu*'), [], 'with its bindings');

# The lease, and one that has to be free: of another server of PostgreSQL.
$broker->command('SET', 'theirs', 'them 1 0');
@results = run(
	consumer(0, lease => 'theirs'),
	consumer(0, lease => 'mine', vacant => 'theirs'),
	consumer(0, lease => 'mine'),
	consumer(1, lease => 'mine'),
	q{subscribe | 0 | 'shop' | 1},
	next_of(0),
	'close | 1 | true');
like($results[0], qr/^lease: /, 'lease is taken');
like($results[1], qr/^lease: /, 'lease is not free');
is($results[3], 'ok', 'another connection of the same server takes it over');
$broker->command('SET', 'cqrs.consumer.shop', 'them 1');
@results = run(consumer(0), q{subscribe | 0 | 'shop' | 1}, next_of(0));
like($results[2], qr/^lease: could not consume: LEASE another connection/,
	'another consumer');
$broker->command('DEL', 'cqrs.consumer.shop');

# Marks.
@results = run(
	consumer(0),
	publisher(1),
	q{read_mark | 0 | 'mark'},
	q{write_mark | 1 | 'mark' | 'one'},
	q{read_mark | 0 | 'mark'},
	q{write_mark | 1 | 'mark' | repeat('z', 64)},
	q{read_mark | 0 | 'mark'});
is_deeply(
	[ @results[ 0 .. 5 ] ],
	[ 'ok', 'ok', '[]', 'ok', '[one]', 'ok' ],
	'marks');
like($results[6], qr/^transport: .*text that is no mark$/, 'a text too large');

# In want of memory a consumer goes on.
run(publisher(1), publisher(1),
	consumer(0), q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	publish(1, 'author', 'o', 'p'));
@results = run(
	consumer(0),
	q{subscribe | 0 | 'shop' | 1},
	next_of(0, 2));
is($results[-1], delivery(1, 'author', 'o'), 'before');
{
	my ($in, $out, $err) = ('', '', '');
	my $session = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$out, '2>', \$err);
	my $ask = sub {
		$in .= "SELECT t_$_[0];\n";
		my $lines = () = $out =~ /\n/g;
		$session->pump until (() = $out =~ /\n/g) > $lines;
	};
	$ask->("connect(0, '$url', true, '', '{}', 1000, 20000, 10)");
	$ask->("subscribe(0, 'shop', 1)");
	$ask->("next(0, $WAIT)");
	$broker->command(qw(CONFIG SET maxmemory 1));
	$ask->("next(0, $WAIT)");
	$ask->('acknowledge(0, 1)');
	$ask->("next(0, $WAIT)");
	$ask->('acknowledge(0, 2)');
	$ask->('next(0, 1500)');
	$broker->command(qw(CONFIG SET maxmemory 0));
	$ask->('close(0, true)');
	$in .= "\\q\n";
	$session->finish;
	like(
		$out,
		qr/^ok\nok\nsubscribed\ndelivery 1 .* o\nok\ndelivery 2 .* p\nok\nnothing\nok\n$/,
		'consumed without memory');
	is($broker->queue_length('shop'), 0, 'and acknowledged');
}

is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is well');
$node->stop;

done_testing();
