# Whatever a Redis server sends, the publisher ends the connection with a
# reason (I19), keeps its memory, stops in time, and goes on with the next
# connection; the same for the half of the transport that consumes.  The password,
# which the server knows, is in no log and no view (I20).
# CQRS_ONLY in the environment: a pattern of the misbehaviours to try.
use strict;
use warnings;
use utf8;

use CqrsTest;
use Encode    qw(encode_utf8);
use FakeRedis qw(:replies);
use Hostile;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TransportTest;

my $only      = $ENV{CQRS_ONLY};
my $PASSWORD  = $FakeRedis::PASSWORD;
my $BIG_BYTES = 4 * 1024 * 1024;
my $VIOLATION = qr/protocol violation by the broker/;
my $LOST =
  qr/connection lost|closed the (connection|socket)|reset by peer|Broken pipe/;
my $TOO_LARGE = qr/reply of the broker is too large/;
my $SILENT    = qr/no answer in time|no confirm within|nothing came from/;

my (%misbehaviours, %reasons, %states);

# Each misbehaviour has a reason that is to be given, or a state that follows.
sub misbehaviour
{
	my ($at, $what, $octets, $reason, %params) = @_;
	my $name = "$at: $what";

	BAIL_OUT("two misbehaviours are called \"$name\"")
	  if $misbehaviours{$name};
	$misbehaviours{$name} = {
		at     => $at,
		answer => ref $octets eq 'CODE'
		? $octets
		: sub { $_[0]->put($octets) } };
	if   ($params{state}) { $states{$name}  = $reason; }
	else                  { $reasons{$name} = $reason; }
	return;
}

sub then_end
{
	my ($octets) = @_;
	return sub { $_[0]->put($octets); $_[0]->end };
}

sub then_flood
{
	my ($octets, $flood) = @_;
	return sub { $_[0]->put($octets); $_[0]->flood($flood) };
}

# What is no reply at all, wherever it comes.
my %anything = (
	'another protocol' => [ "HTTP/1.1 400 Bad Request\r\n\r\n", $VIOLATION ],
	'a type that is unknown' => [ "?what\r\n",                 $VIOLATION ],
	'zero bytes'             => [ "\0" x 100,                  $VIOLATION ],
	'an alert of TLS'        => [ "\x15\x03\x01\0\2\2\x28",    $VIOLATION ],
	'empty lines'            => [ "\r\n\r\n",                  $VIOLATION ],
	'string of -2 bytes'     => [ "\$-2\r\n",                  $VIOLATION ],
	'string of no number'    => [ "\$x\r\n",                   $VIOLATION ],
	'string of 2^63 bytes'   => [ "\$9223372036854775808\r\n", $VIOLATION ],
	'string of 2^31 bytes'   =>
	  [ then_flood("\$2147483648\r\n", 'x'), $TOO_LARGE ],
	'string of 2^63 - 1 bytes' => [
		then_flood("\$9223372036854775807\r\n", 'x'),
		qr/$TOO_LARGE|$VIOLATION/ ],
	'array of -2'       => [ "*-2\r\n",         $VIOLATION ],
	'array of 2^31'     => [ "*2147483648\r\n", qr/$TOO_LARGE|$VIOLATION/ ],
	'array of 2^31 - 1' => [ "*2147483647\r\n", $TOO_LARGE ],
	'array of 2^63'         => [ "*9223372036854775808\r\n", $VIOLATION ],
	'array of 100,000'      => [ "*100000\r\n:1\r\n",        $TOO_LARGE ],
	'arrays 1,000 deep'     => [ "*1\r\n" x 1000,            $VIOLATION ],
	'arrays in arrays'      => [ "*1000\r\n" x 6 . "*7\r\n", $TOO_LARGE ],
	'integer of no number'  => [ ":x\r\n",                   $VIOLATION ],
	'integer of 2^63'       => [ ":9223372036854775808\r\n", $VIOLATION ],
	'number with fractions' => [ ",1.5\r\n",                 $VIOLATION ],
	'true'                  => [ "#t\r\n",                   $VIOLATION ],
	'map'                   => [ "%1\r\n+a\r\n:1\r\n",       $VIOLATION ],
	'endless line'          => [ then_flood('+', 'x'),       $TOO_LARGE ],
	'endless array'         => [
		then_flood("*6000\r\n", "\$200\r\n" . 'x' x 200 . "\r\n"), $TOO_LARGE
	],
	'half an array, then the end' => [ then_end("*2\r\n:1\r\n"), $LOST ],
	'half a string, then the end' => [ then_end("\$100\r\nx"),   $LOST ],
	'the end'                     => [ sub { $_[0]->end },       $LOST ],
	'a reset'                     => [ sub { $_[0]->reset },     $LOST ]);

