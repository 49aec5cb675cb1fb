# The transport by AMQP as a consumer uses it, called from SQL without the rest
# of the library: queues, subscriptions, deliveries, acknowledgements, marks,
# and a broker that is not what it says (I19).
use strict;
use warnings;

use FakeBroker qw(:frames);
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use TransportTest;

my $broker = RabbitMQ->new('main');
$broker->start;
my $url  = $broker->url;
my $node = start_node($url);
my @results;

# The exchange is declared by the queue that is bound to it.
@results = run(
	consumer(0),
	q{prepare | 0 | 'shop' | '{cqrs author,cqrs cqrs.shop.author,other book}' | false},
	q{prepare | 0 | 'shop' | '{cqrs author}' | false});
is_deeply(\@results, [ ('ok') x 3 ], 'a queue is made ready, also twice');
like($broker->ctl('list_exchanges', 'name', 'type', 'durable'),
	qr/^other\ttopic\ttrue$/m, 'exchange of a binding');
is( join(
		' ',
		sort grep { /^shop/ } split /\n/,
		$broker->ctl(
			'list_bindings', 'destination_name',
			'source_name',   'routing_key')) =~ s/\t/ /gr,
	'shop  shop shop cqrs author shop cqrs cqrs.shop.author shop other book',
	'bindings');

# RabbitMQ 4 shows the type that it has chosen.
like(
	$broker->ctl('list_queues', 'name', 'durable', 'arguments') =~ s/\s+/ /gr,
	qr/^name durable arguments shop true \[(\{"x-queue-type","classic"\})?\] $/,
	'queue without arguments, durable');

# What all transports have in common.
conform(
	$broker,
	wrong_url => $url =~ s{//[^@]*@}{//guest:wr0ng@}r,
	block     => sub { $broker->ctl('set_vm_memory_high_watermark', '0') },
	unblock   => sub { $broker->ctl('set_vm_memory_high_watermark', '0.4') });
run(consumer(0), q{prepare | 0 | 'shop' | '{cqrs author}' | false});

# Deliveries that arrive while something else is awaited are kept.
@results = run(
	publisher(1),
	publish(1, 'author', 'i', 'j'),
	consumer(0),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 1),
	q{prepare | 0 | 'shop' | '{other newspaper}' | false},
	q{unbind | 0 | 'shop' | '{cqrs nothing,nothing author,other newspaper}'},
	next_of(0, 2),
	'acknowledge | 0 | 2',
	'close | 0 | true');
