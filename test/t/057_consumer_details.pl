# The consumer: what cqrs_check says of it, another program at its queue, a
# database that commits nothing, messages behind one that a handler has failed
# at, dead letters that are old, dumps, and a synchronous standby that does not
# answer.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('details');
$broker->start;
my $node = new_master(
	'details', $broker,
	init => [ allows_streaming => 1 ],
	conf => "cqrs.reconnect_delay_max = '300ms'\ncqrs.retry_delay_max = '100ms'\n");

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub wait_for
{
	my ($condition) = @_;
	$node->poll_query_until('postgres', "SELECT coalesce(($condition), false)")
	  or BAIL_OUT("not reached: $condition; "
		  . query('SELECT * FROM cqrs.consumer_stats') . "\n"
		  . query('SELECT * FROM cqrs.failed'));
	return;
}

# What cqrs_check says of an item.
sub checked
{
	my ($item) = @_;
	return query(
		qq{SELECT status || ': ' || detail FROM cqrs_check() WHERE item = '$item'}
	);
}

# The body of a SAVE.
sub save
{
	my ($cqrs_id, $pk, $revision, $name) = @_;
	return {
		signal_type   => 'SAVE',
		cqrs_id       => $cqrs_id,
		instance_pk   => $pk,
		previous_data => undef,
		instance_data => {
			id            => $pk,
			name          => $name,
			cqrs_revision => $revision,
			cqrs_updated  => '2026-01-01T00:00:00+00:00' } };
}

# cqrs_check, and one queue a database (decisions 1, 23).
is(checked('consumer'), '', 'without replicas nothing is said');
query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('author', max_retries => NULL)});
like(checked('consumer'), qr/^warning: there are replicas, but no queue/,
	'replicas without a queue');
query(q{SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');
like(checked('consumer'), qr/^ok: .*consuming, queue "shop"/, 'consuming');
is(checked('failed messages'),
	'ok: 0 messages wait for a retry, 0 are dead letters',
	'nothing has failed');

# A deadlock: the consumer has row 21 and waits for row 22, which a user has, who
# now wants row 21.  The user is not the victim.  The wait for row 20 makes sure
# that the other messages are there and form a batch.
query(
	q{INSERT INTO author (id, name, cqrs_revision, cqrs_updated)
		SELECT i, 'old', -1, now() FROM generate_series(20, 22) i});
my @users = map { { in => '', out => '', err => '' } } 1 .. 2;
foreach my $user (@users)
{
	$user->{session} =
	  open_psql($node, \$user->{in}, \$user->{out}, \$user->{err});
}

# Has a user lock a row.
sub lock_row
{
	my ($user, $id) = @_;
	$user->{in} .=
	  "BEGIN; SELECT 'has ' || id FROM author WHERE id = $id FOR UPDATE;\n";
	$user->{session}->pump until $user->{out} =~ /^has $id$/m;
	return;
}

# Waits until the consumer waits for a lock of a user's transaction.
sub wait_for_lock
{
	wait_for(
		q{SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE backend_type = 'cqrs consumer' AND wait_event_type = 'Lock')});
	return;
}

lock_row($users[0], 20);
lock_row($users[1], 22);
publish($broker, 'cqrs', 'author', map { save('author', $_, 1, 'new') } 19 .. 22);
wait_for_lock();
$users[0]{in} .= "COMMIT; SELECT 'over';\n";
$users[0]{session}->pump until $users[0]{out} =~ /^over$/m;
wait_for(q{SELECT name = 'new' FROM author WHERE id = 20});
wait_for_lock();
lock_row($users[1], 21);
$users[1]{in} .= "COMMIT;\n";
$_->{in} .= "\\q\n" foreach @users;
$_->{session}->finish foreach @users;
is($users[1]{err} =~ s/^WARNING:.*\n//gmr, '', 'a user is not the victim of a deadlock');
wait_for(
	q{SELECT count(*) = 4 FROM author WHERE id BETWEEN 19 AND 22 AND name = 'new'});

my (undef, undef, $errors) =
  $node->psql('postgres', q{SELECT cqrs_consume('other')});
like($errors, qr/this database consumes the queue "shop" already/,
	'another queue is refused');
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
like(checked('consumer'), qr/^warning: consuming is paused/, 'paused');

# Another program that consumes the queue (decision 3).
my $worker = start_consumer($broker, 'shop', 'author');
RabbitMQ->poll_until(
	sub {
		return $broker->ctl('-q', 'list_queues', 'name', 'consumers') =~
		  /^shop\t1$/m;
	},
	60) or BAIL_OUT('the worker does not consume');
query('SELECT cqrs_resume_consumer()');
wait_for(q{SELECT last_error LIKE '%in exclusive use' FROM cqrs.consumer_stats});
pass('a queue that another program consumes is not shared');
stop_consumer($worker);

# A database that cannot store what fails: the message is not at fault, and
# nothing is acknowledged (decision 11).
query(
	q{ALTER SEQUENCE cqrs.failed_id MAXVALUE 2;
	SELECT nextval('cqrs.failed_id') FROM generate_series(1, 2)});
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save('author', 1, 0, 'bad'));
wait_consumer($node, 'postgres', 'backing off');
like(checked('consumer'), qr/^error: nothing can be committed.*failed_id/,
	'cqrs_check says why nothing can be committed');
is(query('SELECT buffered, failures FROM cqrs.consumer_stats'),
	'1|0', 'the message is kept and not counted');
query('ALTER SEQUENCE cqrs.failed_id NO MAXVALUE');
wait_for(q{SELECT attempts >= 1 FROM cqrs.failed});
like(checked('failed messages'), qr/^warning: 1 messages wait/,
	'afterwards it is stored');
wait_consumer($node, 'postgres', 'consuming');

# Dumps have what has failed, and not what is consumed (decision 22).
my ($dump) = run_command([ 'pg_dump', '-d', $node->connstr('postgres') ]);
like($dump, qr/^COPY cqrs\.failed .*\n\d+\tauthor\t1\tS\t/m,
	'a dump has the failed message');
unlike($dump, qr/^COPY cqrs\.consumer /m, 'and not the queue');

# Old dead letters (decision 13).
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
query(
	q{UPDATE cqrs.failed SET next_try = NULL, failed_at = now() - interval '2 hours';
	INSERT INTO cqrs.failed SELECT 1000, f.cqrs_id, f.instance_pk, f.signal_type, f.body, NULL, false,
		now(), now(), 1, NULL, NULL, 'young' FROM cqrs.failed f;
	ALTER SYSTEM SET cqrs.dead_letter_ttl = '1h';
	SELECT pg_reload_conf();
	SELECT pg_terminate_backend(pid) FROM cqrs.consumer_stats});
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed});
is(query('SELECT error FROM cqrs.failed'), 'young', 'only the old one is gone');
query('DELETE FROM cqrs.failed; SELECT cqrs_resume_consumer()');