foreach my $what (sort keys %anything)
{
	misbehaviour($_, $what, @{ $anything{$what} }) for qw(auth lease publish);
}
misbehaviour($_, 'the end', sub { $_[0]->end }, $LOST)
  for qw(connect select name renew body);
misbehaviour($_, 'another protocol', "SSH-2.0-x\r\n", $VIOLATION)
  for qw(connect select name renew body);

# What lasts until the publisher has had enough.
foreach my $at (qw(auth select name lease publish renew))
{
	misbehaviour($at, 'silence', sub { }, $SILENT);
	misbehaviour($at, 'slow drip',
		sub { $_[0]->deaf; $_[0]->drip("\$100000\r\n" . 'x' x 100_000) },
		$SILENT);
}
misbehaviour('info', 'silence', sub { },
	qr/could not read settings: no answer in time/);
misbehaviour(
	'info', 'the end',
	sub { $_[0]->end },
	qr/could not read settings: /);
misbehaviour('body', 'reads nothing', sub { $_[0]->deaf }, $SILENT);

# Replies of another kind than the command has.
my %replies = (
	nil              => "\$-1\r\n",
	integer          => ":-7\r\n",
	status           => "+QUEUED\r\n",
	string           => bulk('1'),
	array            => array(array(), bulk('x'), ":1\r\n"),
	'an empty error' => "-\r\n");
my %right = (select => qr/status|string/, lease => qr/integer/);
foreach my $at (qw(select lease publish renew))
{
	misbehaviour($at, "$_ in reply", $replies{$_},
		qr/unexpected reply|could not \w+ the \w+: $/)
	  for grep { !$right{$at} || !/$right{$at}/ } sort keys %replies;
}

# Errors: those that last end the connection, others block it.
foreach my $error (
	'READONLY You can\'t write against a read only replica.',
	'MASTERDOWN Link with MASTER is down',
	'LOADING Redis is loading the dataset in memory',
	'ERR max number of clients reached',
	'NOAUTH Authentication required.',
	'NOPERM this user has no permissions to run the \'evalsha\' command',
	'MOVED 3999 127.0.0.1:6381',
	'CROSSSLOT Keys in request don\'t hash to the same slot',
	'CLUSTERDOWN Hash slot not served',
	'ERR Script attempted to access a non local key in a cluster node',
	'GAP 7',
	'x')
{
	my ($code) = $error =~ /^(\w+.{0,12})/;
	misbehaviour($_, $error, "-$error\r\n", qr/\Q$code\E/)
	  for qw(lease publish renew);
}
misbehaviour('auth', $_, "-$_\r\n", qr/has refused user and password/)
  for 'WRONGPASS invalid username-password pair', 'ERR x', 'x';
misbehaviour('auth',    'LOADING', "-LOADING x\r\n", qr/still loading/);
misbehaviour('publish', 'NOSCRIPT for ever', "-NOSCRIPT x\r\n", $SILENT);
foreach my $code (qw(OOM NOREPLICAS MISCONF BUSY))
{
	misbehaviour('publish', $code, "-$code not now\r\n",
		'blocked', state => 1);
	misbehaviour(
		'publish',
		"$code in an array",
		array("-$code not now\r\n"),
		'blocked', state => 1);
}
misbehaviour('lease', 'LEASE', "-LEASE x belongs to y\r\n",
	'standing by', state => 1);
misbehaviour($_, 'LEASE', "-LEASE x belongs to y\r\n", qr/LEASE x belongs/)
  for qw(publish renew);

# Answers of another script: confirms of what was not sent, and none of what was.
my %answers = (
	'no element'               => array(),
	'two elements'             => array((":1\r\n") x 2),
	'300 elements'             => array((":1\r\n") x 300),
	'a negative number'        => array(":-1\r\n"),
	'the least number'         => array(":-9223372036854775808\r\n"),
	'a string as number'       => array(bulk('1')),
	'an array as number'       => array(array(":1\r\n")),
	'nil as number'            => array("\$-1\r\n"),
	'an error before the end'  => array("-WRONGTYPE x\r\n", ":1\r\n"),
	'two errors'               => array("-ERR x\r\n",       "-ERR y\r\n"),
	'an error without text'    => array("-\r\n"),
	'another reply'            => array(":1\r\n") . array(":1\r\n"),
	'another confirm for each' => sub {
		my ($connection, $what) = @_;
		$connection->put($what->{good} x 2);
	});
misbehaviour('publish', $_, $answers{$_}, qr/unexpected reply/)
  for sort keys %answers;
misbehaviour('renew', 'a confirm', array(":1\r\n"), qr/unexpected reply/);
misbehaviour(
	'lease',
	'a confirm too early',
	":1\r\n" . array(":1\r\n"),
	qr/unexpected reply/);
