# cqrs_check: what it finds of publisher, broker and outbox.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('check');
$broker->start;
my $node = new_master('check', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')});
declare_queue($broker, 'replica', 'author');
wait_for_state($node, 'publishing');

# What is found of an item.
sub finding
{
	my ($item) = @_;
	return $node->safe_psql('postgres',
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
			remedy LIKE 'mend what the last error names%'
		FROM cqrs_check() WHERE item = 'publisher'}),
	'a publisher that fails');
$node->safe_psql('postgres',
	'ALTER SEQUENCE cqrs.watermark NO MAXVALUE; DELETE FROM author');
wait_published($node);

$broker->stop;
wait_for_state($node, 'waiting');
like(finding('broker'), qr/^error\|not connected, last error: .+\|resolve /,
	'no broker');

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
