# Publishing to Redis as Kombu does: envelopes, routing, order, confirms,
# messages without a queue, and queues that are none.
use strict;
use warnings;
use utf8;

use CqrsTest;
use Redis;
use Test::More;

my $broker = Redis->new('main');
$broker->start;
my $node = new_master('redis', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '300ms'
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# A counter of cqrs.stats.
sub counter
{
	my ($name) = @_;
	return query("SELECT $name FROM cqrs.stats");
}

query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	CREATE TABLE book (id int PRIMARY KEY, title text);
	SELECT cqrs_register('book', exchange => 'library')});
$broker->bind('replica', 'author');
wait_for_state($node, 'publishing');

# An envelope.
query(
	q{BEGIN; SET LOCAL cqrs.correlation_id = 'c"1'; INSERT INTO author VALUES (1, 'Ada ❤'); COMMIT}
);
wait_published($node);
my ($message) = $broker->drain('replica');
my $properties = $message->{properties};
is($message->{body}{instance_data}{name}, 'Ada ❤', 'body');
is_deeply(
	$properties->{delivery_info},
	{ exchange => 'cqrs', routing_key => 'author' },
	'exchange and routing key');
is($properties->{delivery_mode},             2,            'persistent');
is($properties->{priority},                  0,            'priority');
is($properties->{body_encoding},             'base64',     'body encoding');
is($message->{envelope}{'content-type'},     'text/plain', 'content type');
is($message->{envelope}{'content-encoding'}, 'utf-8', 'content encoding');
is_deeply($message->{envelope}{headers}, {}, 'headers');
like($properties->{message_id}, qr/^[-\d]+-\d+$/, 'message id');
is( $properties->{correlation_id},
	$message->{body}{correlation_id},
	'correlation id');
like(
	$properties->{delivery_tag},
	qr/^\Q$properties->{message_id}\E-[0-9a-f]{8}$/,
	'delivery tag');
cmp_ok(abs($properties->{timestamp} - time), '<', 60, 'time');

# Two queues have different tags, and a queue that is bound twice has one copy.
$broker->bind('other', 'author');
$broker->bind_key('cqrs', 'other', '#');
query(q{INSERT INTO author VALUES (2, 'Bob')});
wait_published($node);
my @copies = map { $broker->drain($_) } qw(replica other);
is(scalar(@copies), 2, 'one copy for each queue');
isnt(
	$copies[0]{properties}{delivery_tag},
	$copies[1]{properties}{delivery_tag},
	'tags of copies differ');
$broker->command('DEL', '_kombu.binding.cqrs');
$broker->bind('replica', 'author');

# Many, in order.
query(
	q{INSERT INTO author SELECT i, 'x' FROM generate_series(10, 5009) i;
	UPDATE author SET name = 'y' WHERE id >= 10;
	UPDATE author SET name = 'z' WHERE id >= 10});
wait_published($node);
my @messages = $broker->drain('replica');
my @expected;
foreach my $id (10 .. 5009)
{
	push @expected, [ 'author', $id, 0 ], [ 'author', $id, 1 ],
	  [ 'author', $id, 2 ];
}
is(scalar(@messages), 15000, 'all messages, once');
is(join("\n", ledger_errors(\@messages, \@expected)), '',    'in order');
is(counter('confirmed'),                              15002, 'confirmed');
is(counter('returned'),                               0, 'none is returned');

# They went to one queue, so they did not pass through the script.
my $direct = sub {
	return ($broker->command('INFO', 'commandstats') =~
		  /^cmdstat_exec:calls=(\d+)/m)[0];
};
cmp_ok($direct->(), '>=', 50, 'pushed directly');

# Another queue is bound: it has all that comes later, and the first one as well.
$broker->bind_key('cqrs', 'other', '#');
query(q{UPDATE author SET name = 'x' WHERE id >= 10});
wait_published($node);
foreach my $queue (qw(replica other))
{
	is_deeply(
		[ map { $_->{body}{instance_pk} } $broker->drain($queue) ],
		[ 10 .. 5009 ],
		"in order, once in each of two queues: $queue");
}

# Both are there when the server forgets the script.
$broker->command('SCRIPT', 'FLUSH');
my $connected = query('SELECT connected_at FROM cqrs.stats');
query(q{UPDATE author SET name = 'y' WHERE id >= 10});
wait_published($node);
is(query('SELECT connected_at FROM cqrs.stats'),
	$connected, 'no new connection when the script is gone');
