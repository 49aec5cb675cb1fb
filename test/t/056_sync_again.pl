# A SYNC and a later SAVE of its row are delivered again, and the SYNC fails
# again: when it is retried, the row does not go back.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('again');
$broker->start;
my $node = new_master('again', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE broken ();
	CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.name = 'sync' AND to_regclass('public.broken') IS NOT NULL THEN
			RAISE 'broken';
		END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER break BEFORE UPDATE ON author
		FOR EACH ROW EXECUTE FUNCTION break();
	SELECT cqrs_register_replica('author', retry_delay => '1h');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

sub message
{
	my ($signal, $revision) = @_;
	return [
		"$signal $revision",
		{   signal_type   => $signal,
			cqrs_id       => 'author',
			instance_pk   => 1,
			instance_data => {
				id            => 1,
				name          => lc $signal,
				cqrs_revision => $revision,
				cqrs_updated  => '2026-01-01T00:00:00+00:00' } } ];
}

my @again = (message('SYNC', 3), message('SAVE', 4));
publish($broker, 'cqrs', 'author', message('SAVE', 3), @again);
wait_consumer($node, 'postgres', 'received = 3 AND buffered = 0');
is($node->safe_psql('postgres', 'SELECT cqrs_revision FROM author'),
	4, 'a SYNC has failed, and a SAVE has come after it');
publish($broker, 'cqrs', 'author', @again);
wait_consumer($node, 'postgres', 'received = 5 AND buffered = 0');
is( $node->safe_psql('postgres', 'SELECT failures FROM cqrs.consumer_stats'),
	2,
	'the SYNC has failed again');
$node->safe_psql('postgres', 'DROP TABLE broken; SELECT cqrs_retry_failed()');
wait_consumer($node, 'postgres', 'waiting = 0');
is($node->safe_psql('postgres', 'SELECT name, cqrs_revision FROM author'),
	'save|4', 'its retry does not set the row back');
$node->stop;
done_testing();
