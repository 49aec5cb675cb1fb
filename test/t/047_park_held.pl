# Held masters end: their messages are parked by cqrs_park_held() and sent again
# by another route, or parked by the publisher when the master is unregistered.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker =
  RabbitMQ->new('park_held', config => "max_message_size = 500000\n");
$broker->start;
my $node = new_master('park_held', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '300ms'
cqrs.max_databases = 1
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE steady (id int PRIMARY KEY);
	CREATE TABLE lost (id int PRIMARY KEY, data text);
	CREATE TABLE gone (id int PRIMARY KEY);
	CREATE TABLE topic (id int PRIMARY KEY);
	SELECT cqrs_register('steady'), cqrs_register('lost'),
		cqrs_register('gone'), cqrs_register('topic', exchange => 'amq.topic');
	CREATE ROLE stranger});
declare_queue($broker, $_, $_) foreach qw(steady lost);
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# An exchange that is there with another type.
$broker->ctl('eval',
		'rabbit_exchange:declare(rabbit_misc:r(<<"/">>, exchange, <<"bad">>)'
	  . ', fanout, true, false, false, [], <<"test">>).');

# The one of the broker's own exchanges that is of the right type.
system_or_bail(
	$ENV{CQRS_CONSUME}, '--url',
	$broker->url,       '--exchange',
	'amq.topic',        '--queue',
	'topic',            '--bind',
	'topic',            '--declare-only');
query('INSERT INTO topic VALUES (1)');
wait_published($node);
is(scalar(drain_queue($broker, 'topic')), 1, 'amq.topic can be published to');

# By another route.
query(q{SELECT cqrs_alter('lost', '{"exchange": "bad"}')});
query(q{INSERT INTO lost SELECT i, 'x' FROM generate_series(1, 100) i});
query(q{DELETE FROM lost WHERE id = 100});
wait_for_stats($node, 'held = 1');
query(q{SELECT cqrs_alter('lost', '{"exchange": null}')});
query(q{UPDATE lost SET data = 'y' WHERE id = 1});
query('INSERT INTO steady VALUES (1)');
wait_for_stats($node, 'held = 1 AND pending >= 102');
my ($code, $out, $error) = $node->psql('postgres',
	q{SET ROLE stranger; SELECT cqrs_park_held('lost')});
like($error, qr/must be owner of table lost/, 'the owner parks');
is(query(q{SELECT cqrs_park_held('lost')}), 102, 'all of it is parked');
wait_published($node);
is(query('SELECT held, pending, parked FROM cqrs.stats'),
	'0|0|102', 'nothing is held, and the watermark has moved on');
is(query(q{SELECT string_agg(DISTINCT reason, ',') FROM cqrs.parked}),
	'held', 'the reason');
is(query(q{SELECT cqrs_retry_parked('lost')}), 102, 'sent again');
wait_published($node);
my %last;
$last{ $_->{body}{instance_pk} } = $_->{body}
  foreach drain_queue($broker, 'lost');
is(scalar(keys %last),            100, 'every row arrives by the new route');
is($last{1}{instance_data}{data}, 'y', 'as it is now');
is($last{100}{signal_type},       'DELETE', 'and the DELETE');

# Sent again at once, or discarded, while the publisher has not passed them.
query(q{SELECT cqrs_alter('lost', '{"exchange": "bad"}')});
query(q{INSERT INTO lost VALUES (150, 'x'), (151, 'x'), (152, 'x')});
wait_for_stats($node, 'held = 1');
query(q{SELECT cqrs_alter('lost', '{"exchange": null}')});
query(
	q{SELECT cqrs_park_held('lost');
	DELETE FROM cqrs.parked WHERE instance_pk = '152';
	SELECT cqrs_retry_parked('lost')});
wait_published($node);
is(query('SELECT held, parked FROM cqrs.stats'),
	'0|0', 'what is parked does not come back by the old route');
is(join(',', map { $_->{body}{instance_pk} } drain_queue($broker, 'lost')),
	'150,151', 'what is sent again arrives by the new one');

