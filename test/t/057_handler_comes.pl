# A message that waits for the transaction that gives its replica a handler is
# handled, and noted as handled (I32): another delivery changes nothing.  A handler
# that unregisters its own replica has handled its message.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('handler');
$broker->start;
my $node = new_master('handler', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, name text);
	CREATE TABLE handled (name text);
	CREATE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.handled VALUES (m.instance_data ->> 'name');
		RETURN true;
	END $$;
	SELECT cqrs_register_replica('item');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= <<'END';
BEGIN;
SELECT cqrs_alter_replica('item', '{"handler": "public.handle"}'), 'altered';
END
$session->pump until $out =~ /altered/ || $err;
my @message =
  ('cqrs', 'item', [ 'id 1', save_body('item', 1, 'once') ]);
publish($broker, @message);
$node->poll_query_until('postgres',
	q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted})
  or BAIL_OUT('the consumer does not wait');
$in .= "COMMIT;\n\\q\n";
$session->finish;
$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM handled')
  or BAIL_OUT('the message is not handled');
pass('the message is handled');
publish($broker, @message);
$node->poll_query_until('postgres',
	'SELECT repeated = 1 FROM cqrs.consumer_stats')
  or BAIL_OUT('the message was not repeated');
is($node->safe_psql('postgres', 'SELECT count(*) FROM handled'),
	1, 'it is handled once');

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION handle_last(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.handled VALUES ('last');
		PERFORM public.cqrs_unregister_replica('last');
		RETURN true;
	END $$;
	SELECT cqrs_register_replica(NULL, 'last', handler => 'public.handle_last')}
);
publish($broker, 'cqrs', 'item', [ 'id 2', save_body('last', 1, 'x') ]);
$node->poll_query_until('postgres',
	'SELECT handled + failures = 2 FROM cqrs.consumer_stats')
  or BAIL_OUT('the last message is not handled');
is( $node->safe_psql(
		'postgres', q{
		SELECT string_agg(name, ' '), (SELECT count(*) FROM cqrs.failed),
			(SELECT count(*) FROM cqrs.replica WHERE cqrs_id = 'last') FROM handled}),
	'once last|0|0',
	'a handler unregisters its replica');
$node->stop;
done_testing();
