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
$copy->safe_psql('postgres', q{SELECT cqrs_consume('mine')});
$origin->safe_psql('postgres',
	q{SELECT cqrs_consume('shop'); SELECT cqrs_pause_consumer()});
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

is($copy->safe_psql('postgres', 'SELECT queue, paused FROM cqrs.consumer'),
	'mine|f', 'the subscriber consumes what it consumed');

# What has failed or is parked, masters and replicas are not replicated.  The
# messages to be skipped would be those of the subscriber.
my $OWN = q{
	SELECT (SELECT string_agg(cqrs_id, ',' ORDER BY cqrs_id) FROM cqrs.master),
		(SELECT string_agg(cqrs_id, ',') FROM cqrs.replica),
		(SELECT string_agg(id::text, ',') FROM cqrs.skipped),
		(SELECT string_agg(cqrs_id, ',') FROM cqrs.former),
		(SELECT string_agg(id || reason, ',') FROM cqrs.parked),
		(SELECT string_agg(id || error, ',') FROM cqrs.failed)};
$origin->safe_psql(
	'postgres', q{
	CREATE TABLE followed (id int PRIMARY KEY);
	SELECT cqrs_register_replica('followed')});
$copy->safe_psql(
	'postgres', q{
	CREATE TABLE followed (id int PRIMARY KEY);
	INSERT INTO cqrs.failed VALUES (1, NULL, NULL, NULL, '', NULL, false, now(), now(), 0, NULL, NULL, 'mine')}
);
$origin->safe_psql(
	'postgres', q{
	SELECT cqrs_register('own', 'another');
	INSERT INTO cqrs.skipped VALUES (7);
	INSERT INTO cqrs.former SELECT 'theirs', current_user::regrole;
	INSERT INTO cqrs.parked VALUES (7, now(), 'held', 'theirs', now(), 'S', 'own', '1');
	INSERT INTO cqrs.failed VALUES (1, NULL, NULL, NULL, '', NULL, false, now(), now(), 0, NULL, NULL, 'theirs'),
		(2, NULL, NULL, NULL, '', NULL, false, now(), now(), 0, NULL, NULL, 'theirs');
	DELETE FROM cqrs.failed WHERE id = 1;
	INSERT INTO own VALUES (9, 'last')});
$origin->wait_for_catchup('everything');
is( $copy->safe_psql('postgres', $OWN),
	'applied,own|||||1mine',
	'what is of cqrs stays as it is');
$_->safe_psql('postgres', 'DROP TABLE followed') foreach ($origin, $copy);

$copy->safe_psql('postgres', q{INSERT INTO own VALUES (2, 'here')});
is( $copy->safe_psql(
		'postgres',
		q{SELECT instance_pk FROM cqrs.outbox WHERE cqrs_id = 'own'}),
	2,
	'and what is changed there');

# A copy of the whole table, then each kind of change.
my $seen = 0;

# Messages of a table that the subscriber has written since the last call.
sub messages_of
{
	my ($table) = @_;
	my $messages = $copy->safe_psql(
		'postgres', qq{
		SELECT string_agg(concat_ws(' ', signal_type, instance_pk,
			body::json #>> '{instance_data,v}',
			body::json #>> '{instance_data,cqrs_revision}'), ', ' ORDER BY id)
		FROM cqrs.outbox WHERE cqrs_id = '$table' AND id > $seen});
	$seen = $copy->safe_psql('postgres', 'SELECT max(id) FROM cqrs.outbox');
	return $messages;
}

$_->safe_psql('postgres', 'CREATE TABLE copied (id int PRIMARY KEY, v text)')
  foreach ($origin, $copy);
$copy->safe_psql('postgres',
	q{SELECT cqrs_register('copied', replication => 'replica')});
$origin->safe_psql('postgres',
	q{INSERT INTO copied VALUES (1, 'a'), (2, 'b'), (3, 'c')});
$copy->safe_psql('postgres',
	'ALTER SUBSCRIPTION everything REFRESH PUBLICATION WITH (copy_data = true)'
);
$copy->wait_for_subscription_sync($origin, 'everything');
is( messages_of('copied'),
	'SAVE 1 a 0, SAVE 2 b 0, SAVE 3 c 0',
	'the initial copy is sent');

# Runs commands at the origin; returns what the subscriber sends of it.
sub sent_for
{
	my ($sql) = @_;
	$origin->safe_psql('postgres', $sql);
	$origin->wait_for_catchup('everything');
	return messages_of('copied');
}

is( sent_for(
		q{BEGIN; UPDATE copied SET v = 'x' WHERE id = 1;
		UPDATE copied SET v = 'y' WHERE id = 1; COMMIT}),
	'SAVE 1 y 1',
	'one message for the changes of a transaction');
is( sent_for('UPDATE copied SET id = 4 WHERE id = 2'),
	'DELETE 2 1, SAVE 4 b 1',
	'a key that changes');
is( sent_for(
		q{BEGIN; DELETE FROM copied WHERE id = 3;
		INSERT INTO copied VALUES (3, 'again'), (5, 'e'); COMMIT}),
	'DELETE 3 1, SAVE 3 again 0, SAVE 5 e 0',
	'a row that is deleted and comes back');
is( sent_for(q{TRUNCATE copied; INSERT INTO copied VALUES (1, 'new')}),
	'DELETE 1 2, DELETE 4 2, DELETE 3 1, DELETE 5 1, SAVE 1 new 0',
	'TRUNCATE deletes each row');

$copy->safe_psql('postgres', 'DROP SUBSCRIPTION everything');

# What an initial copy does to a database without masters.
$origin->safe_psql('postgres',
	'CREATE PUBLICATION part FOR TABLE cqrs.home, cqrs.publisher');
$copy->safe_psql('postgres', 'CREATE DATABASE fresh');
$copy->safe_psql('fresh',    'CREATE EXTENSION cqrs');
$copy->safe_psql('fresh',
	"CREATE SUBSCRIPTION part CONNECTION '$address' PUBLICATION part");
$copy->wait_for_subscription_sync($origin, 'part', 'fresh');
is( $copy->safe_psql(
		'fresh',
		'SELECT cqrs.is_copy(), count(*), (SELECT count(*) FROM cqrs.home) FROM cqrs.publisher'
	),
	'f|1|0',
	'nor does an initial copy change it');
$copy->safe_psql('fresh', 'DROP SUBSCRIPTION part');
$_->stop foreach ($copy, $origin);
done_testing();
