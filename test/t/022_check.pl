# cqrs_check: what it finds of publisher, broker and outbox.
use strict;
use warnings;

use Bench;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('check');
$broker->start;
my $node = new_master('check', $broker, init => [ allows_streaming => 1 ]);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')});
declare_queue($broker, 'replica', 'author');
wait_for_state($node, 'publishing');

# What is found of an item.
sub finding
{
	my ($item, $of) = @_;
	return ($of // $node)->safe_psql('postgres',
		"SELECT status, detail, remedy FROM cqrs_check() WHERE item = '$item'"
	);
}

is( $node->safe_psql(
		'postgres', q{SELECT item FROM cqrs_check() WHERE status <> 'ok'}),
	'',
	'nothing is wrong');
unlike($node->safe_psql('postgres', q{SELECT * FROM cqrs_check()}),
	qr/guest/, 'the password is not shown');

# A publisher that fails each time it is started.
$node->safe_psql(
	'postgres', q{
	ALTER SEQUENCE cqrs.watermark MAXVALUE 1000;
	INSERT INTO author VALUES (0, 'x')});
ok( $node->poll_query_until(
		'postgres', q{
		SELECT detail LIKE 'no publisher runs, last error: setval: %' AND
			remedy LIKE 'remove the cause of the last error%'
		FROM cqrs_check() WHERE item = 'publisher'}),
	'a publisher that fails');
$node->safe_psql('postgres',
	'ALTER SEQUENCE cqrs.watermark NO MAXVALUE; DELETE FROM author');
wait_published($node);

# Messages that were lost before the queue was bound are history after that.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE book (id int PRIMARY KEY);
	SELECT cqrs_register('book');
	INSERT INTO book VALUES (1)});
wait_published($node);
like(
	finding('broker'),
	qr/^warning\|connected, but no queue is bound for 1 masters; 1 messages were lost so far\|start a replica /,
	'no queue');
$node->safe_psql('postgres', 'INSERT INTO author VALUES (2)');
wait_published($node);
like(finding('broker'), qr/^warning/, 'the queue of another master');
$node->safe_psql('postgres', q{SELECT cqrs_unregister('book')});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT status = 'ok' FROM cqrs_check() WHERE item = 'broker'}),
	'a master that was unregistered needs no queue');
$node->safe_psql('postgres',
	q{SELECT cqrs_register('book'); INSERT INTO book VALUES (3)});
wait_published($node);
like(finding('broker'), qr/^warning/, 'registered again');
declare_queue($broker, 'replica', 'book');
$node->safe_psql('postgres', 'INSERT INTO book VALUES (2)');
wait_published($node);
like(finding('broker'), qr/^ok\|/, 'its own queue is bound');
is($node->safe_psql('postgres', 'SELECT returned FROM cqrs.stats'),
	2, 'the counter stays');

# A message is returned and a later one of its master is not, in the same answers of
# the broker: nothing is left to look up, and the publisher waits.
my $pid    = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
my $sent   = $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
my $length = $broker->queue_length('replica');
$broker->suspend;
$node->safe_psql(
	'postgres', q{
	BEGIN;
	SELECT cqrs_sync('author', 'id = 2', queue => 'nobody');
	INSERT INTO author VALUES (3);
	COMMIT});
$node->poll_query_until('postgres',
	"SELECT published = $sent + 2 FROM cqrs.stats")
  or BAIL_OUT('two messages are not sent');
kill 'STOP', $pid;
$broker->resume;
RabbitMQ->poll_until(
	sub {
		return $broker->queue_length('replica') > $length
		  && $broker->ctl('-q', 'list_channels', 'messages_unconfirmed') !~
		  /^[1-9]/m;
	},
	60) or BAIL_OUT('the broker does not answer');
kill 'CONT', $pid;
wait_published($node);
my $cpu = cpu_s($pid);
$node->safe_psql('postgres', 'SELECT pg_sleep(1)');
cmp_ok(cpu_s($pid) - $cpu, '<', 0.5, 'the publisher waits');

# The remedy is that of the error.
my $address = '127.0.0.1:' . $broker->port;

sub remedy
{
	my ($url, $error) = @_;

	$node->append_conf('postgresql.conf', "cqrs.url = '$url'");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT last_error LIKE '$error' AND connected_at IS NULL FROM cqrs.stats"
	) or BAIL_OUT("no error like $error");
	return finding('broker') =~ s/.*\|//sr;
}
like(
	remedy("amqp://guest:wrong\@$address", '%403%'),
	qr/^correct user and password/,
	'a wrong password');