is_deeply(
	[ @results[ 5 .. $#results ] ],
	[   'ok', 'ok', 'subscribed', 'ok', 'ok',
		delivery(1, 'author', 'i'),
		delivery(2, 'author', 'j'),
		'ok', 'ok' ],
	'deliveries in between');
unlike($broker->ctl('list_bindings'), qr/newspaper/, 'binding is gone again');

# A queue that is gone.
@results = run(
	consumer(0),
	q{delete | 0 | 'shop'},
	q{delete | 0 | 'shop'},
	q{unbind | 0 | 'shop' | '{cqrs author}'});
is_deeply(\@results, [ ('ok') x 4 ], 'a queue that is gone already');

# A queue with other arguments is used as it is.
@results = run(
	consumer(0),
	q{prepare | 0 | 'kept' | '{cqrs author}' | true},
	q{prepare | 0 | 'kept' | '{cqrs book}' | false},
	q{subscribe | 0 | 'kept' | 10},
	next_of(0),
	publisher(1),
	publish(1, 'book', 'k'),
	next_of(0),
	'close | 0 | false',
	(   consumer(0),
		q{subscribe | 0 | 'kept' | 10},
		next_of(0, 2),
		'close | 0 | false') x 2);
is_deeply(
	[ @results[ 0 .. 4, 8 ] ],
	[ 'ok', 'ok', 'ok', 'ok', 'subscribed', delivery(1, 'book', 'k') ],
	'quorum queue, also used by a declaration without arguments');
is_deeply(
	[ @results[ 13, 18 ] ],
	[ map { delivery(1, 'book', 'k', redelivered => 1, count => $_) } 1, 2 ],
	'returns are counted') or diag explain \@results;

# RabbitMQ 4 limits the deliveries of quorum queues, unless it is told otherwise.
$broker->ctl('eval',
	'application:set_env(rabbit, server_properties, [{<<"version">>, longstr, <<"4.0.0">>}]).'
);
run(consumer(0),
	q{prepare | 0 | 'unlimited' | '{cqrs author}' | true},
	q{write_mark | 0 | 'unlimited mark' | '1'},
	'close | 0 | true');
$broker->ctl('eval', 'application:set_env(rabbit, server_properties, []).');
like(
	$broker->ctl('list_queues', 'name', 'arguments'),
	qr/^\Q$_\E\t.*\{"x-delivery-limit",-1\}/m,
	"RabbitMQ 4: no delivery limit: $_"
) foreach 'unlimited', 'unlimited mark';

# What the broker refuses leaves the rest as it is.
@results = run(
	publisher(1),
	publish(1, 'author', 'l'),
	consumer(0),
	q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	q{prepare | 0 | 'shop' | '{amq.direct author}' | false},
	q{subscribe | 0 | 'shop' | 10},
	next_of(0),
	publish(1, 'author', 'm'),
	next_of(0),
	'close | 0 | true');
like(
	$results[5],
	qr/^route: could not declare the exchange: broker closed the channel: 40[36]/,
	'exchange of another type');
is($results[-2], delivery(1, 'author', 'm'), 'the connection goes on');

# One consumer; a queue that disappears or is not there.
@results = run(
	consumer(0),
	consumer(1),
	consumer(2),
	q{subscribe | 0 | 'shop' | 10},
	next_of(0, 2),
	q{subscribe | 1 | 'shop' | 10},
	next_of(1),
	q{delete | 2 | 'shop'},
	next_of(0),
	q{unsubscribe | 0},
	q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	q{subscribe | 0 | 'shop' | 10},
	next_of(0),
	q{subscribe | 2 | 'missing' | 10},
	next_of(2));
like(
	$results[7],
	qr/^lease: could not consume: .* 403 ACCESS_REFUSED - queue 'shop' in vhost '\/' in exclusive use$/,
	'another consumer');
is( $results[9],
	'cancelled: the queue was deleted, or its node has failed',
	'the queue is deleted');
is_deeply(
	[ @results[ 10 .. 13 ] ],
	[ 'ok', 'ok', 'ok', 'subscribed' ],
	'and declared anew');
like($results[-1], qr/^route: could not consume: .* 404 NOT_FOUND/,
	'no queue');

# The lease, and one that has to be free.
my $taken =
  qr/^lease: .*(?:405 RESOURCE_LOCKED|another connection has the lease)/;
@results = run(
	consumer(0, lease => 'mine'),
	consumer(1, lease => 'mine'),
	consumer(1, lease => 'other', vacant => 'mine'),
	'close | 0 | true',
	consumer(1, lease => 'other', vacant => 'mine'));
like($results[1], $taken, 'lease is taken');
like($results[2], $taken, 'lease is not free');
is_deeply([ @results[ 3, 4 ] ], [ 'ok', 'ok' ], 'lease is free again');

# While nodes of a cluster have different versions, a lease that has to be free can
# be of the other kind: the message of a queue, which somebody consumes.
run(consumer(0),
	q{prepare | 0 | 'token' | '{cqrs author}' | true},
	q{subscribe | 0 | 'token' | 1},
	next_of(0),
	consumer(1, lease => 'other', vacant => 'token'));
like($broker->ctl('list_queues', 'name'),
	qr/^token$/m, 'a lease of another kind stays');

# Marks.  Reading gives the message back, even if it is done many times.
@results = run(
	consumer(0),
	publisher(1),
	q{read_mark | 0 | 'mark'},
	q{write_mark | 1 | 'mark' | 'one'},
	q{read_mark | 0 | 'mark'},
	q{write_mark | 1 | 'mark' | 'two'},
	(q{read_mark | 0 | 'mark'}) x 25,
	q{write_mark | 1 | 'mark' | ''},
	q{read_mark | 1 | 'mark'},
	q{write_mark | 1 | 'mark' | repeat('z', 64)},
	q{read_mark | 0 | 'mark'});
is_deeply(
	[ @results[ 0 .. $#results - 1 ] ],
	[   'ok',           'ok', '[]', 'ok', '[one]', 'ok',
		('[two]') x 25, 'ok', '[]', 'ok' ],
	'marks');
is( $results[-1],
	'transport: could not read the mark: unexpected answer of the broker: message that is no mark',
	'a text too large');

# From RabbitMQ 4 on it is a quorum queue, whose length is reported now and then.
ok(RabbitMQ->poll_until(sub { $broker->queue_length('mark') == 1 }, 60),
	'one message');

# In quorum queues too, which a mark is where they are the default; the mark
# outlives the broker.
@results = run(
	consumer(0),
	publisher(1),
	q{prepare | 0 | 'quorum mark' | '{}' | true},
	q{write_mark | 1 | 'quorum mark' | 'one'},
	(q{read_mark | 0 | 'quorum mark'}) x 25);
is_deeply(\@results, [ ('ok') x 4, ('[one]') x 25 ],
	'mark in a quorum queue');
run(publisher(1), q{write_mark | 1 | 'mark' | 'kept'});
$broker->restart;
@results = run(consumer(0), q{read_mark | 0 | 'mark'});
is_deeply(\@results, [ 'ok', '[kept]' ], 'mark is durable');

# In an alarm marks are read, and are not written; a consumer goes on.
run(consumer(0), q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	publisher(1), publish(1, 'author', 'n', 'o'));
$broker->ctl('set_vm_memory_high_watermark', '0');
@results = run(
	consumer(0),
	publisher(1),
	q{read_mark | 0 | 'mark'},
	q{write_mark | 1 | 'mark' | 'late'},
	'close | 1 | false',
	q{subscribe | 0 | 'shop' | 1},
	next_of(0, 2),
	'acknowledge | 0 | 1',
	next_of(0),
	'acknowledge | 0 | 2',
	q{unsubscribe | 0},
	next_of(0),
	q{prepare | 0 | 'shop' | '{cqrs book}' | false},
	'close | 0 | true');
$broker->ctl('set_vm_memory_high_watermark', '0.4');
is_deeply(
	[ @results[ 0 .. 2 ] ],
	[ 'ok', 'ok', '[kept]' ],
	'read in an alarm');
like(
	$results[3],
	qr/^transport: could not write the mark: the broker accepts no messages: low on memory$/,
	'not written in an alarm');
is_deeply(
	[ @results[ 4 .. $#results ] ],
	[   'ok', 'ok', 'subscribed', delivery(1, 'author', 'n'),
		'ok', delivery(2, 'author', 'o'),
		'ok', 'ok', 'cancelled: ', 'ok', 'ok' ],
	'consumed in an alarm') or diag explain \@results;

# A broker that is none.
sub deliver
{
	my ($tag, $consumer) = @_;
	return method(1, 60, 60,
			shortstr($consumer // 'cqrs-1')
		  . pack('Q>C', $tag, 0)
		  . shortstr('cqrs')
		  . shortstr('author'));
}

sub header
{
	my ($size, $properties) = @_;
	return frame(2, 1,
		pack('nnQ>', 60, 0, $size) . ($properties // pack('n', 0)));
}

sub body { return frame(3, 1, $_[0]); }

my $ok = method(1, 60, 21, shortstr('cqrs-1'));

# A table with one field, or octets in its place.
sub headers
{
	my ($octets) = @_;
	return
	  pack('n', 1 << 13 | 1 << 7) . pack('N/a*', $octets) . shortstr('m1');
}

my $count  = shortstr('x-delivery-count');
my %answer = (
	'before the subscription' =>
	  [ deliver(1), qr/^transport: .*delivery without a subscription$/, 1 ],
	'of another consumer' =>
	  [ $ok . deliver(1, 'other'), qr/delivery without a subscription$/ ],
	'with tag 0'     => [ $ok . deliver(0), qr/delivery out of order$/ ],
	'with tag 2'     => [ $ok . deliver(2), qr/delivery out of order$/ ],
	'with tag again' => [
		$ok . (deliver(1) . header(0)) x 2,
		qr/^delivery 1 0 author - 0 \n.*delivery out of order$/m, 3 ],
	'more than the window' => [
		$ok . join('', map { deliver($_) . header(0) } 1 .. 3),
		qr/(delivery .*\n){2}.*more deliveries than the window has$/,
		4 ],
	'larger than its header' => [
		$ok . deliver(1) . header(3) . body('four'),
		qr/delivery of another size than its header says$/ ],
	'with an empty frame' => [
		$ok . deliver(1) . header(3) . body(''),
		qr/delivery of another size than its header says$/ ],
	'of 2^63 bytes' => [
		$ok . deliver(1) . header(1 << 63),
		qr/message of 9223372036854775808 bytes, more than the 20000000 accepted$/
	],
	'without content' => [
		$ok . deliver(1) . deliver(2),
		qr/method within the content of a delivery$/ ],
	'without end' => [
		$ok . deliver(1) . header(1_000_000) . body('x') . deliver(2),
		qr/method within the content of a delivery$/ ],
	'without method' => [ $ok . header(1), qr/content of no message$/ ],
	'without header' =>
	  [ $ok . deliver(1) . body('one'), qr/content of no message$/ ],
	'of another class' => [
		$ok . deliver(1) . frame(2, 1, pack('nnQ>n', 50, 0, 1, 0)),
		qr/content of another class$/ ],
	'on another channel' =>
	  [ $ok . frame(3, 2, 'x'), qr/frame on a wrong channel$/ ],
	'a malformed method' => [
		$ok . method(1, 60, 60, "\xFFcqrs"),
		qr/malformed AMQP_BASIC_DELIVER_METHOD$/ ],
	'another consume-ok' =>
	  [ $ok . $ok, qr/unexpected AMQP_BASIC_CONSUME_OK_METHOD$/ ],
	'a cancel-ok' => [
		$ok . method(1, 60, 31, shortstr('cqrs')),
		qr/unexpected AMQP_BASIC_CANCEL_OK_METHOD$/ ],
	'a cancel of another' => [
		$ok . method(1, 60, 30, shortstr('other') . "\x01"),
		qr/unexpected AMQP_BASIC_CANCEL_METHOD$/ ],
	'a confirm' =>
	  [ $ok . method(1, 60, 80, pack('Q>C', 1, 0)), qr/unexpected method/ ],
	'a qos-ok' =>
	  [ $ok . method(1, 60, 11), qr/unexpected AMQP_BASIC_QOS_OK_METHOD$/ ],
	'headers that end early' => [
		$ok . deliver(1) . header(1, pack('nN', 1 << 13, 100)) . body('x'),
		qr/^delivery 1 0 author - 1 x$/m ],
	'headers of garbage' => [
		$ok . deliver(1) . header(1, headers("\xFFgarbage")) . body('x'),
		qr/^delivery 1 0 author m1 1 x$/m ],
	'headers of a kind unknown' => [
		$ok . deliver(1) . header(1, headers("${count}?x")) . body('x'),
		qr/^delivery 1 0 author m1 1 x$/m ],
	'headers with a table in a table' => [
		$ok
		  . deliver(1)
		  . header(
			1,
			headers(
					shortstr('t') . 'F'
				  . pack('N/a*', "\x01aF" x 1000)
				  . "${count}l"
				  . pack('q>', 7)))
		  . body('x'),
		qr/^delivery 1 7 author m1 1 x$/m ],
	'a count as text' => [
		$ok
		  . deliver(1)
		  . header(1, headers("${count}S" . pack('N/a*', '12345678901')))
		  . body('x'),
		qr/^delivery 1 0 author m1 1 x$/m ],
	'an id that is no text' => [
		$ok
		  . deliver(1)
		  . header(1, pack('n', 1 << 7) . shortstr("m\n1"))
		  . body('x'),
		qr/^delivery 1 0 author - 1 x$/m ],
	'no properties at all' => [
		$ok . deliver(1) . header(1, '') . body('x'),
		qr/^delivery 1 0 author - 1 x$/m ]);

sub get_ok
{
	my ($size, @bodies) = @_;
	return method(2, 60, 71,
		pack('Q>C', 1, 0) . shortstr('') . shortstr('mark') . pack('N', 0))
	  . frame(2, 2, pack('nnQ>n', 60, 0, $size, 0))
	  . join('', map { frame(3, 2, $_) } @bodies);
}

my %mark = (
	'of another size'   => [ get_ok(3, 'four'), qr/another size/ ],
	'of 2^64 - 1 bytes' =>
	  [ get_ok(18446744073709551615, 'x'), qr/message that is no mark/ ],
	'with a body first' => [ frame(3, 2, 'x'), qr/content of no message/ ],
	'of a method'       =>
	  [ method(2, 60, 80, pack('Q>C', 1, 0)), qr/unexpected method/ ],
	'with a method within' =>
	  [ get_ok(3) . method(2, 60, 72, shortstr('')), qr/another size/ ],
	'that closes the channel' => [
		method(2, 20, 40, close_args(404, 'gone', 60, 70)),
		qr/^route: .*404 gone/m ],
	'that closes the other channel' => [
		method(1, 20, 40, close_args(404, 'gone', 60, 20)),
		qr/^transport: .*404 gone/m ],
	'in parts' => [ get_ok(3, 'a', 'bc'), qr/^\[abc\]$/m ]);

my $hostile = FakeBroker->new(
	(   map {
			my $octets = $answer{$_}[0];
			$_ => {
				at     => 'basic.consume',
				answer => sub { $_[0]->put($octets) }
			}
		} keys %answer),
	(   map {
			my $octets = $mark{$_}[0];
			"mark $_" => {
				at     => 'basic.get',
				answer => sub { $_[0]->put($octets) }
			}
		} keys %mark),
	between => {
		at     => 'queue.declare',
		answer => sub {
			$_[0]->put(deliver(1) . header(100_000) . body('x' x 100_000));
		}
	},
	flood => {
		at     => 'queue.declare',
		answer => sub { $_[0]->flood(method(0, 10, 61)) }
	},
	silent => { at => 'queue.declare', answer => sub { } });

for my $name (sort keys %answer)
{
	$hostile->misbehave($name);
	@results = run(
		consumer(0, url => $hostile->url),
		q{subscribe | 0 | 'shop' | 2},
		next_of(0, $answer{$name}[2] // 2),
		'close | 0 | false', 'memory');
	like(join("\n", @results[ 2 .. $#results - 2 ]),
		$answer{$name}[1], "delivery $name");
	cmp_ok($results[-1], '<', 10_000, "memory of a delivery $name");
}
for my $name (sort keys %mark)
{
	$hostile->misbehave("mark $name");
	@results = run(
		consumer(0, url => $hostile->url),
		q{read_mark | 0 | 'mark'},
		'close | 0 | false');
	like($results[1], $mark{$name}[1], "mark $name");
}

# No answer.
$hostile->misbehave('silent');
@results = run(
	consumer(0, url => $hostile->url, timeout => 300),
	q{prepare | 0 | 'shop' | '{}' | false},
	'close | 0 | false');
is($results[1], 'transport: could not declare the queue: no answer in time',
	'no answer');

# A delivery that was kept for an owner who closes the connection.
$hostile->misbehave('between');
@results = run(
	consumer(0, url => $hostile->url, timeout => 1000),
	q{subscribe | 0 | 'shop' | 2},
	next_of(0),
	q{prepare | 0 | 'shop' | '{}' | false},
	'close | 0 | false',
	'memory');
is_deeply(
	[ @results[ 2, 3 ] ],
	[   'subscribed',
		'transport: could not declare the queue: no answer in time' ],
	'a delivery in place of the answer');
cmp_ok($results[-1], '<', 10_000, 'no memory of it is left');

# Without end.
$hostile->misbehave('flood');
@results = run(
	consumer(0, url => $hostile->url),
	q{prepare | 0 | 'shop' | '{}' | false},
	'close | 0 | false');
is( $results[1],
	'transport: could not declare the queue: protocol violation by the broker: too much that was not asked for',
	'events without end');

# Not killed: the server still runs, and no assertion failed.
is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is well');
$node->stop;

done_testing();
