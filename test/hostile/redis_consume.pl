# Whatever a Redis server sends, a connection that consumes ends with a reason or
# delivers what is there; its memory is bounded, and the server goes on
# (I19).
# CQRS_ONLY in the environment: a pattern of the misbehaviours to try.
use strict;
use warnings;

use FakeRedis    qw(:replies);
use MIME::Base64 qw(encode_base64);
use CqrsTest;
use PostgreSQL::Test::Utils;
use Redis;
use Test::More;
use TransportTest;

my $only      = $ENV{CQRS_ONLY};
my $MAX       = 1_000_000;
my $VIOLATION = qr/^transport: .*protocol violation by the broker/m;
my $LOST =
  qr/^transport: (connection lost|could not).*(closed the socket|reset by peer|Broken pipe)/m;
my $TOO_LARGE = qr/^transport: .*reply of the broker is too large$/m;
my $SILENT    = qr/^transport: .*(no answer in time|nothing came from)/m;

# Each has a place, octets or a function, and what the connection says.
my %cases;

sub case
{
	my ($at, $what, $octets, $result) = @_;
	$cases{"$at: $what"} = [ $at, $octets, $result ];
	return;
}

my %anything = (
	'another protocol' => [ "HTTP/1.1 400 Bad Request\r\n\r\n", $VIOLATION ],
	'zero bytes'       => [ "\0" x 100,                         $VIOLATION ],
	'string of -2 bytes'   => [ "\$-2\r\n",                  $VIOLATION ],
	'string of 2^63 bytes' => [ "\$9223372036854775808\r\n", $VIOLATION ],
	'string of 2^31 bytes' => [
		sub { $_[0]->put("\$2147483648\r\n"); $_[0]->flood('x') }, $TOO_LARGE
	],
	'array of -2'                 => [ "*-2\r\n",         $VIOLATION ],
	'array of 2^31 - 1'           => [ "*2147483647\r\n", $TOO_LARGE ],
	'arrays 1,000 deep'           => [ "*1\r\n" x 1000,   $VIOLATION ],
	'half a string, then the end' =>
	  [ sub { $_[0]->put("\$9\r\nx"); $_[0]->end }, $LOST ],
	'the end'                    => [ sub { $_[0]->end },   $LOST ],
	'a reset'                    => [ sub { $_[0]->reset }, $LOST ],
	'silence'                    => [ sub { },              $SILENT ],
	'an error with the password' => [
		"-ERR $FakeRedis::PASSWORD\r\n", qr/^(transport|route): .*ERR \*+$/m
	],
	'LEASE' =>
	  [ "-LEASE x belongs to y\r\n", qr/^lease: .*LEASE x belongs/m ],
	'WRONGTYPE' => [ "-WRONGTYPE no list\r\n",     qr/^route: .*WRONGTYPE/m ],
	'NOPERM'    => [ "-NOPERM no permissions\r\n", qr/^route: .*NOPERM/m ],
	'READONLY' => [ "-READONLY replica\r\n",    qr/^transport: .*READONLY/m ],
	'MOVED'    => [ "-MOVED 1 127.0.0.1:1\r\n", qr/^transport: .*MOVED/m ],
	'NOSCRIPT' => [ "-NOSCRIPT none\r\n",       qr/^transport: .*NOSCRIPT/m ],
	'an empty error' => [ "-\r\n", qr/^transport: could not \w+.*: $/m ]);
foreach my $at (qw(subscribe consume wait bind scan get))
{
	case ($at, $_, @{ $anything{$_} }) for sort keys %anything;
}

# Of the wrong kind.
my %replies = (
	nil     => "\$-1\r\n",
	integer => ":-1\r\n",
	status  => "+QUEUED\r\n",
	array   => array(array()),
	map     => "%1\r\n+a\r\n:1\r\n");
foreach my $at (qw(subscribe consume scan))
{
	case ($at, "$_ in reply", $replies{$_}, $VIOLATION)
	  for sort keys %replies;
}
case ('get', "$_ in reply", $replies{$_}, $VIOLATION)
  for qw(integer array map);
