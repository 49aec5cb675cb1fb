# All owners of replicas share the session of the consumer: what the code of
# one leaves there stops or changes nothing of another's (I23).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('leftovers');
$broker->start;
my $node = new_master('leftovers', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE ROLE alice;
	CREATE ROLE bob;
	GRANT ALL ON SCHEMA public TO alice, bob;
	-- What a message of Alice says is done in her name.
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE FUNCTION obey() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN EXECUTE NEW.name; RETURN NEW; END$$;
	CREATE TRIGGER obey BEFORE INSERT ON author
		FOR EACH ROW EXECUTE FUNCTION obey();
	ALTER TABLE author OWNER TO alice;
	-- Bob keeps a log of what his code meets.
	CREATE TABLE log (what text);
	CREATE TABLE other (id int PRIMARY KEY, name text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
		SET search_path = public AS $$
	BEGIN
		INSERT INTO log
			SELECT concat_ws(', ', NEW.name, (SELECT string_agg(name, ' ') FROM pg_prepared_statements),
				(SELECT string_agg(name, ' ') FROM pg_cursors WHERE is_holdable),
				(SELECT min(objid) FROM pg_locks WHERE locktype = 'advisory'),
				nullif(current_setting('lock_timeout'), '5s'),
				nullif(current_setting('default_transaction_isolation'), 'read committed'));
		RETURN NEW;
	END$$;
	CREATE TRIGGER note BEFORE INSERT ON other
		FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE other OWNER TO bob;
	ALTER TABLE log OWNER TO bob;
	SELECT cqrs_register_replica('author');
	SELECT cqrs_register_replica('other');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

my $messages = 0;

# A message of Alice, and then one of Bob.
sub do_as_alice
{
	my ($command, $what) = @_;

	$messages++;
	foreach my $pair ([ 'author', $command ], [ 'other', $what ])
	{
		my ($table, $name) = @$pair;
		publish($broker, 'cqrs', 'author',
			save_body($table, $messages, $name));
		$node->poll_query_until('postgres',
			"SELECT count(*) = $messages FROM $table")
		  or BAIL_OUT("$what: "
			  . $node->safe_psql('postgres', 'SELECT error FROM cqrs.failed')
		  );
	}
	is( $node->safe_psql('postgres', 'SELECT what FROM log; DELETE FROM log'),
		$what,
		"of another owner is met: no $what");
	return;
}

do_as_alice('SET lock_timeout = 0', 'timeout');
do_as_alice('SET default_transaction_isolation = serializable',
	'isolation level');
do_as_alice('SET default_transaction_read_only = on', 'read only mode');
do_as_alice('PREPARE secret AS SELECT 1',             'prepared statement');
do_as_alice('DECLARE secret CURSOR WITH HOLD FOR SELECT 1', 'cursor');
do_as_alice('SELECT pg_advisory_lock(17)',                  'advisory lock');
do_as_alice(
	q{CREATE TEMP TABLE log (what text);
	CREATE FUNCTION pg_temp.steal() RETURNS trigger LANGUAGE plpgsql AS
	$f$BEGIN ALTER TABLE public.log OWNER TO alice; RETURN NEW; END$f$;
	CREATE TRIGGER steal BEFORE INSERT ON log
		FOR EACH ROW EXECUTE FUNCTION pg_temp.steal();
	GRANT ALL ON log TO PUBLIC},
	'temporary table');
do_as_alice('SELECT 1', 'more');

# A temporary function that a table depends on, which another session locks as
# soon as Alice's transaction is over: it cannot be removed.  Nothing is
# applied until it can be, in the same process.
$node->safe_psql('postgres',
	'CREATE TABLE dependent (v int); ALTER TABLE dependent OWNER TO alice');
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
publish(
	$broker, 'cqrs', 'author',
	save_body(
		'author', 100, q{
	CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
	ALTER TABLE public.dependent ALTER v SET DEFAULT pg_temp.f();
	DO $d$BEGIN
		WHILE NOT EXISTS (SELECT FROM pg_catalog.pg_locks
			WHERE relation = 'public.dependent'::regclass AND NOT granted)
		LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
	END$d$}));
$node->poll_query_until('postgres',
	q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'dependent'::regclass)}
) or BAIL_OUT('the table is not altered');
$in = "BEGIN; LOCK TABLE dependent; SELECT 'locked';\n";
$session->pump until $out =~ /^locked$/m;
wait_consumer($node, 'postgres', 'backing off');
$in .= "COMMIT;\n\\q\n";
$session->finish;
wait_consumer($node, 'postgres', 'consuming');
$node->safe_psql('postgres', 'DELETE FROM author WHERE id = 100');
do_as_alice('SELECT 1', 'temporary function');
is( $node->safe_psql(
		'postgres',
		'SELECT redelivered, (SELECT count(*) FROM cqrs.failed) FROM cqrs.consumer_stats'
	),
	'0|0',
	'nothing is delivered again');