# A message that the broker refuses is parked by a session that stays open: the
# publisher neither waits for the session nor starts again.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query(
	q{INSERT INTO lost SELECT i, repeat('x', 600000) FROM generate_series(160, 161) i}
);
my ($in, $session_out, $session_err) = ('', '', '');
my $session = open_psql($node, \$in, \$session_out, \$session_err);
$in = "BEGIN; SELECT cqrs_park_held('lost');\n";
$session->pump until $session_out =~ /^2$/m;
my $started = query('SELECT started_at FROM cqrs.stats');
query('SELECT cqrs_resume()');
query(q{INSERT INTO lost VALUES (162, 'x'); INSERT INTO steady VALUES (2)});
wait_for_stats($node, 'held = 1');
my $published = query('SELECT published FROM cqrs.stats');
wait_for_stats($node, "published > $published + 3");
ok(RabbitMQ->poll_until(sub { $broker->queue_length('steady') == 2 }, 60),
	'other masters are published meanwhile');
$in .= "COMMIT;\n\\q\n";
$session->finish;
wait_published($node);
is(join(',', map { $_->{body}{instance_pk} } drain_queue($broker, 'lost')),
	'162', 'what comes behind arrives');
is( query(
		'SELECT s.held, s.parked, count(DISTINCT p.id) FROM cqrs.stats s, cqrs.parked p GROUP BY 1, 2'
	),
	'0|2|2',
	'each message is parked once');
is(query('SELECT started_at FROM cqrs.stats'),
	$started, 'the publisher has not been started again');
query('DELETE FROM cqrs.parked');

# The publisher passes over what was parked while it was away.
query(q{SELECT cqrs_alter('lost', '{"exchange": "bad"}')});
query(q{INSERT INTO lost VALUES (200, 'x')});
wait_for_stats($node, 'held = 1');
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
is(query(q{SELECT cqrs_park_held('lost')}), 1, 'parked during a pause');
is(query(q{SELECT cqrs_park_held('lost')}), 0, 'each message once');
$node->restart;
query('SELECT cqrs_resume()');
wait_published($node);
is(query('SELECT held, pending, parked FROM cqrs.stats'),
	'0|0|1', 'nothing is held after a restart');
query('DELETE FROM cqrs.parked');

# The master is unregistered: more messages than are parked in one turn.
query(q{SELECT cqrs_alter('gone', '{"exchange": "bad"}')});
query('INSERT INTO gone SELECT generate_series(1, 2500)');
wait_for_stats($node, 'held = 1');
my $offset = -s $node->logfile;
query(q{SELECT cqrs_unregister('gone')});
wait_published($node);
is(query('SELECT held, pending, parked FROM cqrs.stats'),
	'0|0|2500', 'a master that is unregistered is not held for ever');
is(query('SELECT DISTINCT cqrs_id, reason FROM cqrs.parked'),
	'gone|held', 'its messages are parked');
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /messages of master "gone" are parked/g),
	1,
	'it is logged once');
($code, $out, $error) =
  $node->psql('postgres', q{SELECT cqrs_park_held('gone')});
like($error, qr/master "gone" does not exist/, 'then nothing is left of it');

# A database that gets no slot, with messages from its template: an error, and not
# a panic after the commit.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query(q{INSERT INTO lost VALUES (300, 'x')});
$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
($code, $out, $error) = $node->psql('copy', q{SELECT cqrs_park_held('lost')});
like(
	$error,
	qr/ERROR:  too many databases use the extension/,
	'without a slot nothing can be parked');
is(try_query($node, 'SELECT pg_is_in_recovery()'), 'f',
	'the server is there');
unlike(slurp_file($node->logfile, $offset), qr/PANIC/, 'and has not crashed');
is( $node->safe_psql(
		'copy', q{SELECT count(*) FROM cqrs.parked WHERE cqrs_id = 'lost'}),
	0,
	'nothing is parked');

$node->stop;
done_testing();
