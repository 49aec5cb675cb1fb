# A database that is not in UTF-8 consumes: names of queues, and bodies, are
# converted.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('encoding');
$broker->start;
my $node = new_master('encoding', $broker);
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql(
	'latin', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author', only_direct_syncs => true);
	SELECT cqrs_consume(E'b\xfccher')});
wait_consumer($node, 'latin', 'consuming');

publish(
	$broker, 'cqrs', 'author',
	save_body('author', 1, "M\x{fc}ller"),
	save_body('author', 2, "\x{20ac}"),
	save_body('author', 3, "Maier"));
wait_consumer($node, 'latin', 'received = 3 AND buffered = 0');
is( $node->safe_psql(
		'latin',
		q{SELECT string_agg(encode(name::bytea, 'escape'), ' ' ORDER BY id) FROM author}
	),
	'M\374ller Maier',
	'bodies are converted');
like(
	$node->safe_psql('latin', 'SELECT error FROM cqrs.dead_letters'),
	qr/without equivalent in the encoding "LATIN1"/,
	'what cannot be converted is a dead letter');
$node->safe_psql('latin', 'SELECT cqrs_retry_failed()');
wait_consumer($node, 'latin', 'dead = 1 AND waiting = 0');
my $sync = save_body('author', 4, 'direct');
$sync->{signal_type} = 'SYNC';
publish($broker, 'cqrs', 'cqrs.b\x{c3}\x{bc}cher.author', $sync);
ok( $node->poll_query_until(
		'latin', 'SELECT EXISTS (SELECT FROM author WHERE id = 4)'),
	'a SYNC to this queue alone is taken for one');
like($broker->ctl('list_queues', '-s', 'name'),
	qr/^b\xc3\xbccher$/m, 'the name of the queue is in UTF-8');
$node->stop;
done_testing();
