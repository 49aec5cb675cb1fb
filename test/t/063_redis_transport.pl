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

is_deeply($broker->command('SMEMBERS', '_kombu.binding.other'),
	["a-b.*.#.c#\x06\x16^a\\-b\\.[^\\.]+\\..*?\\.c#\$\x06\x16shop"],
	'wildcards');

# What all transports have in common.
conform(
	$broker,
	wrong_url  => $url =~ s{//}{//shop:wr0ng@}r,
	block      => sub { $broker->command(qw(CONFIG SET maxmemory 1)) },
	unblock    => sub { $broker->command(qw(CONFIG SET maxmemory 0)) },
	take_lease => sub { $broker->command('SET', $_[0], 'them 1 0') },
	give_lease => sub { $broker->command('DEL', $_[0]) });
run(consumer(0), q{prepare | 0 | 'shop' | '{cqrs author}' | false});

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
	[   'nothing', 'ok',      'ok', 'ack 1',       delivery(1, 'author', 'j'),
		'ok',      'nothing', 'ok', 'cancelled: ', 'ok' ],
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
@results = run(
	consumer(0),
	q{subscribe | 0 | 'shop' | 2},
	next_of(0, 3),
	'close | 0 | false');
is($results[-2], delivery(2, 'author', 'm', redelivered => 1), 'one is gone')
  or diag explain \@results;

sub with_id
{
	my ($id) = @_;
	return qq({"properties": {"message_id": "$id"}, "body": "b"});
}

# What is no envelope, or an unusual one.
my %strange = (
	''            => qr/^delivery 1 0  - 0 $/,
	'no JSON'     => qr/^delivery 1 0  - 7 no JSON$/,
	'{'           => qr/^delivery 1 0  - 1 \{$/,
	'{"body": "x' => qr/^delivery 1 0  - 11 \{"body": "x$/,
	'{"body": 7}' => qr/^delivery 1 0  - 11 \{"body": 7\}$/,
	'[' x 100_000 => qr/^delivery 1 0  - 100000 \[/,
	'{"body": "a\u0062\ud83d\ude00\/\"\ud83d"}' =>
	  qr/^delivery 1 0  - 9 ab.+\/"\?$/,
	'{"properties": {"body_encoding": "base64", "message_id": "i\n", "delivery_info": {"routing_key": "k"}}, "body": "YQ=="}'
	  => qr/^delivery 1 0 k - 1 a$/,
	'{"body": "Y", "properties": {"body_encoding": "base64"}}' =>
	  qr/^delivery 1 0  - 56 /,
	'{"body": "YWI\/", "properties": {"body_encoding": "base64", "x": {"message_id": "no"}, "message_id": "yes"}}'
	  => qr/^delivery 1 0  yes 3 ab\?$/,
	with_id('x' x 255)                    => qr/^delivery 1 0  x{255} 1 b$/,
	with_id('x' x 256)                    => qr/^delivery 1 0  - 1 b$/,
	with_id(('x' x 255) . 'yz')           => qr/^delivery 1 0  - 1 b$/,
	with_id(('x' x 254) . '\u00e9')       => qr/^delivery 1 0  - 1 b$/,
	with_id(('x' x 252) . '\ud83d\ude00') => qr/^delivery 1 0  - 1 b$/,
	with_id(('x' x 253) . '\u00e9')       => qr/^delivery 1 0  x{253}\S+ 1 b$/
);
foreach my $envelope (sort keys %strange)
{
	my $name = substr $envelope, 0, 40;
	$broker->command('DEL',   'shop', 'cqrs.delivered.shop');
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
$broker->command('SET', 'string',             'x');
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
like(
	$results[2],
	qr/^lease: could not consume: LEASE another connection/,
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
is_deeply([ @results[ 0 .. 5 ] ],
	[ 'ok', 'ok', '[]', 'ok', '[one]', 'ok' ], 'marks');
like($results[6], qr/^transport: .*text that is no mark$/,
	'a text too large');

is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is well');
$node->stop;

done_testing();
