
# Whatever a broker sends, the publisher ends the connection with a reason
# (I19), keeps its memory, stops in time, and goes on with the next connection.
# CQRS_ONLY in the environment: a pattern of the misbehaviours to try.
use strict;
use warnings;

use FakeBroker qw(:frames);
use Hostile;
use PostgreSQL::Test::Utils;
use Test::More;

my $VIOLATION = qr/protocol violation by the broker/;
my $BIG_BYTES = 12 * 1024 * 1024;

# Each thing that can be sent in the place of any answer, and the reason that
# the publisher is to give.
my %anything = (
	'frame of unknown type' =>
	  [ sub { $_[0]->put(frame(4, 1, 'x')) }, qr/frame of type 4/ ],
	'text of another protocol' => [
		sub { $_[0]->put("HTTP/1.1 400 Bad Request\r\n\r\n") },
		qr/frame of type 72/ ],
	'header of another version' =>
	  [ sub { $_[0]->put("AMQP\0\1\0\0") }, qr/another version of AMQP/ ],
	'endless frame' => [
		sub { $_[0]->put(pack('CnN', 1, 0, 0xFFFFFFFF) . 'x' x 1000) },
		qr/frame of 4294967303 bytes/ ],
	'frame that is too long' => [
		sub { $_[0]->put(pack('CnN', 3, 1, 131072 - 7)) },
		qr/frame of 131073 bytes/ ],
	'frame without its end' => [
		sub { $_[0]->put(pack('CnNnnC', 1, 0, 4, 10, 61, 0)) },
		qr/without its end octet/ ],
	'method of two bytes' =>
	  [ sub { $_[0]->put(frame(1, 0, "\0\x0A")) }, qr/malformed method/ ],
	'method of no bytes' =>
	  [ sub { $_[0]->put(frame(1, 1, '')) }, qr/malformed method/ ],
	'header of eleven bytes' => [
		sub { $_[0]->put(frame(2, 1, pack('nnNnx', 60, 0, 0, 1))) },
		qr/malformed header/ ],
	'unknown method' =>
	  [ sub { $_[0]->put(method(1, 999, 7)) }, qr/unexpected method 999\.7/ ],
	'method of a client' => [
		sub {
			$_[0]
			  ->put(method(1, 50, 10, pack('n', 0) . "\0\0\xFF\xFF\xFF\xFF"));
		},
		qr/unexpected method AMQP_QUEUE_DECLARE_METHOD/ ],
	'close without arguments' => [
		sub { $_[0]->put(method(0, 10, 50)) },
		qr/malformed AMQP_CONNECTION_CLOSE_METHOD/ ],
	'close with a cut text' => [
		sub { $_[0]->put(method(0, 10, 50, pack('nC', 320, 200) . 'x')) },
		qr/malformed AMQP_CONNECTION_CLOSE_METHOD/ ],
	'close with invalid UTF-8' => [
		sub {
			$_[0]->put(
				method(0, 10, 50, close_args(320, "caf\xC3\xA9 \xC3\n\xFF")));
		},
		qr/320 caf\x{c3}\x{a9} \?\?\?/ ],
	'close of an unopened channel' => [
		sub { $_[0]->put(method(777, 20, 40, close_args(504, 'no'))) },
		qr/wrong channel/ ],
	'method of the connection on a channel' =>
	  [ sub { $_[0]->put(method(1, 10, 61)) }, qr/wrong channel/ ],
	'method of a channel on the connection' => [
		sub { $_[0]->put(method(0, 60, 80, pack('Q>C', 1, 0))) },
		qr/wrong channel/ ],
	'heartbeat on a channel' =>
	  [ sub { $_[0]->put(frame(8, 1, '')) }, qr/wrong channel/ ],
	'frames on 3,000 channels' => [
		sub {
			$_[0]->put(join '', map { frame(3, $_, 'x' x 100) } 2 .. 3001);
		},
		qr/wrong channel/ ],
	'body of no message' => [
		sub { $_[0]->put(frame(3, 1, 'x' x 4088)) },
		qr/content of no message/ ],
	'header of no message' => [
		sub { $_[0]->put(frame(2, 1, pack('nnQ>n', 60, 0, 1, 0))) },
		qr/content of no message/ ],
	'confirm of the last possible tag' => [
		sub { $_[0]->put(method(1, 60, 80, pack('Q>C', ~0, 1))) },
		qr/confirm of a message that was not sent/ ],
	'refusal of the last possible tag' => [
		sub { $_[0]->put(method(1, 60, 120, pack('Q>C', ~0, 1))) },
		qr/confirm of a message that was not sent/ ],
	'confirm of the next tag' => [
		sub {
			$_[0]
			  ->put(method(1, 60, 80, pack('Q>C', ($_[1]{tag} // 0) + 1, 1)));
		},
		qr/confirm of a message that was not sent/ ],
	'confirm of tag 0' => [
		sub { $_[0]->put(method(1, 60, 80, pack('Q>C', 0, 0))) },
		qr/confirm of a message that was not sent/ ],
	'confirm that is cut' => [
		sub { $_[0]->put(method(1, 60, 80, "\0\0\0")) },
		qr/malformed AMQP_BASIC_ACK_METHOD/ ],
	'return without arguments' => [
		sub { $_[0]->put(method(1, 60, 50)) },
		qr/malformed AMQP_BASIC_RETURN_METHOD/ ],
	'half a frame, then the end' => [
		sub { $_[0]->put(pack('CnN', 1, 0, 100) . 'x' x 50); $_[0]->end },
		qr/could not|connection lost/ ],
	'reset' => [ sub { $_[0]->reset }, qr/could not|connection lost/ ],
	'blocked with a cut text' => [
		sub { $_[0]->put(method(0, 10, 60, "\xFFx")) },
		qr/malformed AMQP_CONNECTION_BLOCKED_METHOD/ ],
	'garbage' => [
		sub {
			$_[0]->put(join '', map { chr(200 + $_ % 50) } 1 .. 5000);
		},
		$VIOLATION ]);

# What lasts until the publisher has had enough.
my %lasting = (
	'silence'             => sub { },
	'flood of heartbeats' => sub { $_[0]->flood(heartbeat()) },
	'flood of notices'    => sub {
		$_[0]
		  ->flood(method(0, 10, 60, shortstr('memory')) . method(0, 10, 61));
	},
	'slow drip' => sub {
		$_[0]->drip(pack('CnN', 1, 0, 100000) . 'x' x 100000);
	});

# In the handshake, before the last step and the first.
my @handshake = qw(protocol connection.start-ok connection.open channel.open
  queue.declare exchange.declare confirm.select);

my %misbehaviours;
my %reasons;

sub misbehaviour
{
	my ($at, $what, $answer, $reason) = @_;
	my $name = "$at: $what";

	BAIL_OUT("two misbehaviours are called \"$name\"")
	  if $misbehaviours{$name};
	$misbehaviours{$name} = { at => $at, answer => $answer };
	$reasons{$name}       = $reason;
	return;
}

sub message_id { return pack('n', 1 << 7) . shortstr($_[0]); }

sub returned
{
	return method(1, 60, 50,
		pack('n', 312) . shortstr('NO_ROUTE') . shortstr('') . shortstr(''));
}

foreach my $what (sort keys %anything)
{
	misbehaviour($_, $what, @{ $anything{$what} })
	  for qw(protocol connection.start-ok channel.open publish);
}
foreach my $what (sort keys %lasting)
{
	misbehaviour($_, $what, $lasting{$what},
		qr/no answer in time|too much that was not asked for/)
	  for qw(protocol confirm.select);
}
misbehaviour('publish', 'silence', $lasting{silence},
	qr/no confirm within|nothing came from the broker/);
misbehaviour('publish', 'slow drip', $lasting{'slow drip'},
	qr/no confirm within|nothing came from the broker/);
misbehaviour(
	'publish',
	'flood of heartbeats',
	$lasting{'flood of heartbeats'},
	qr/no confirm within/);

# The answer to another question, in each step.
foreach my $at (@handshake, 'publish')
{
	misbehaviour(
		$at,
		'confirm.select-ok on the connection',
		sub { $_[0]->put(method(0, 85, 11)) },
		qr/wrong channel/);
	misbehaviour(
		$at,
		'connection.start again',
		sub {
			$_[0]->put(method(0, 10, 10, pack('CC', 0, 9) . "\xFF" x 12))
			  for 1 .. 2;
		},
		qr/unexpected method AMQP_CONNECTION_START_METHOD/);
	misbehaviour(
		$at,
		'exchange.declare-ok twice',
		sub { $_[0]->put(method(1, 40, 11) x 3) },
		qr/unexpected (method )?AMQP_EXCHANGE_DECLARE_OK_METHOD/);
}

# What is offered at the beginning.
foreach my $frame_max (1 .. 9, 21, 4095)
{
	misbehaviour(
		'connection.start-ok',
		"frames of $frame_max bytes",
		sub { $_[0]->put(method(0, 10, 30, pack('nNn', 0, $frame_max, 0))) },
		qr/allows frames of $frame_max bytes/);
}
misbehaviour(
	'connection.start-ok',
	'tune that is cut',
	sub { $_[0]->put(method(0, 10, 30, "\0\0\0")) },
	qr/malformed AMQP_CONNECTION_TUNE_METHOD/);
misbehaviour(
	'connection.start-ok',
	'small frames, and then a large one',
	sub {
		$_[0]->put(method(0, 10, 30, pack('nNn', 2, 4096, 1))
			  . pack('CnN', 3, 1, 4096));
	},
	qr/frame of 4104 bytes, more than the 4096 allowed/);
misbehaviour(
	'protocol',
	'tables within tables',
	sub {
		my $table = '';
		for (1 .. 10_000)
		{
			$table = longstr("\1x" . 'F' . $table) if length $table;
			$table = longstr('') unless length $table;
		}
		$_[0]->put(method(0, 10, 10, pack('CC', 0, 9) . $table));
		$_[0]->put(method(0, 10, 11));
	},
	qr/unexpected method AMQP_CONNECTION_START_OK_METHOD/);
misbehaviour(
	'protocol', 'challenge',
	sub { $_[0]->put(method(0, 10, 20, longstr('who?'))) },
	qr/unexpected method AMQP_CONNECTION_SECURE_METHOD/);
misbehaviour('connect', 'end', sub { $_[0]->end }, qr/could not log in/);
misbehaviour(
	'connect',
	'greeting too early',
	sub { $_[0]->put("220 mail ESMTP\r\n") },
	qr/frame of type 50/);

# The password, which the broker knows.
misbehaviour(
	'connection.start-ok',
	'the password',
	sub {
		$_[0]->put(
			method(
				0, 10, 50,
				close_args(403, "login shop/$FakeBroker::PASSWORD refused")));
	},
	qr{: 403 login shop/\*\*\* refused$});
misbehaviour(
	'publish',
	'the password of a channel',
	sub {
		$_[0]->put(
			method(
				1,
				20,
				40,
				close_args(404, 'x' x 230 . "$FakeBroker::PASSWORD!", 60, 40))
		);
	},
	qr/: 404 x+\*\*\*!$/);
misbehaviour(
	'publish',
	'the password of a block',
	sub {
		$_[0]->put(method(0, 10, 60, shortstr($FakeBroker::PASSWORD)));
		$_[0]->put(method(0, 10, 50, close_args(320, 'after the block')));
	},
	qr/after the block$/);

# While a large message is on its way.
foreach my $step (
	[ 'confirm',        80,  'Q>C', 0 ],
	[ 'confirm of all', 80,  'Q>C', 1 ],
	[ 'refusal',        120, 'Q>C', 0 ],
	[ 'refusal of all', 120, 'Q>C', 1 ])
{
	my ($what, $method, $pattern, $multiple) = @$step;
	misbehaviour(
		'body',
		"$what before the body",
		sub {
			my ($connection, $message) = @_;
			$connection->deaf;
			$connection->put(
				method(
					1, 60, $method, pack($pattern, $message->{tag}, $multiple)
				));
		},
		qr/confirm of a message that was not sent/);
}
misbehaviour(
	'body',
	'confirm of tag 0 before the body',
	sub {
		$_[0]->deaf;
		$_[0]->put(method(1, 60, 80, pack('Q>C', 0, 1)));
	},
	qr/confirm of a message that was not sent/);
misbehaviour(
	'body',
	'end before the body',
	sub { $_[0]->end },
	qr/connection lost/);
misbehaviour(
	'body',
	'reads nothing',
	sub { $_[0]->deaf },
	qr/no confirm within|nothing came from the broker/);

# Returned messages.
my %returned = (
	'without message id' =>
	  [ sub { frame(2, 1, pack('nnQ>n', 60, 0, 5, 0)) }, qr/none of ours/ ],
	'of another class' => [
		sub { frame(2, 1, pack('nnQ>', 10, 0, 5) . message_id($_[0]{id})) },
		qr/none of ours/ ],
	'with more flags' => [
		sub { frame(2, 1, pack('nnQ>nn', 60, 0, 5, 1 << 7 | 1, 1)) },
		qr/none of ours/ ],
	'with a cut message id' => [
		sub { frame(2, 1, pack('nnQ>nC', 60, 0, 5, 1 << 7, 100) . 'x') },
		qr/none of ours/ ],
	'with an endless table' => [
		sub {
			frame(2, 1,
				pack('nnQ>nN', 60, 0, 5, 1 << 13 | 1 << 7, 0xFFFFFFF0));
		},
		qr/none of ours/ ],
	'with tables within tables' => [
		sub {
			my $table = longstr('');
			$table = longstr("\1xF$table") for 1 .. 15_000;
			frame(2, 1,
					pack('nnQ>n', 60, 0, 5, 1 << 13 | 1 << 7)
				  . $table
				  . shortstr('x-1'))
			  . frame(3, 1, 'xxxxx');
		},
		qr/message that was not sent/ ],
	'of 2^63 bytes' => [
		sub {
			frame(2, 1, pack('nnQ>', 60, 0, 1 << 63) . message_id($_[0]{id}));
		},
		qr/none of ours/ ],
	'of more bytes than it says' => [
		sub {
			frame(2, 1, pack('nnQ>', 60, 0, 1) . message_id($_[0]{id}))
			  . frame(3, 1, 'xx');
		},
		qr/another size than its header says/ ],
	'in empty pieces' => [
		sub {
			frame(2, 1, pack('nnQ>', 60, 0, 1) . message_id($_[0]{id}))
			  . frame(3, 1, '');
		},
		qr/another size than its header says/ ],
	'without header' =>
	  [ sub { frame(3, 1, 'x') }, qr/content of no message/ ],
	'within another' =>
	  [ sub { returned() }, qr/within the content of a returned message/ ],
	'with a confirm inside' => [
		sub {
			frame(2, 1, pack('nnQ>', 60, 0, 5) . message_id($_[0]{id}))
			  . method(1, 60, 80, pack('Q>C', $_[0]{tag}, 0));
		},
		qr/within the content of a returned message/ ],
	'with two headers' => [
		sub {
			frame(2, 1, pack('nnQ>', 60, 0, 5) . message_id($_[0]{id})) x 2;
		},
		qr/content of no message/ ],
	'that nobody sent' => [
		sub { content(1, message_id('x-9223372036854775807'), 'x') },
		qr/message that was not sent/ ],
	'of an id without number' => [
		sub { content(1, message_id("\xFF\xFE"), '') },
		qr/message that was not sent/ ]);

foreach my $what (sort keys %returned)
{
	my ($frames, $reason) = @{ $returned{$what} };
	misbehaviour('publish', "return $what",
		sub { $_[0]->put(returned() . $frames->($_[1])) }, $reason);
}

# Closed channels, in words that no log and no table can take.
foreach my $code (311, 403, 404, 405, 406, 501, 504, 65535)
{
	misbehaviour(
		'publish',
		"channel.close $code",
		sub {
			$_[0]->put(
				method(
					1, 20, 40,
					close_args($code, "\xD0\xBF" x 100 . "\xD0", 60, 40)));
		},
		qr/broker closed the channel: $code (\x{d0}\x{bf})+\?$/);
}
foreach my $code (320, 501, 502, 541)
{
	misbehaviour(
		'publish',
		"connection.close $code",
		sub { $_[0]->put(method(0, 10, 50, close_args($code, "\0\e[2J"))) },
		qr/broker closed the connection: $code \?\?\[2J/);
}

# The channel of probes: the first message of the other channel is refused, so
# that the next one is a probe.
sub on_probe
{
	my ($what, $answer, $reason) = @_;

	misbehaviour(
		'publish',
		"probe: $what",
		sub {
			my ($connection, $message) = @_;
			return $connection->put(
				method(1, 60, 120, pack('Q>C', $message->{tag}, 0)))
			  if $message->{channel} == 1;
			$answer->($connection, $message);
		},
		$reason);
	return;
}

on_probe('silence', sub { },            qr/no confirm within/);
on_probe('end',     sub { $_[0]->end }, qr/connection lost/);
on_probe(
	'return without confirm',
	sub {
		$_[0]->put(
			method(2, 60, 50,
					pack('n', 312)
				  . shortstr('NO_ROUTE')
				  . shortstr('')
				  . shortstr(''))
			  . content(2, message_id($_[1]{id}), 'x'));
	},
	qr/no confirm within/);
on_probe(
	'confirm after the close',
	sub {
		$_[0]->put(method(2, 20, 40, close_args(404, 'no', 60, 40))
			  . method(2, 60, 80, pack('Q>C', 1, 0)));
	},
	qr/wrong channel/);
on_probe(
	'close-ok of no close',
	sub { $_[0]->put(method(2, 20, 41)) },
	qr/unexpected method 20\.41 on channel 2/);
on_probe(
	'declare-ok again',
	sub { $_[0]->put(method(2, 40, 11)) },
	qr/unexpected method 40\.11 on channel 2/);

# Ever new reasons to block.
misbehaviour(
	'confirm.select',
	'flood of reasons',
	sub {
		$_[0]->put(method(1, 85, 11));
		$_[0]->flood(join '',
			map { method(0, 10, 60, shortstr("reason $_")) } 1 .. 3000);
	});

# The channel is being closed: the broker may close it, too, and does so once.
my $close = method(2, 20, 40,  close_args(200, ''));
my $nack  = method(2, 60, 120, pack('Q>C', 1, 0));
on_probe(
	'two closes after a refusal',
	sub { $_[0]->deaf; $_[0]->put($nack . $close x 2) },
	qr/unexpected method 20\.40 on channel 2/);
on_probe(
	'flood of closes after a refusal',
	sub { $_[0]->deaf; $_[0]->put($nack); $_[0]->flood($close) },
	qr/unexpected method 20\.40 on channel 2/);
on_probe('close after a refusal', sub { $_[0]->put($nack . $close) });

# The broker does not answer that the channel is closed: no probe can begin.
on_probe(
	'refusal, and no more answers',
	sub {
		my ($connection, $message) = @_;
		$connection->put(method(2, 60, 120, pack('Q>C', 1, 0)));
		$connection->deaf;
	},
	qr/no confirm within/);

# What goes on without end, and with no reason to end the connection.
misbehaviour(
	'publish',
	'flood of confirms',
	sub { $_[0]->flood(method(1, 60, 80, pack('Q>C', $_[1]{tag}, 1))) });
misbehaviour(
	'publish',
	'flood of refusals',
	sub { $_[0]->flood(method(1, 60, 120, pack('Q>C', 0, 1))) });
misbehaviour(
	'publish',
	'flood of returns',
	sub {
		$_[0]->flood(
			returned() . content(1, message_id($_[1]{id}), 'x' x 100_000));
	});

my $hostile = Hostile->new('hostile', 500, %misbehaviours);

my $only = $ENV{CQRS_ONLY};
my $met  = 0;
foreach my $name (sort keys %misbehaviours)
{
	next if !defined $reasons{$name};
	next if defined $only && $name !~ $only;
	$hostile->misbehave($name);
	my $key    = $hostile->write_row($name =~ /^body:/ ? $BIG_BYTES : 10);
	my $reason = $hostile->wait_for_reason($name, $reasons{$name});
	$hostile->recover($key, $name);
	pass("$name: $reason");
	$met++;
}
$hostile->check_alive;

# The log has a bounded number of lines, whatever the broker says.
sub times_in_log
{
	my ($pattern) = @_;
	my $count = () = slurp_file($hostile->node->logfile) =~ /$pattern/g;
	return $count;
}

my $MESSAGES = 60;
my $start    = time;
my $before   = times_in_log(qr/blocked by the broker/);
$hostile->configure('cqrs.confirm_timeout = 0');
$hostile->misbehave('confirm.select: flood of reasons');
RabbitMQ->poll_until(sub { return $hostile->broker->sent > 3_000_000 }, 60)
  or BAIL_OUT('no flood of reasons');
my $blocked = times_in_log(qr/blocked by the broker/) - $before;
my $minutes = 1 + int((time - $start) / 60);
cmp_ok(
	$blocked, '<=',
	2 * $MESSAGES * (1 + $minutes),
	'a flood of reasons to block is not logged as a whole');
is( times_in_log(
		qr/further log messages about the broker are left out for up to a minute/
	) > 0,
	1,
	'the log says so');
$hostile->recover($hostile->write_row, 'flood of reasons');
RabbitMQ->poll_until(
	sub {
		return times_in_log(
			qr/\d\d+ log messages about the broker were left out/);
	},
	60) or BAIL_OUT('the log does not say how many are left out');
pass('and how many are left out');
$hostile->configure('cqrs.confirm_timeout = 1000');

# A broker that closes the channel of probes when it is being closed: the next
# probe opens it again.
$hostile->misbehave('publish: probe: close after a refusal');
my $crossed = $hostile->write_row;
RabbitMQ->poll_until(sub { return $hostile->broker->hits > 5 }, 60)
  or BAIL_OUT('the probe is not repeated');
is( $hostile->query(q{SELECT state || ' ' || last_error FROM cqrs.lanes}),
	'publishing master "item": broker refused a message with basic.nack',
	'the connection outlasts probes whose channel both sides close');
$hostile->recover($crossed, 'closed by both');

# What the broker says of a message that it refuses is kept with that message.
$hostile->misbehave('publish: channel.close 406');
my $refused = $hostile->write_row;
$hostile->wait_until(
	q{SELECT convert_from(convert_to(error, 'UTF8'), 'UTF8') FROM cqrs.parked},
	qr/: 406 (\x{d0}\x{bf})+\?$/);
$hostile->recover($refused, 'refused');
pass('the error of a parked message is text');

# A message that cqrs_park_held() has parked meanwhile is not parked again.
$hostile->misbehave('publish: silence');
my $both = $hostile->write_row;
RabbitMQ->poll_until(sub { return $hostile->broker->hits > 0 }, 60)
  or BAIL_OUT('the broker was not met');

# Messages that are confirmed above the watermark are parked as well.
my $nparked = $hostile->query(q{SELECT cqrs_park_held('item')});
cmp_ok($nparked, '>=', 1, 'a message is parked');
$hostile->misbehave('publish: channel.close 406');
$hostile->wait_until('SELECT pending FROM cqrs.stats', qr/^0$/);
is($hostile->query('SELECT count(*) FROM cqrs.parked'),
	$nparked, 'a message is parked once');
$hostile->recover($both, 'parked meanwhile');
$hostile->check_alive;

cmp_ok($met, '>=', 60, 'these are many') unless defined $only;

$hostile->check_stop("$_: flood of heartbeats") for qw(protocol publish);
$hostile->check_stop('confirm.select: flood of notices');
$hostile->check_stop("publish: flood of $_")
  for qw(confirms refusals returns);
$hostile->check_stop('publish: silence');
$hostile->check_stop('publish: refusal of the last possible tag');
$hostile->check_stop("body: $_", $BIG_BYTES)
  for 'reads nothing', 'confirm before the body';
$hostile->check_alive;

# A consumer whose queue is deleted again and again.
my $deleting = FakeBroker->new(
	cancel => {
		at     => 'basic.consume',
		answer => sub {
			my ($connection) = @_;
			my $tag = shortstr('cqrs-' . ++$connection->{subscribed});
			$connection->put(
				method(1, 60, 21, $tag) . method(1, 60, 30, "$tag\1"));
		}
	});
$deleting->misbehave('cancel');
$hostile->configure("cqrs.consumer_url = '@{[ $deleting->url ]}'");
$hostile->query(
	q{CREATE TABLE copy (id int PRIMARY KEY, data text);
	SELECT cqrs_register_replica('copy', cqrs_id => 'item'), cqrs_consume('copies')}
);
$start = time;
RabbitMQ->poll_until(sub { return $deleting->hits > 5 * $MESSAGES }, 120)
  or BAIL_OUT('no flood of deletions: '
	  . $hostile->query('SELECT * FROM cqrs.consumer_stats'));
$minutes = 1 + int((time - $start) / 60);
cmp_ok(
	times_in_log(qr/has ended the consumption of queue "copies"/),
	'<=',
	$MESSAGES * (1 + $minutes),
	'a flood of deletions is not logged as a whole');

$hostile->check_secret;
$hostile->close_session;
$hostile->node->stop;

done_testing();