like(
	slurp_file($node->logfile),
	qr/consumer cannot reset its session after code of a replica's owner has run/,
	'the log says why');

# A handler that applies its messages in a block with EXCEPTION, after the
# relation cache has noticed a change of the table.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE careful (id int PRIMARY KEY, name text);
	CREATE FUNCTION careful(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS
	$$BEGIN
		GRANT SELECT ON public.careful TO PUBLIC;
		PERFORM public.cqrs_apply(m);
		RETURN true;
	EXCEPTION WHEN OTHERS THEN
		RETURN true;
	END$$;
	SELECT cqrs_register_replica('careful', handler => 'careful')});
foreach my $id (1 .. 2)
{
	publish($broker, 'cqrs', 'author', save_body('careful', $id, 'a'));
}
wait_consumer($node, 'postgres', 'handled = 2');
is($node->safe_psql('postgres', 'SELECT count(*) FROM careful'),
	2, 'a handler with EXCEPTION applies messages after a change');

# The CHECK of a domain that applies a message to the same column: what follows
# in it is still about the outer message's value.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE seen (what text);
	CREATE FUNCTION applies(v text) RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		pk int := 2 + (SELECT count(*) FROM public.seen);
	BEGIN
		IF v = 'outer' THEN
			PERFORM public.cqrs_apply(cqrs.parse_message(jsonb_build_object('signal_type', 'SAVE',
				'cqrs_id', 'nests', 'instance_pk', pk, 'instance_data', jsonb_build_object('id', pk,
					'name', repeat('inner', 2000), 'list', format('{%s}', repeat('inner', 1000)),
					'cqrs_revision', 0, 'cqrs_updated', now()))::text));
		END IF;
		RETURN true;
	END$$;
	CREATE FUNCTION sees(v text) RETURNS boolean LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.seen VALUES (left(v, 5) || length(v)); RETURN true; END$$;
	CREATE DOMAIN nested AS text CHECK (applies(value) AND sees(value));
	CREATE TABLE nests (id int PRIMARY KEY, name nested, list nested[]);
	SELECT cqrs_register_replica('nests')});
my $nests = save_body('nests', 1, 'outer');
$nests->{instance_data}{list} = '{outer}';
publish($broker, 'cqrs', 'author', $nests);
$node->poll_query_until('postgres', 'SELECT count(*) = 3 FROM nests')
  or BAIL_OUT($node->safe_psql('postgres', 'SELECT error FROM cqrs.failed'));
is( $node->safe_psql(
		'postgres',
		q{SELECT what, count(*) FROM seen GROUP BY what ORDER BY what}),
	"inner10000|2\ninner5000|2\nouter5|2",
	'the CHECK of a domain applies a message');
is( $node->safe_psql(
		'postgres', q{SELECT connects, errors FROM cqrs.consumer_stats}),
	'2|1',
	'one process has done all of that');
$node->stop;
done_testing();
