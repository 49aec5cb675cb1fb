# Messages of a queue become rows: from a master in one database to a replica
# in another one, with what can be lost, misordered or applied twice first.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('consume');
$broker->start;
my $node = new_master('consume', $broker, conf => <<'END');
cqrs.heartbeat = '2s'
cqrs.reconnect_delay_max = '500ms'
END
$node->safe_psql('postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');

$node->safe_psql('postgres',
	q{INSERT INTO author SELECT i, 'name ' || i FROM generate_series(1, 5000) i});
$node->safe_psql('postgres', q{UPDATE author SET name = 'new' WHERE id <= 10});
$node->safe_psql('postgres', q{DELETE FROM author WHERE id > 4990});
wait_applied($broker, $node, 'shop', 'shop');
is( $node->safe_psql('shop', q{
		SELECT count(*), count(*) FILTER (WHERE name = 'new'), max(id) FROM author}),
	'4990|10|4990',
	'rows arrive, change and go');
is($broker->queue_length('shop'), 0, 'all is acknowledged');
done_testing();