# With a handler, messages of a row wait behind an earlier one (decision 12).
query(
	q{CREATE TABLE handled (id bigserial, name text);
	CREATE TABLE broken ();
	CREATE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.handled (name) VALUES (m.instance_data ->> 'name');
		RETURN m.instance_pk::text <> '1' OR
			NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'broken');
	END $$;
	SELECT cqrs_register_replica(NULL, 'event', handler => 'public.handle', max_retries => NULL)});
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save('event', 1, 0, 'first'));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed});
publish(
	$broker, 'cqrs', 'author',
	save('event', 1, 1, 'second'),
	save('event', 2, 0, 'neighbour'));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE error LIKE '%waits for an earlier one%'});
wait_for(q{SELECT count(*) = 1 FROM handled});
is(query('SELECT name FROM handled'),
	'neighbour', 'messages of other rows are handled');
query('DROP TABLE broken');
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(query(q{SELECT string_agg(name, ',' ORDER BY id) FROM handled}),
	'neighbour,first,second', 'messages of the row are handled in order');

# A synchronous standby that does not answer: nothing is acknowledged, whatever
# the database's synchronous_commit is (decision 7).
query(
	q{ALTER DATABASE postgres SET synchronous_commit = off;
	SELECT pg_terminate_backend(pid) FROM cqrs.consumer_stats});
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save('author', 10, 0, 'before'));
wait_for(q{SELECT count(*) = 1 FROM author WHERE id = 10});
wait_for(q{SELECT buffered = 0 FROM cqrs.consumer_stats});
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
# The setting holds once a commit of a session waits.
my ($in, $out, $err) = (<<'END', '', '');
SET synchronous_commit = on;
DO $$ BEGIN LOOP INSERT INTO handled (name) VALUES ('x'); COMMIT; END LOOP; END $$;
END
my $session = open_psql($node, \$in, \$out, \$err);
$session->pump_nb;
wait_for(
	q{SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND wait_event = 'SyncRep')});
publish($broker, 'cqrs', 'author', save('author', 11, 0, 'after'));
wait_for(
	q{SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event = 'SyncRep')});
is( $broker->ctl('-q', 'list_queues', 'name', 'messages_unacknowledged') =~
	  /^shop\t(\d+)$/m ? $1 : undef,
	1, 'a message is not acknowledged before the standby has it');
query(
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'});
$session->pump while $session->pumpable;
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
wait_for(q{SELECT buffered = 0 FROM cqrs.consumer_stats});
ok( RabbitMQ->poll_until(
		sub {
			return $broker->ctl('-q', 'list_queues', 'name',
				'messages_unacknowledged') =~ /^shop\t0$/m;
		},
		60),
	'and is acknowledged then');

$node->stop;
done_testing();