case (
	'subscribe',                'more than was ever delivered',
	":9223372036854775807\r\n", qr/^subscribed$/m);
case ('subscribe', 'another reply', ":0\r\n" . array(), $VIOLATION);
case (
	'lease',
	'deliveries too early',
	":1\r\n" . array(bulk('x')), $VIOLATION);

# Messages.
case (
	'consume',
	'more messages than asked for',
	array((bulk('x')) x 3), $VIOLATION);
case (
	'consume',
	'100,000 messages',
	array((bulk('x')) x 100_000),
	qr/$TOO_LARGE|$VIOLATION/);
case ('consume', 'two replies', array(bulk('x')) x 2, qr/unexpected reply/);
case (
	'consume',
	'an integer as message',
	array(":9223372036854775807\r\n"),
	qr/^transport: .*message of 9223372036854775807 bytes .*more than/m);
case ('consume', 'nil as message',   array("\$-1\r\n"),       $VIOLATION);
case ('consume', 'array as message', array(array(bulk('x'))), $VIOLATION);
case ('consume', 'error as message', array("-ERR no message\r\n"),
	$VIOLATION);
case (
	'consume',
	'a message that is too large',
	array(bulk('x' x 1_100_000)),
	qr/^transport: .*message of 1100000 bytes, more than/m);
case (
	'consume',
	'messages without end',
	sub {
		$_[0]->put("*2\r\n");
		$_[0]->flood("\$100\r\n" . 'x' x 100 . "\r\n");
	},
	qr/unexpected reply/);
case ('wait', 'something that is not there', bulk('x'), qr/^nothing$/m);
case ('wait', 'an array', array(bulk('x')),             qr/^nothing$/m);
case (
	'scan',
	'a cursor without end',
	array(bulk('7'), array((bulk('_kombu.binding.' . 'x' x 1000)) x 1000)),
	qr/did not list all its keys in time$/m);
case ('scan', 'a long cursor', array(bulk('7' x 1000), array()), $VIOLATION);
case (
	'scan',
	'keys that are none',
	array(bulk('0'), array("\$-1\r\n", ":7\r\n", array())), qr/^ok$/m);
case (
	'unbind',                'READONLY',
	"-READONLY replica\r\n", qr/^transport: .*READONLY/m);
case (
	'get',
	'a mark of 1 MB',
	bulk('x' x 1_000_000),
	qr/text that is no mark/);
case ('get', 'a mark with zero bytes', bulk("a\0b"), qr/^\[a\]$/m);
case ('set', 'READONLY', "-READONLY replica\r\n",
	qr/^transport: .*READONLY/m);

