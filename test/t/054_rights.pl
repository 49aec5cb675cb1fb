# What belongs to the owner of a replica runs with the owner's rights (I30), in each
# way that a message can fail.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('rights');
$broker->start;
my $node = new_master('rights', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE book (id int PRIMARY KEY, name text);
	CREATE TABLE event (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	SELECT cqrs_register('book');
	SELECT cqrs_register('event')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop',     'CREATE EXTENSION cqrs');
$node->safe_psql(
	'shop', q{
	CREATE ROLE owner;
	GRANT CREATE ON SCHEMA public TO owner;
	GRANT EXECUTE ON FUNCTION cqrs_register_replica TO owner;
	CREATE TABLE seen (what text, who text);
	GRANT INSERT ON seen TO owner;
	SET ROLE owner;
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE book (id int PRIMARY KEY, name text);
	CREATE FUNCTION retry(message cqrs.message, attempts integer, sqlstate text, error text)
		RETURNS interval LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen VALUES ('retry', current_user);
		RETURN NULL;
	END $$;
	-- The query of a cursor WITH HOLD runs at COMMIT.
	CREATE FUNCTION at_commit() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION 'failed at commit as %', current_user;
	END $$;
	CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.name = 'bad' THEN
			EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT public.at_commit()';
		END IF;
		INSERT INTO public.seen VALUES ('trigger', current_user);
		RETURN NULL;
	END $$;
	CREATE TRIGGER later AFTER INSERT ON author FOR EACH ROW EXECUTE FUNCTION later();
	SELECT cqrs_register_replica('author', retry => 'public.retry');
	SELECT cqrs_register_replica('book');
	CREATE FUNCTION handle(message cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen VALUES ('handler', current_user);
		RETURN true;
	END $$;
	SELECT cqrs_register_replica(NULL, 'event', handler => 'public.handle');
	RESET ROLE;
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');

$node->safe_psql(
	'postgres', q{
	INSERT INTO author VALUES (1, 'good'), (2, 'bad'), (3, 'good');
	INSERT INTO book VALUES (1, 'one');
	INSERT INTO event VALUES (1, 'one')});
wait_published($node);
$node->poll_query_until('shop', q{SELECT count(*) = 1 FROM cqrs.dead_letters})
  or BAIL_OUT('no dead letter');
$node->poll_query_until('shop', q{SELECT count(*) = 1 FROM book})
  or BAIL_OUT('the neighbour is not applied');
$node->poll_query_until('shop',
	q{SELECT count(*) = 1 FROM seen WHERE what = 'handler'})
  or BAIL_OUT('the handler is not called');
is( $node->safe_psql(
		'shop', 'SELECT DISTINCT what, who FROM seen ORDER BY 1'),
	"handler|owner\nretry|owner\ntrigger|owner",
	'handlers, triggers and retry functions run as the owner');
is( $node->safe_psql('shop', 'SELECT error FROM cqrs.dead_letters'),
	'failed at commit as owner',
	'and so does what runs at commit');
is( $node->safe_psql(
		'shop', 'SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM author'),
	'1,3',
	'the neighbours of a message that fails at commit are applied');

# A replica whose handler has gone does not take its neighbours along.
$node->safe_psql(
	'shop', q{
	UPDATE cqrs.replica SET handler = 'public.gone' WHERE cqrs_id = 'event'});
$node->safe_psql(
	'postgres', q{
	INSERT INTO event VALUES (2, 'two');
	INSERT INTO book VALUES (2, 'two')});
wait_published($node);
$node->poll_query_until('shop', q{SELECT count(*) = 2 FROM book})
  or BAIL_OUT('the neighbour is not applied');
is( $node->safe_psql(
		'shop',
		q{SELECT cqrs_id, error FROM cqrs.failed WHERE next_try IS NOT NULL}),
	'event|the handler of replica "event" does not exist',
	'only the message without a handler has failed');
$node->stop;
done_testing();
