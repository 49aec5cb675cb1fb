# An extension may raise an error without a message.  It is an error like any
# other: the message of the row is parked, and not lost.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $MODULE = $ENV{CQRS_LATE_CHANGE};

my $node = new_master('silent');
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION silent_error() RETURNS void
		AS '$MODULE' LANGUAGE C STABLE;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	CREATE FUNCTION item_json(i item) RETURNS jsonb LANGUAGE plpgsql STABLE
		AS \$\$
		BEGIN
			IF i.v = 'silent' THEN PERFORM public.silent_error(); END IF;
			RETURN jsonb_build_object('id', i.id);
		END \$\$;
	SELECT cqrs_register('item', serializer => 'item_json', on_error => 'park')}
);

my ($status, $out, $error) = $node->psql('postgres', 'SELECT silent_error()');
like($error, qr/missing error text/, 'an error without a message');

$node->safe_psql('postgres',
	q{INSERT INTO item VALUES (1, 'good'), (2, 'silent'), (3, 'good')});
is( $node->safe_psql(
		'postgres',
		q{SELECT string_agg(body::json #>> '{instance_data,id}', ' ' ORDER BY id)
		FROM cqrs.outbox WHERE body LIKE '%instance_data%'}),
	'1 3',
	'other messages are in the outbox');
is( $node->safe_psql('postgres', 'SELECT error FROM cqrs.parked'),
	'missing error text',
	'the message whose function says nothing is parked');
$node->stop;

done_testing();