# Envelopes.
my $tag       = '"delivery_tag": "t"';
my $body      = '"body": "Ym9keQ=="';
my $coded     = '"body_encoding": "base64"';
my $whole     = qr/^delivery 1 0 \S* \S+ 4 body$/m;
my %envelopes = (
	'good' => [ "{$body, \"properties\": {$coded, $tag}}", $whole ],
	'body that is no Base64' => [
		"{\"body\": \"!!!!\", \"properties\": {$coded}}",
		qr/^delivery 1 0  - 59 \{"body": "!!!!"/m ],
	'body of three characters' => [
		"{\"body\": \"Ym9\", \"properties\": {$coded}}",
		qr/^delivery 1 0  - 58 /m ],
	'body without' => [
		"{\"properties\": {$coded, $tag}}",
		qr/^delivery 1 0  - \d+ \{"prop/m ],
	'body twice' =>
	  [ "{\"body\": \"eA==\", $body, \"properties\": {$coded}}", $whole ],
	'body in a deeper object' => [
		"{$body, \"x\": {\"body\": \"eA==\"}, \"properties\": {$coded, \"body\": \"eA==\"}}",
		$whole ],
	'body as array' =>
	  [ '{"body": ["Ym9keQ=="]}', qr/^delivery 1 0  - 22 /m ],
	'properties as array' => [ "{$body, \"properties\": [$coded]}", $whole ],
	'properties as text'  =>
	  [ "{$body, \"properties\": \"$tag\"}", qr/^delivery 1 0 /m ],
	'properties twice' => [
		"{$body, \"properties\": {\"message_id\": \"a\"}, \"properties\": {$coded, \"message_id\": \"b\"}}",
		qr/^delivery 1 0  b 4 body$/m ],
	'ids of wrong types' => [
		"{$body, \"properties\": {$coded, \"message_id\": 7, \"delivery_tag\": {}, \"delivery_info\": []}}",
		qr/^delivery 1 0  - 4 body$/m ],
	'encoding of another kind' => [
		"{$body, \"properties\": {\"body_encoding\": \"rot13\"}}",
		qr/^delivery 1 0  - 8 Ym9keQ==$/m ],
	'id of 10,000 characters' => [
		"{$body, \"properties\": {$coded, \"message_id\": \""
		  . 'i' x 10_000 . '"}}',
		qr/^delivery 1 0  - 4 body$/m ],
	'id with zero bytes' => [
		"{$body, \"properties\": {$coded, \"message_id\": \"a\\u0000b\"}}",
		qr/^delivery 1 0  - 4 body$/m ],
	'id of half a pair' => [
		"{$body, \"properties\": {$coded, \"message_id\": \"\\ud83d\"}}",
		qr/^delivery 1 0  \? 4 body$/m ],
	'key of invalid UTF-8' => [
		"{$body, \"properties\": {$coded, \"delivery_info\": {\"routing_key\": \"\xFF\xC3\"}}}",
		qr/^delivery 1 0 \?\? - 4 body$/m ],
	'escapes that end early' =>
	  [ "{\"body\": \"\\u00", qr/^delivery 1 0  - 14 /m ],
	'escape at the end' => [ "{\"body\": \"\\", qr/^delivery 1 0  - 11 /m ],
	'tag without'       => [ "{$body, \"properties\": {$coded}}", $whole ],
	'tag of 900,000 characters' => [
		"{$body, \"properties\": {$coded, \"delivery_tag\": \""
		  . 't' x 900_000 . '"}}',
		$whole ],
	'objects 100,000 deep' => [
		"{\"x\": "
		  . '{"a":' x 100_000 . '1'
		  . '}' x 100_000
		  . ", $body, \"properties\": {$coded}}",
		$whole ],
	'objects that are not closed' =>
	  [ '{"a":' x 100_000, qr/^delivery 1 0  - 500000 /m ],
	'closed more than opened' =>
	  [ "}" x 100_000 . "{$body}", qr/^delivery 1 0  - 100020 /m ],
	'closed before it is opened' =>
	  [ "}{{{$body}", qr/^delivery 1 0  - 23 /m ],
	'zero bytes' =>
	  [ "\0" x 1000, qr/^delivery 1 0  - 1000  ?\(with zeros\)$/m ],
	'slashes with backslashes' => [
		"{\"body\": \"" . '\/' x 400_000 . "\", \"properties\": {$coded}}",
		qr/^delivery 1 0  - 300000 /m ],
	'a body of 1 MB in Base64' => [
		'{"body": "'
		  . encode_base64('y' x $MAX, '')
		  . "\", \"properties\": {$coded, $tag}}",
		qr/^delivery 1 0  - 1000000 yyyy/m ],
	'a body of 1 MB and a byte' => [
		'{"body": "'
		  . encode_base64('y' x ($MAX + 1), '')
		  . "\", \"properties\": {$coded, $tag}}",
		qr/^transport: .*message of 1000001 bytes, more than the 1000000 accepted$/m
	]);
case ('consume', "envelope, $_", array(bulk($envelopes{$_}[0])),
	$envelopes{$_}[1])
  for sort keys %envelopes;

my %misbehaviours = map {
	my ($at, $octets) = @{ $cases{$_} };
	$_ => {
		at     => $at,
		answer => ref $octets ? $octets : sub { $_[0]->put($octets) } }
} keys %cases;
my $broker = FakeRedis->new(
	%misbehaviours,
	unread => {
		at     => 'bind',
		answer => sub {
			my ($connection) = @_;
			$connection->deaf;
			$connection->flood(":1\r\n");
		}
	},
	tags => {
		at     => 'consume',
		answer => sub {
			my ($connection, $what) = @_;
			my @words        = @{ $what->{words} };
			my @acknowledged = @words[ 13 .. $#words ];
			return $connection->put(
				(grep { length > 1000 } @acknowledged)
				? "-ERR long words\r\n"
				: array()) if @acknowledged || $words[10] == 0;
			$connection->put(
				array(
					bulk(
						"{$body, \"properties\": {$coded, \"delivery_tag\": \""
						  . 't' x 500_000 . '"}}')));
		}
	});
my $node = start_node($broker->url);
my $real = Redis->new('good');
$real->start;

my $timeout_ms = 1000 * ($ENV{CQRS_SLOW} // 1);
my %calls      = (
	bind   => [q{prepare | 0 | 'shop' | '{cqrs author}' | false}],
	unbind => [q{unbind | 0 | 'shop' | '{cqrs author}'}],
	scan   => [q{delete | 0 | 'shop'}],
	get    => [q{read_mark | 0 | 'mark'}],
	set    => [q{write_mark | 0 | 'mark' | 'x'}]);
my $met = 0;
foreach my $name (sort keys %cases)
{
	my ($at, undef, $result) = @{ $cases{$name} };
	next if defined $only && $name !~ $only;
	my $wait =
	  $result =~ /\^(nothing|subscribed)/
	  ? 500
	  : 10_000 * ($ENV{CQRS_SLOW} // 1);
	my @subscribe = (
		q{subscribe | 0 | 'shop' | 2},
		next_of(0),
		("next | 0 | $wait") x ($name =~ /two replies|without end/ ? 3 : 1));

	$broker->misbehave($name);
	my @lines = run(
		consumer(0, max => $MAX, timeout => $timeout_ms, heartbeat => 1),
		@{ $calls{$at} // \@subscribe },
		'close | 0 | false', 'memory');
	my $text = join "\n", @lines;
	like($text, $result, $name) or diag substr($text, 0, 500);
	unlike($text, qr/s3cret/, "$name: no password");
	ok($broker->hits > 0, "$name: met");

	if ($text !~ /no connection/)
	{
		cmp_ok($lines[-1], '<', 10_000, "$name: no memory is kept");
	}
	$met++;
}
cmp_ok($met, '>=', 150, 'these are many') unless defined $only;

# Acknowledgements of messages with long tags are short.
$broker->misbehave('tags');
my @lines = run(
	consumer(0, max => $MAX, timeout => $timeout_ms),
	q{subscribe | 0 | 'shop' | 20},
	('next | 0 | 5000') x 21,
	'acknowledge | 0 | 20',
	q{next | 0 | 500},
	'close | 0 | false',
	'memory');
like($lines[22], qr/^delivery 20 /, 'messages with long tags');
like($lines[-3], qr/^delivery 21 /, 'and short acknowledgements');

# A server that answers commands which it does not read: so much waits to be
# sent that the answers come before the commands.
$broker->misbehave('unread');
@lines = run(
	consumer(0, timeout => 60_000),
	sprintf(
		q{prepare | 0 | '%s' | (SELECT array_agg('cqrs ' || lpad(i::text, 250, 'k')) FROM generate_series(1, 20000) i) | false},
		'q' x 250),
	'close | 0 | false',
	'memory');
like(
	join("\n", @lines),
	qr/protocol violation by the broker: reply to a command that was not sent$/m,
	'a server that answers what it does not read');
cmp_ok($lines[-1], '<', 10_000, 'no memory is kept of commands');

$broker->behave;

# A good one.
@lines = run(
	consumer(0, url => $real->url),
	q{prepare | 0 | 'shop' | '{cqrs author}' | false},
	publisher(1, url => $real->url),
	publish(1, 'author', 'a'),
	q{subscribe | 0 | 'shop' | 2},
	next_of(0, 2),
	'acknowledge | 0 | 1',
	'close | 0 | true');
is($lines[-3], delivery(1, 'author', 'a'),      'a good server is used');
is($real->queue_length('shop'),              0, 'and acknowledged');
is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is well');
no_crash($node);
$node->stop;

done_testing();
