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
	'postgres', qq{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \$\$$STUBBORN\$\$;
	CREATE TRIGGER hang BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.name = 'stubborn') EXECUTE FUNCTION hang();
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

publish(
	$broker, 'cqrs', 'author',
	save_body('author', 1, 'good'),
	save_body('author', 2, 'stubborn'),
	save_body('author', 3, 'good'));
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
ok($node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM author}),
	'the message can be tried again');

# The process is asked to end at the moment when it ends because of such a message:
# the next one takes the message for a suspect all the same.
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \$\$$STUBBORN\$\$;
	CREATE TRIGGER hang BEFORE INSERT ON author FOR EACH ROW
		WHEN (NEW.name = 'stubborn') EXECUTE FUNCTION hang()});
publish($broker, 'cqrs', 'author', save_body('author', 4, 'stubborn'));
my $HANGS = q{backend_type = 'cqrs consumer' AND wait_event = 'PgSleep'};
$node->poll_query_until('postgres',
	"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $HANGS)")
  or BAIL_OUT('the consumer does not hang');
my ($pid, $now) = split /\|/,
  $node->safe_psql('postgres',
	"SELECT pid, clock_timestamp() FROM pg_stat_activity WHERE $HANGS");
kill 'STOP', $pid;
$node->poll_query_until('postgres',
	"SELECT clock_timestamp() > '$now'::timestamptz + '1.1 s'");
kill $_, $pid foreach ('TERM', 'CONT');
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM cqrs.dead_letters WHERE instance_pk = '4'})
  or BAIL_OUT('no dead letter');
@lines = slurp_file($node->logfile) =~
  /consumer ends because a message took longer than twice/g;
is(scalar @lines, 4, 'a request to end does not make the end one in order');
$node->stop;
done_testing();
