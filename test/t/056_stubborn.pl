# A trigger that catches whatever is to end it: the message becomes a dead letter,
# its neighbours are applied, and the table is not locked for ever.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('stubborn');
$broker->start;
my $node =
  new_master('stubborn', $broker, conf => "cqrs.apply_timeout = '500ms'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_sleep(1000);
			EXCEPTION WHEN query_canceled THEN NULL;
			END;
		END LOOP;
	END $$;
	CREATE TRIGGER hang BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.name = 'stubborn') EXECUTE FUNCTION hang();
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

sub message
{
	my ($pk, $name) = @_;
	return {
		signal_type   => 'SAVE',
		cqrs_id       => 'author',
		instance_pk   => $pk,
		instance_data => {
			id            => $pk,
			name          => $name,
			cqrs_revision => 0,
			cqrs_updated  => '2026-01-01T00:00:00+00:00' } };
}

publish($broker, 'cqrs', 'author', message(1, 'good'),
	message(2, 'stubborn'), message(3, 'good'));
$node->poll_query_until('postgres',
	q{SELECT instance_pk = '2' FROM cqrs.dead_letters})
  or BAIL_OUT('no dead letter');
is( $node->safe_psql('postgres', 'SELECT error FROM cqrs.dead_letters'),
	'the server or the consumer has ended twice while messages were applied, the last time while it was this one',
	'a message that nothing ends becomes a dead letter');
ok( $node->poll_query_until(
		'postgres', q{SELECT string_agg(id::text, ',') = '1,3' FROM author}),
	'its neighbours are applied');
my @lines = slurp_file($node->logfile) =~
  /consumer ends because a message took longer than twice/g;
is(scalar @lines, 2, 'the log says why the consumer has ended');

# The trigger is dropped, and the message is applied after all.
$node->safe_psql('postgres',
	'DROP FUNCTION hang() CASCADE; SELECT cqrs_retry_failed()');
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 3 FROM author}),
	'the message can be tried again');
$node->stop;
done_testing();