misbehaviour('body', $_->[0], $_->[1],
	qr/could not publish: .*(unexpected|too big)/)
  for [ 'a confirm before the body', array(":1\r\n") ],
  [ 'an error before the body', "-ERR Protocol: too big\r\n" ];
misbehaviour(
	'publish',
	'endless confirms',
	sub { $_[0]->flood(array(":1\r\n")) },
	qr/unexpected reply/);

# Texts that nobody should see, or be harmed by.
my %texts = (
	'error of 100,000 characters' => 'ERR ' . 'é' x 100_000,
	'error with zero bytes'       => "ERR a\0b\0",
	'error with terminal codes'   => "ERR \e[2J\x07\b",
	'error of invalid UTF-8'      => "ERR \xC3\xFF\xC3\x28",
	'error with format'           => 'ERR %s%n%s %1$s');
misbehaviour('publish', $_, "-" . encode_utf8($texts{$_}) . "\r\n", qr/ERR/)
  for sort keys %texts;
misbehaviour(
	$_,
	'error of 1 MB',
	'-ERR ' . 'x' x 1_000_000 . "\r\n", $TOO_LARGE) for qw(lease publish);
foreach my $at (qw(auth select lease publish renew))
{
	misbehaviour(
		$at,
		'the password',
		"-ERR unknown command, with args beginning with: $PASSWORD\r\n",
		$at eq 'auth' ? qr/refused user/ : qr/unknown command/);
}
misbehaviour(
	'publish',
	'the password at the cut',
	'-ERR ' . 'x' x 240 . $PASSWORD . "\r\n",
	qr/ERR xx/);
misbehaviour(
	'publish',
	'the password of a block',
	"-OOM $PASSWORD\r\n",
	'blocked',
	state => 1);
misbehaviour(
	'publish',
	'the password in an array',
	array("-ERR $PASSWORD\r\n"), qr/ERR/);

# Texts that are no errors: the name of a queue, and a setting.
$misbehaviours{'full queue'} = {
	at     => 'publish',
	answer => sub {
		my ($connection, $what) = @_;

		# Messages before it that were not confirmed yet may be with it.
		$connection->put(array((bulk($PASSWORD)) x $what->{messages}));
	}
};
$misbehaviours{'setting'} = {
	at     => 'info',
	answer => sub {
		$_[0]->put(bulk("maxmemory:7\r\nmaxmemory_policy:$PASSWORD\r\n"));
	}
};

# The end of envelopes, which the server may correct.
my %ends = (
	'too long'  => '-000000001"}}',
	'too short' => '-1"}}',
	'quoted'    => '-0000"0,0"}}',
	'of zeros'  => "\0" x 12,
	'of JSON'   => '"}, "x": 77}');
misbehaviour(
	'publish',
	"an end that is $_",
	array(":1\r\n", bulk($ends{$_})),
	qr/unexpected reply/) for sort keys %ends;
misbehaviour(
	'publish', 'two ends',
	array(":1\r\n", (bulk('-00000000"}}')) x 2),
	qr/unexpected reply/);
misbehaviour(
	'publish',
	'a full queue without limit',
	array(bulk('queue')),
	qr/unexpected reply/);

# Direct batches.
my %direct = (
	(map { $_ => $replies{$_} } sort keys %replies),
	'one element'             => array(":1\r\n"),
	'not pushed'              => array(":0\r\n",  ":1\r\n"),
	'not verified'            => array(":1\r\n",  ":0\r\n"),
	'a text'                  => array(":1\r\n",  bulk('1')),
	'a text as length'        => array(bulk('1'), ":1\r\n"),
	'an error, no text'       => array(":1\r\n",  "-\r\n"),
	'another result for each' => sub {
		my ($connection, $what) = @_;
		$connection->put($what->{good} x 2);
	});
misbehaviour('direct', $_, $direct{$_}, qr/unexpected reply/)
  for sort keys %direct;
misbehaviour('pushed', "$_ in reply", $replies{$_}, qr/unexpected reply/)
  for grep { !/status|string/ } sort keys %replies;
misbehaviour('direct', 'silence', sub { },      $SILENT);
misbehaviour('pushed', 'silence', sub { },      qr/unexpected reply/);
misbehaviour($_, 'the end', sub { $_[0]->end }, $LOST) for qw(direct pushed);
misbehaviour('direct', "OOM as $_->[0]", $_->[1], 'blocked', state => 1)
  for [ 'the reason',
	"-EXECABORT Transaction discarded because of: OOM x\r\n" ],
  [ 'a result', array("-OOM x\r\n", ":1\r\n") ];
my %once_more = (
	'ROUTE'  => array(":1\r\n", "-ROUTE has changed\r\n"),
	'LEASE'  => array(":1\r\n", "-LEASE x belongs to y\r\n"),
	'an end' =>
	  "-EXECABORT Transaction discarded because of previous errors.\r\n");