foreach my $queue (qw(replica other))
{
	is($broker->queue_length($queue), 5000, "nothing is lost: $queue");
}
$broker->command('DEL', '_kombu.binding.cqrs', 'replica', 'other');
$broker->bind('replica', 'author');

# Large ones, which are sent in pieces, among small ones.
query(
	q{DELETE FROM author;
	INSERT INTO author SELECT i, repeat(chr(65 + i % 26), i * 7001)
	FROM generate_series(1, 1000, 111) i});
wait_published($node);
my @names = map { $_->{raw} =~ /"name":"(\w*)"/ } $broker->drain('replica');
is( join(' ', map { substr($_, 0, 1) . length } @names),
	join(' ',
		map { chr(65 + $_ % 26) . $_ * 7001 } map { 1 + 111 * $_ } 0 .. 9),
	'large messages are whole');

# Another exchange, and no queue for its messages.
query(q{INSERT INTO book VALUES (1, 'a')});
wait_published($node);
is(counter('returned'), 1, 'a message without queue is counted');
$broker->bind_key('library', 'shelf', 'book');
query(q{INSERT INTO book VALUES (2, 'b')});
wait_published($node);
my @books = $broker->drain('shelf');
is(scalar(@books),      1,         'another exchange');
is($books[0]{exchange}, 'library', 'its name in the envelope');

# Messages without queue are kept, on demand.
$node->append_conf('postgresql.conf', "cqrs.unroutable = 'keep'");
$node->reload;
$broker->command('DEL', '_kombu.binding.library');
query(
	q{INSERT INTO book SELECT i, 'c' FROM generate_series(10, 29) i;
	INSERT INTO author VALUES (-1, 'flows on')});
$node->poll_query_until('postgres', 'SELECT held > 0 FROM cqrs.stats')
  or BAIL_OUT('not held');
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('replica') == 1 }, 60),
	'another master flows on');
$broker->bind_key('library', 'shelf', 'book');
wait_published($node);
is( join(' ', map { $_->{body}{instance_pk} } $broker->drain('shelf')),
	join(' ', 10 .. 29),
	'kept messages arrive in order when a queue is bound');

# A queue that is no list: its master is held, others flow on.
$broker->command('SET', 'broken', 'no list');
$broker->bind_key('library', 'broken', 'book');
$broker->drain('replica');
query(
	q{INSERT INTO book SELECT i, 'd' FROM generate_series(40, 59) i;
	INSERT INTO author SELECT i, 'e' FROM generate_series(6000, 6999) i});
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('replica') >= 1000 }, 60),
	'another master flows on beside one whose queue is no list');
like(counter('last_error'), qr/WRONGTYPE.*broken/, 'error');
is($broker->queue_length('shelf'), 0, 'no queue gets what another cannot');
$broker->command('DEL', 'broken');
wait_published($node);
is( join(' ', map { $_->{body}{instance_pk} } $broker->drain('shelf')),
	join(' ', 40 .. 59),
	'they arrive in order when it is mended');

# Settings of the server that can lose messages, read with each connection.
sub advice
{
	my (@commands) = @_;

	$broker->command(@$_) foreach @commands;
	query('SELECT cqrs_pause()');
	wait_for_state($node, 'paused');
	query('SELECT cqrs_resume()');
	wait_for_state($node, 'publishing');
	return query(
		q{SELECT status, detail, remedy FROM cqrs_check() WHERE item = 'broker settings'}
	);
}

is(advice(), '', 'nothing can be lost');
is( advice([qw(CONFIG SET appendfsync no)]),
	q{warning|a crash of the broker's host loses messages of many seconds, because appendfsync is no|in the broker's configuration: appendfsync always},
	'no flush');
is( advice(
		[qw(CONFIG SET appendonly no)],
		[qw(CONFIG SET maxmemory-policy allkeys-lru)],
		[qw(CONFIG SET maxmemory 100mb)]),
	q{warning|a crash of the broker loses what is in its queues, because it writes no append-only file; if its memory is full, the broker deletes queues, bindings or leases, because maxmemory-policy is allkeys-lru|in the broker's configuration: appendonly yes, appendfsync always; maxmemory-policy noeviction},
	'no file, and keys are deleted');
is(advice([qw(ACL SETUSER default -info)]), '', 'it may not be read');
is( advice(
		[qw(ACL SETUSER default +info)], [qw(CONFIG SET appendonly yes)],
		[qw(CONFIG SET maxmemory 0)],    [qw(ACL SETUSER default -config)]),
	'',
	'nor how the file is flushed');

done_testing();