like(
	remedy("amqp://$address/nowhere", '%530%'),
	qr/^create the vhost/,
	'a vhost that does not exist');
like(
	remedy('amqp://x.invalid', '%resolve%'),
	qr/^correct the name of the host/,
	'a host that does not exist');
like(
	remedy('amqp://127.0.0.1:1', '%refused%'),
	qr/^start the broker/,
	'no broker');
like(
	remedy("amqps://$address", '%TLS%'),
	qr/^check the broker's certificate/,
	'no TLS');
my $file = "$PostgreSQL::Test::Utils::tmp_check/passwords";
append_to_file($file, "*:*:*:guest:guest\n");
chmod oct('0644'), $file;
$node->append_conf('postgresql.conf', "cqrs.password_file = '$file'");
like(
	remedy("amqp://guest\@$address", '%group or others%'),
	qr/^correct cqrs\.password_file, or the file that it names, as the error says/,
	'a password file that others can read');
chmod oct('0600'), $file;
$node->reload;
wait_for_state($node, 'publishing');
pass('publishing when it is as the error says');
$broker->ctl('set_permissions', 'guest', '^$', '.*', '.*');
like(remedy("amqp://$address", '%403%'), qr/^grant the user/, 'a permission');
$broker->ctl('set_permissions', 'guest', '.*', '.*', '.*');
$node->reload;
wait_for_state($node, 'publishing');
like(
	slurp_file($node->logfile),
	qr/has no connection to the broker: could not log in.*\n.*DETAIL: .*\n.*CONTEXT:  cqrs publisher of database "postgres", broker $address\n/,
	'the log has database, host and port');

# A copy of the server, while the original has the lease.
$node->backup('copy');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->start;
$copy->poll_query_until('postgres',
	q{SELECT state = 'standing by' AND last_error ~ 'lease: .*(405|another connection)' FROM cqrs.stats}
) or BAIL_OUT('the copy does not stand by');
like(
	finding('broker', $copy),
	qr/^error\|not connected, last error: .* lease: .*(?:405|another connection).*\|end the other publisher of this database; if this is a copy that is to publish as well: SELECT cqrs_adopt\(\)$/,
	'another publisher has the lease');
$copy->safe_psql('postgres', 'SELECT cqrs_adopt()');
wait_for_state($copy, 'publishing');
like(finding('broker', $copy), qr/^ok\|/, 'with an identity of its own');
$copy->stop;

# A URL in the file that is not valid is there, and not in use.
my $conf    = $node->data_dir . '/postgresql.conf';
my $content = slurp_file($conf);
$node->append_conf('postgresql.conf', "cqrs.url = 'amqp://127.0.0.1:port'");
$node->reload;
like(
	finding('url'),
	qr/^error\|cqrs\.url in .*postgresql\.conf line \d+ is invalid: another value is in use\|correct the line/,
	'an invalid URL');
$node->restart;
like(
	finding('url'),
	qr/is invalid: messages wait in the outbox\|/,
	'after a restart nothing else is in use');
unlink $conf;
append_to_file($conf, $content);
$node->reload;
wait_for_state($node, 'publishing');
like(finding('url'), qr/^ok\|/, 'corrected');
$broker->stop;
wait_for_state($node, 'waiting');

$node->safe_psql('postgres', 'SELECT cqrs_pause()');
wait_for_state($node, 'paused');
is(finding('publisher'),
	'warning|publishing is paused|SELECT cqrs_resume()', 'paused');
$node->safe_psql(
	'postgres', q{
	INSERT INTO author VALUES (1, 'x');
	UPDATE cqrs.segment_0 SET committed_at = now() - interval '1 hour'});
like(
	finding('outbox'),
	qr/^warning\|1 messages pending, the oldest for 01:00:0\d; /,
	'a message that has waited long');

$node->append_conf('postgresql.conf', "cqrs.url = ''");
$node->reload;
wait_for_state($node, 'paused');
$node->poll_query_until('postgres',
	q{SELECT status = 'error' FROM cqrs_check() WHERE item = 'url'});
like(finding('url'), qr/^error\|cqrs.url is not set/, 'no URL');

$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
like(
	finding('publisher'),
	qr/^error\|no publisher runs\|.*max_worker_processes \(0\)/,
	'no room for a publisher');

$node->stop;
done_testing();