misbehaviour('direct', $_, $once_more{$_}, 'publishing', state => 1)
  for sort keys %once_more;

# The number of replicas.
misbehaviour('count', "$_ in reply", $replies{$_},
	qr/unexpected reply|could not count the replicas: $/)
  for grep { $_ ne 'integer' } sort keys %replies;
misbehaviour(
	'count',                 'NOPERM',
	"-NOPERM $PASSWORD\r\n", qr/could not count the replicas: NOPERM \*+$/);
misbehaviour('count', 'negative', ":-1\r\n",    'blocked', state => 1);
misbehaviour('count', 'none',     ":0\r\n",     'blocked', state => 1);
misbehaviour('count', 'silence',  sub { },      $SILENT);
misbehaviour('count', 'twice',    ":9\r\n" x 2, qr/unexpected reply/);

# Batches that have to wait for replicas do not hide who has the lease.
$misbehaviours{'count: none, then another owner'} = {
	anywhere => sub {
		my ($connection, $at, $what, $good) = @_;
		return ":0\r\n" if $at eq 'count';
		return $at eq 'renew' ? "-LEASE x belongs to y\r\n" : $good;
	}
};
$reasons{'count: none, then another owner'} = qr/LEASE x belongs/;
misbehaviour('count', 'the end', sub { $_[0]->end }, $LOST);

my $hostile = Hostile->new('hostile', 500, FakeRedis->new(%misbehaviours));
my $met     = 0;
my @counts  = grep { /^count:/ } sort keys %misbehaviours;
foreach my $name ((grep { !/^count:/ } sort keys %misbehaviours), @counts)
{
	$hostile->configure('cqrs.confirm_replicas = 1')
	  if @counts && $name eq $counts[0];
	next if !$reasons{$name} && !$states{$name};
	next if defined $only    && $name !~ $only;
	$hostile->misbehave($name);
	if ($name =~ /^(direct|pushed):/)
	{
		# Only what follows is direct.
		$hostile->write_row;
		wait_published($hostile->node);
	}
	my $key = $hostile->write_row($name =~ /^body:/ ? $BIG_BYTES : 10);
	$hostile->wait_for_hit($name) if $name =~ /^direct:/;
	if ($name eq 'renew: slow drip')
	{
		# Something comes, so that only a message finds out.
		$hostile->wait_for_hit($name);
		$key = $hostile->write_row;
	}
	my $end =
	  $states{$name}
	  ? $hostile->wait_until('SELECT state FROM cqrs.lanes',
		qr/^$states{$name}$/)
	  : $hostile->wait_for_reason($name, $reasons{$name});
	BAIL_OUT("$name shows the password") if $end =~ /s3cret/;

	# What was confirmed before is not sent again.
	if ($name =~ /another|endless confirms|twice/)
	{
		$hostile->broker->behave;
		$key = $hostile->write_row;
	}
	$hostile->recover($key, $name);
	pass("$name: $end");
	$met++;
}
$hostile->check_alive;
cmp_ok($met, '>=', 150, 'these are many') unless defined $only;

# The password, where no error is.
$hostile->configure('cqrs.queue_limit = 1000');
$hostile->misbehave('full queue');
my $full = $hostile->write_row;
like(
	$hostile->wait_for_reason('full queue', qr/has reached/),
	qr/queue "\*\*\*" has reached cqrs\.queue_limit/,
	'the name of a full queue shows no password');
$hostile->recover($full, 'full queue');
$hostile->configure('cqrs.queue_limit = 0');
$hostile->misbehave('setting');
$hostile->wait_for_hit('setting');
$hostile->wait_until(
	q{SELECT coalesce(string_agg(c::text, ' '), '') FROM cqrs_check() c},
	qr/maxmemory-policy is \*\*\*/);
pass('a setting of the server shows no password');
$hostile->recover($hostile->write_row, 'setting');

# A server that does not speak TLS.
my $url = $hostile->broker->url;
$hostile->broker->behave;
$hostile->configure("cqrs.url = '@{[ $url =~ s/^redis/rediss/r ]}'");
$hostile->wait_until('SELECT last_error FROM cqrs.lanes', qr/TLS/);
$hostile->configure("cqrs.url = '$url'\ncqrs.confirm_replicas = 0");
$hostile->recover($hostile->write_row, 'TLS');

unless (defined $only)
{
	$hostile->check_stop("publish: $_") for 'endless confirms', 'silence';
	$hostile->check_stop('renew: silence');
	$hostile->check_stop('lease: slow drip');
	$hostile->check_stop('body: reads nothing', $BIG_BYTES);
	$hostile->check_stop('publish: OOM');
	$hostile->check_stop('publish: NOSCRIPT for ever');
}
$hostile->check_secret;
$hostile->close_session;
$hostile->node->stop;

done_testing();
