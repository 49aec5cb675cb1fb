# Messages that are none, sent among good ones: the consumer's process stays,
# every bad one is a dead letter or is applied by the rules, every neighbour is
# applied, memory stays bounded, and the counters add up.  CQRS_SEED in the
# environment repeats a run.
use strict;
use warnings;

use CqrsTest;
use Digest::MD5 qw(md5_hex);
use JSON::PP    ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RawPublish;
use Test::More;

my $SEED        = $ENV{CQRS_SEED} // int(rand(1 << 31));
my $LARGE_BYTES = 16 * 1024 * 1024;

# A message of 16 MB is kept as it is while its text, its value and its row are
# made of it; a batch has no two of them.
my $PEAK_KB = 200_000;

# What can become of a message that is not tried again.  All of these count it
# once its transaction has committed.
my $ENDS = 'inserted + updated + deleted + duplicates + outdated + absent'
  . ' + ignored + handled + repeated + unknown + dead_letters';

srand($SEED);
note("CQRS_SEED=$SEED");

my $broker = RabbitMQ->new('malformed');
$broker->start;
my $node = new_master('malformed', $broker);
my $json = JSON::PP->new->canonical->allow_nonref;

# A column of each kind of value that is read in a way of its own.  Without
# retries each failure is a dead letter at once.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE thing (id int PRIMARY KEY, name text, price numeric, ratio float8,
		sold boolean, at timestamptz, u uuid, doc jsonb, raw json, tags text[],
		bytes bytea);
	CREATE TABLE neighbour (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('thing', max_retries => 0),
		cqrs_register_replica('neighbour', max_retries => 0);
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# One of the arguments, by chance.
sub any { return $_[ int rand @_ ]; }

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub peak_kb
{
	my ($pid) = @_;
	my ($kb)  = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;
	return $kb;
}

# A good message, as a structure whose parts can be replaced.
sub good
{
	my ($id) = @_;

	return {
		signal_type   => 'SAVE',
		cqrs_id       => 'thing',
		instance_pk   => $id,
		instance_data => {
			id            => $id,
			cqrs_revision => 0,
			cqrs_updated  => '2026-01-01 01:02:03.456789+00:00',
			name          => 'Ada',
			price         => '12.50',
			ratio         => 0.5,
			sold          => JSON::PP::true,
			at            => '2026-01-01T01:02:03Z',
			u             => '11111111-2222-3333-4444-555555555555',
			doc           => { a => [ 1, { b => undef } ] },
			raw           => ['x'],
			tags          => [ 'a', 'b' ],
			bytes         => '\\x00ff' },
		previous_data  => undef,
		correlation_id => undef,
		retries        => 0,
		expires        => undef,
		meta           => {} };
}

# The same as bytes, with the text of a value in place of what is there.
sub good_with
{
	my ($id, $key, $text) = @_;
	my $message = good($id);

	my $part = exists $message->{$key} ? $message : $message->{instance_data};
	$part->{$key} = 'PLACE';
	return $json->encode($message) =~ s/"PLACE"/$text/r;
}

my @VALUES = (
	'null',    'true', '1',         '-1.5',
	'1e400',   '"x"',  '""',        '"\\ud800"',
	'[]',      '{}',   '[1]',       '[[1],[2,3]]',
	'{"a":1}', 'NaN',  '-Infinity', '"2026-99-99"',
	'01',      'nul');
my @KEYS = (
	qw(signal_type cqrs_id instance_pk instance_data previous_data correlation_id
	  retries expires meta id cqrs_revision cqrs_updated name price ratio sold at
	  u doc raw tags bytes unknown));
my @NO_UTF8 = (
	"\xff",             "\x80",
	"\xc0\x80",         "\xed\xa0\x80",
	"\xe2\x82",         "\xf0\x82\x82\xac",
	"\xf5\x80\x80\x80", "\xc3");
my @HEADERS = (
	'[]',
	'[{<<"x-delivery-count">>, longstr, <<"many">>}]',
	'[{<<"x-delivery-count">>, long, -5}]',
	'[{<<"x-delivery-count">>, table, [{<<"a">>, array, [{long, 1}]}]}]',
	'[{<<"x-death">>, array, [{table, [{<<"count">>, double, 1.5}]}]}]',
	'[{<<"a">>, void, undefined}, {<<"b">>, bool, true}, {<<"c">>, binary, <<0,255>>}]',
	'[{<<"a">>, timestamp, 1}, {<<"a">>, signedint, -1}, {<<>>, float, 0.5}]'
);

# Kinds of malformed messages: how many, what becomes of them ("dead",
# "applied" or "either"), and a function that gets an id of its own and returns
# the body and properties, if any.
my @KINDS = (
	[   25, 'dead',
		'truncated',
		sub {
			my $body = $json->encode(good($_[0]));
			return substr $body, 0, int rand length $body;
		}
	],
	[   48,           'either',
		'wrong type', sub { good_with($_[0], any(@KEYS), any(@VALUES)) } ],
	[   10,
		'applied',
		'duplicate key, the last one counts',
		sub {
			my $body = $json->encode(good($_[0]));
			my $key  = any(qw(instance_data signal_type retries cqrs_id));
			return $body =~ s/^\{/{"$key":@{[ any(@VALUES[ 0 .. 11 ]) ]},/r;
		}
	],
	[   5, 'either',
		'duplicate key',
		sub {
			my $body = $json->encode(good($_[0]));
			my ($key, $value) = (any(@KEYS), any(@VALUES));
			return $body =~ s/\}$/,"$key":$value}/r;
		}
	],
	[   10, 'dead',
		'huge number',
		sub {
			my $digits = any(20, 1000, 150_000);
			return good_with(
				$_[0],
				any(qw(id cqrs_revision retries)),
				'9' x $digits);
		}
	],
	[   5, 'dead',
		'huge exponent',
		sub {
			return good_with(
				$_[0],
				any(qw(id cqrs_revision price ratio)),
				any('', '-') . '1e' . '9' x any(6, 9, 30));
		}
	],
	[   5, 'applied', 'many digits',
		sub { return good_with($_[0], 'price', '9' x any(100, 100_000)); } ],
	[   8, 'dead',
		'deep nesting',
		sub {
			my $depth = any(5001, 100_000);
			my ($open, $close) =
			  @{ any([ '[', ']' ], [ '{"a":', '}' ]) };
			my $inner = $open eq '[' ? '' : '1';
			return good_with(
				$_[0],
				any(qw(instance_pk doc raw name unknown meta)),
				$open x $depth . $inner . $close x any($depth, 0));
		}
	],
	[   3,
		'applied',
		'deep nesting that is allowed',
		sub {
			return good_with($_[0], any(qw(raw meta)),
				'[' x 4900 . ']' x 4900);
		}
	],
	[   5, 'dead', 'NUL',
		sub {
			return good_with($_[0],
				any(qw(name doc cqrs_id instance_pk u tags)),
				'"a\\u0000b"');
		}
	],
	[   5, 'dead',
		'half a surrogate pair',
		sub {
			return good_with(
				$_[0],
				any(qw(name doc cqrs_id correlation_id)),
				any('"\\ud800"',        '"\\udc00"',
					'"\\ud800\\ud800"', '"\\udc00\\ud800"',
					'"\\ud800x"'));
		}
	],
	[   18, 'dead',
		'no UTF-8',
		sub {
			my $body  = $json->encode(good($_[0]));
			my $bytes = any(@NO_UTF8);
			$body =~ s/Ada/A$bytes a/;
			return $body;
		}
	],
	[   8, 'dead', 'empty',
		sub {
			return any('', ' ', "\n\n", 'null', '[]', '""', '{}', "\0",
				"\xef\xbb\xbf" . $json->encode(good($_[0])));
		}
	],
	[   1,
		'applied',
		'large',
		sub {
			return good_with($_[0], 'name', '"' . 'x' x $LARGE_BYTES . '"');
		}
	],
	[   1, 'dead',
		'large, truncated',
		sub { return '{"cqrs_id":"thing","name":"' . 'x' x $LARGE_BYTES } ],
	[   1, 'dead',
		'large, brackets',
		sub { return '{"a":' . '[' x $LARGE_BYTES } ],
	[ 1, 'dead', 'large, bytes', sub { return "\0" x $LARGE_BYTES } ],
	[   1, 'dead',
		'large, many keys',
		sub {
			my $keys = '"":0,' x ($LARGE_BYTES / 5);
			return $json->encode(good($_[0])) =~
			  s/"instance_data":\{/"instance_data":{$keys/r;
		}
	],
	[   1, 'dead',
		'large, key of many parts',
		sub {
			return good_with($_[0], 'instance_pk',
				'[' . '0,' x ($LARGE_BYTES / 2) . '0]');
		}
	],
	[   10,
		'applied',
		'content type',
		sub {
			my $type = any(
				'application/json', 'application/x-pickle',
				'',                 'x' x 255,
				"text\0plain");
			return ($json->encode(good($_[0])),
					qq({content_type, <<"@{[ erlang($type) ]}">>},)
				  . q( {content_encoding, <<"gzip">>}));
		}
	],
	[   15,
		'applied',
		'properties',
		sub {
			my $id = any("\0", "\xff\xfe", 'x' x 255, '', "a\nb");
			return (
				$json->encode(good($_[0])),
				join ', ',
				'{headers, ' . any(@HEADERS) . '}',
				'{delivery_mode, ' . any(1, 2) . '}',
				'{priority, ' . any(0, 255) . '}',
				'{timestamp, ' . any(0, (1 << 63)) . '}',
				qq({message_id, <<"@{[ erlang($id . $_[0]) ]}">>}),
				qq({correlation_id, <<"@{[ erlang(any(qw(a), '', "\0")) ]}">>})
			);
		}
	],
	[   14, 'either',
		'bytes changed by chance',
		sub {
			my $body = $json->encode(good($_[0]));
			for (1 .. 1 + int rand 4)
			{
				my $at = int rand length $body;
				any(sub { substr($body, $at, 1) = chr int rand 256 },
					sub { substr($body, $at, 1 + int rand 8) = '' },
					sub {
						substr($body, $at, 0) = substr $body, 0, int rand 40;
					},)->();
			}
			return $body;
		}
	]);

# The text of bytes within Erlang's <<"">>.
sub erlang
{
	my ($bytes) = @_;
	return join '',
	  map { sprintf '\\x{%x}', ord } split //, substr $bytes, 0, 255;
}

# All of them, by chance, with their ids: in "thing" from 1 on.
my @bad;
foreach my $kind (@KINDS)
{
	my ($count, $becomes, $name, $make) = @$kind;
	push @bad,
	  map { { becomes => $becomes, kind => $name, make => $make } }
	  1 .. $count;
}
is(scalar(@bad), 200, 'malformed messages');
for (my $i = @bad; $i > 1; $i--)
{
	my $j = int rand $i;
	@bad[ $i - 1, $j ] = @bad[ $j, $i - 1 ];
}

# The keys are far from each other and from what stands for a key in @VALUES: a
# message that is applied removes an earlier dead letter of its row.
my $KEY = 1_000_003;
foreach my $i (0 .. $#bad)
{
	my $bad = $bad[$i];
	my $id  = $KEY * ($i + 1);
	my ($body, $properties) = $bad->{make}->($id);
	%$bad = (
		%$bad,
		exchange    => 'cqrs',
		routing_key => 'thing',
		id          => $id,
		body        => $body,
		properties  => $properties // '{content_type, <<"text/plain">>}');
}

sub neighbour
{
	my ($id) = @_;
	return {
		exchange    => 'cqrs',
		routing_key => 'neighbour',
		properties  => '{content_type, <<"text/plain">>}, {delivery_mode, 2}',
		body        => $json->encode(
			{   signal_type   => 'SAVE',
				cqrs_id       => 'neighbour',
				instance_pk   => $id,
				instance_data => {
					id            => $id,
					cqrs_revision => 0,
					cqrs_updated  => '2026-01-01 00:00:00+00:00',
					name          => "n$id" } }) };
}

my $process =
  query('SELECT pid, started_at, connects FROM cqrs.consumer_stats');
my ($pid) = $process =~ /^(\d+)/;
my $before = peak_kb($pid);
publish_raw($broker, neighbour(0), map { ($_, neighbour($_->{id})) } @bad);
my $sent = 2 * @bad + 1;
wait_consumer($node, 'postgres', "$ENDS >= $sent");
my $peak = peak_kb($pid);

is(query('SELECT pid, started_at, connects FROM cqrs.consumer_stats'),
	$process, 'the consumer is the same process, with the same connection');
is( query('SELECT count(*), min(id), max(id) FROM neighbour'),
	'201|0|' . 200 * $KEY,
	'every neighbour is applied');
is(query('SELECT waiting FROM cqrs.consumer_stats'), 0, 'nothing waits');
cmp_ok($peak, '<', $PEAK_KB, "memory is bounded ($before kB before)")
  unless $ENV{CQRS_SLOW};

# What became of each: a dead letter has its body, an applied one its row.
my %dead;
$dead{$_}++
  foreach split /\n/, query('SELECT md5(body) FROM cqrs.dead_letters');
my %applied = map { $_ => 1 } split /\n/, query('SELECT id FROM thing');
my %ends;
my $dead = 0;
foreach my $bad (@bad)
{
	my $is_dead = $dead{ md5_hex($bad->{body}) };

	$dead++ if $is_dead;
	$bad->{end} =
	  $is_dead ? 'dead' : $applied{ $bad->{id} } ? 'applied' : 'other';
	push @{ $ends{ $bad->{kind} } }, $bad
	  if $bad->{becomes} ne 'either' && $bad->{becomes} ne $bad->{end};
}
foreach my $kind (@KINDS)
{
	my ($count, $becomes, $name) = @$kind;
	next if $becomes eq 'either';
	is( join("\n", map { substr $_->{body}, 0, 600 } @{ $ends{$name} // [] }),
		'',
		"$name: $becomes, $count of them");
}
is(query('SELECT count(*) FROM cqrs.failed'),
	$dead, "$dead dead letters, verbatim");

# What is no dead letter and has no row was for another replica, or a DELETE:
# by the rules, as cqrs_apply sees them.  It also refuses the dead letters,
# of rows that are not there.
is( query(
		q{
		CREATE FUNCTION verdict(body bytea) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM cqrs_apply(cqrs.parse_message(convert_from(body, 'UTF8')));
			RETURN 'applied';
		EXCEPTION WHEN OTHERS THEN
			RETURN SQLSTATE;
		END $$;
		TRUNCATE thing;
		SELECT error, encode(body, 'escape') FROM cqrs.dead_letters
		WHERE error <> 'the message has expired' AND verdict(body) = 'applied'}),
	'',
	'cqrs_apply refuses each dead letter');
foreach my $other (grep { $_->{end} eq 'other' } @bad)
{
	like(
		query("SELECT verdict('\\x" . unpack('H*', $other->{body}) . q{')}),
		qr/^(applied|42704)$/,
		"$other->{kind}: applied by the rules, or of another replica");
}

is( query(
		"SELECT received, $ENDS, redelivered, dead_letters, retried FROM cqrs.consumer_stats"
	),
	"$sent|$sent|0|$dead|0",
	'the counters add up');
is($broker->queue_length('shop'), 0, 'all is acknowledged');
note("peak memory: $before kB before, $peak kB after; dead letters: $dead");

# Names and values of any length: the log and what is kept of it have their
# beginnings.
my $offset = -s $node->logfile;
my $long   = 'x' x 1_000_000;
my @long   = map { neighbour(0) } 1 .. 3;
$long[0]{body} =~ s/"cqrs_id":"neighbour"/"cqrs_id":"$long"/;
$long[1]{body} =~ s/"cqrs_id":"neighbour"/"cqrs_id":"y$long"/;
$long[1]{body} =~ s/"SAVE"/"NONE"/;
$long[2]{body} =~ s/"id":0/"id":"$long"/;
publish_raw($broker, @long);
$sent += @long;
wait_consumer($node, 'postgres', "$ENDS >= $sent");
my $log = slurp_file($node->logfile, $offset);
like(
	$log,
	qr/messages arrive for "x{120}\.\.\.", which is no replica/,
	'a long name of no replica');
like(
	$log,
	qr/for replica "yx{119}\.\.\." could not be applied: The value of "signal_type"/,
	'a long name of a message that is none');
like(
	$log,
	qr/for replica "neighbour" could not be applied: invalid input syntax for type integer: "x+\.\.\.$/m,
	'a long value in an error');
my ($longest) = sort { $b <=> $a } map { length } split /\n/, $log;
cmp_ok($longest, '<', 2000, 'no line of the log is long');
is( query(
		q{SELECT count(*) FROM cqrs.failed WHERE length(cqrs_id) > 1000000 OR length(error) > 1000000}
	),
	2,
	'cqrs.failed has all of it');

done_testing();
