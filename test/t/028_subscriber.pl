# Two servers with the extension, the second one a subscriber of all tables: each
# publishes what is its own.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $origin =
  new_master('origin', undef, init => [ allows_streaming => 'logical' ]);
my $copy = new_master('copy');

$_->safe_psql(
	'postgres', q{
	CREATE TABLE own (id int PRIMARY KEY, v text);
	CREATE TABLE applied (id int PRIMARY KEY, v text);
	SELECT cqrs_register('own')}) foreach ($origin, $copy);
$copy->safe_psql('postgres',
	q{SELECT cqrs_register('applied', replication => 'replica')});
$origin->safe_psql('postgres',
	'CREATE PUBLICATION everything FOR ALL TABLES');
my $address = $origin->connstr . ' dbname=postgres';
$copy->safe_psql(
	'postgres',
	"CREATE SUBSCRIPTION everything CONNECTION '$address'
		PUBLICATION everything WITH (copy_data = false)");

# What the publisher of the origin needs to write goes on.
$origin->safe_psql('postgres', 'SELECT cqrs_pause(); SELECT cqrs_resume()');
$origin->safe_psql(
	'postgres', q{
	INSERT INTO own VALUES (1, 'a');
	INSERT INTO applied VALUES (1, 'a');
	UPDATE applied SET v = 'b'});
$origin->wait_for_catchup('everything');
is( $copy->safe_psql(
		'postgres', q{
	SELECT string_agg(signal_type || ' ' || cqrs_id || ' ' ||
		(body::json #>> '{instance_data,v}'), ', ' ORDER BY id) FROM cqrs.outbox}),
	'SAVE applied a, SAVE applied b',
	'the subscriber sends what a master of its own counts, once');

$copy->safe_psql('postgres', q{INSERT INTO own VALUES (2, 'here')});
is( $copy->safe_psql(
		'postgres',
		q{SELECT instance_pk FROM cqrs.outbox WHERE cqrs_id = 'own'}),
	2,
	'and what is changed there');

$copy->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
$_->stop foreach ($copy, $origin);
done_testing();
