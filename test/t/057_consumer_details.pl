# The consumer: what cqrs_check says of it, another program at its queue, a
# database that commits nothing, how much a transaction takes, messages behind one
# that a handler has failed at, messages that a handler has had (I32), dead letters
# that are old, dumps, and a synchronous standby that does not answer (I24).
use strict;
use warnings;

use CqrsTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RawPublish;
use Test::More;

my $broker = RabbitMQ->new('details');
$broker->start;
my $node = new_master(
	'details', $broker,
	init => [ allows_streaming => 1 ],
	conf =>
	  "cqrs.reconnect_delay_max = '300ms'\ncqrs.retry_delay_max = '100ms'\n");

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub wait_for
{
	my ($condition) = @_;
	$node->poll_query_until('postgres',
		"SELECT coalesce(($condition), false)")
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

# What cqrs_check says of the consumer.
is(checked('consumer'), '', 'without replicas nothing is said');
query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('author', max_retries => NULL)});
like(
	checked('consumer'),
	qr/^warning: there are replicas, but no queue/,
	'replicas without a queue');
query(q{SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');
like(checked('consumer'), qr/^ok: .*consuming, queue "shop"/, 'consuming');
is( checked('failed messages'),
	'ok: 0 messages wait for a retry, 0 are dead letters',
	'nothing has failed');

# While paused, the consumer adds bindings and removes none: another database may
# consume the queue.
sub bound
{
	my ($key) = @_;
	return $broker->ctl('-q', 'list_bindings', 'routing_key') =~ /^$key$/m;
}

query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
foreach my $table (qw(late later))
{
	query(
		qq{CREATE TABLE $table (id int PRIMARY KEY);
		SELECT cqrs_register_replica('$table')});
	ok(RabbitMQ->poll_until(sub { bound($table) }, 60),
		"paused, and $table is bound");
	query('DROP TABLE late') if $table eq 'late';
}
ok(bound('late'), 'no binding is removed');
query('DROP TABLE later; SELECT cqrs_resume_consumer()');
wait_consumer($node, 'postgres', 'consuming');
ok(!bound('late') && !bound('later'), 'the consumer removes them later');

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

# Has a user lock a row; false after an error.
sub lock_row
{
	my ($user, $id) = @_;
	$user->{in} .=
	  "BEGIN; SELECT 'has ' || id FROM author WHERE id = $id FOR UPDATE;\n";
	$user->{session}->pump
	  until $user->{out} =~ /^has $id$/m || $user->{err} =~ /ERROR/;
	return $user->{err} !~ /ERROR/;
}

# Waits until the consumer has waited for a lock of a user for so long that it has
# looked for a deadlock.
sub wait_for_lock
{
	wait_for(
		q{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.backend_type = 'cqrs consumer' AND NOT l.granted
			AND clock_timestamp() - l.waitstart > '200 ms')});
	return;
}

lock_row($users[0], 20);
lock_row($users[1], 22);
publish($broker, 'cqrs', 'author', save_body('author', 19, 'new', 1));
wait_for(q{SELECT prefetch = 8 FROM cqrs.consumer_stats});
publish($broker, 'cqrs', 'author',
	map { save_body('author', $_, 'new', 1) } 20 .. 22);
wait_for_lock();
$users[0]{in} .= "COMMIT; SELECT 'over';\n";
$users[0]{session}->pump until $users[0]{out} =~ /^over$/m;
wait_for(q{SELECT name = 'new' FROM author WHERE id = 20});
wait_for_lock();
ok(lock_row($users[1], 21), 'a user is not the victim of a deadlock')
  or BAIL_OUT($users[1]{err});
$users[1]{in} .= "COMMIT;\n";
$_->{in} .= "\\q\n" foreach @users;
$_->{session}->finish foreach @users;
wait_for(
	q{SELECT count(*) = 4 FROM author WHERE id BETWEEN 19 AND 22 AND name = 'new'}
);

# Another cqrs.exchange after a reload: the queue is bound to both, since publishers
# may still use the former one.
sub bound_exchanges
{
	my ($key) = @_;
	return join ' ',
	  sort $broker->ctl('-q', 'list_bindings', 'source_name', 'routing_key')
	  =~ /^(\S+)\t$key$/mg;
}

query(q{ALTER SYSTEM SET cqrs.exchange = 'moved'});
$node->reload;
ok( RabbitMQ->poll_until(
		sub { return bound_exchanges('author') eq 'cqrs moved' }, 60),
	'a reload binds the queue to another exchange');
publish($broker, 'moved', 'author', save_body('author', 18, 'moved', 0));
wait_for(q{SELECT count(*) = 1 FROM author WHERE id = 18});
query('ALTER SYSTEM RESET cqrs.exchange');
$node->reload;

my (undef, undef, $errors) =
  $node->psql('postgres', q{SELECT cqrs_consume('other')});
like(
	$errors,
	qr/this database consumes the queue "shop" already/,
	'another queue is refused');
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
like(checked('consumer'), qr/^warning: consuming is paused/, 'paused');

# Another program that consumes the queue: it is not shared.
my $worker = start_consumer($broker, 'shop', 'author');
RabbitMQ->poll_until(
	sub {
		return $broker->ctl('-q', 'list_queues', 'name', 'consumers') =~
		  /^shop\t1$/m;
	},
	60) or BAIL_OUT('the worker does not consume');
query('SELECT cqrs_resume_consumer()');
wait_for(
	q{SELECT last_error LIKE '%in exclusive use' FROM cqrs.consumer_stats});
pass('a queue that another program consumes is not shared');
stop_consumer($worker);

# A table for the limits of a transaction.
query(
	q{CREATE TABLE many (id int PRIMARY KEY, name text);
	CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN PERFORM pg_catalog.pg_sleep(0.1); RETURN NEW; END$$;
	CREATE TRIGGER take_time BEFORE INSERT ON many FOR EACH ROW
		WHEN (NEW.name = 'slow') EXECUTE FUNCTION take_time();
	SELECT cqrs_register_replica('many')});
RabbitMQ->poll_until(sub { bound('many') }, 60) or BAIL_OUT('not bound');
my $many = 0;

# Publishes messages for new rows with this name, and with so many more bytes.
sub publish_many
{
	my @messages;
	foreach my $group (@_)
	{
		my ($count, $name, $bytes) = @$group;
		my $more = 'x' x ($bytes // 0);

		foreach my $id ($many + 1 .. $many + $count)
		{
			push @messages,
			  { exchange    => 'cqrs',
				routing_key => 'many',
				body => JSON::PP::encode_json(save_body('many', $id, $name))
				  =~ s/^\{/{"more":"$more",/r };
		}
		$many += $count;
	}
	publish_raw($broker, @messages);
	return;
}

# The window opens while messages wait for the consumer, and not the consumer for
# messages: they are published while it is paused, and some rows take their time.
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
publish_many(([ 199, 'first' ], [ 1, 'slow' ]) x 15);
query('SELECT cqrs_resume_consumer()');
wait_for(q{SELECT prefetch = 2000 FROM cqrs.consumer_stats});
wait_for("SELECT count(*) = $many FROM many");
wait_for('SELECT buffered = 0 FROM cqrs.consumer_stats');

# A database that cannot store what fails: the message is not at fault, and
# nothing is acknowledged.
query(
	q{ALTER SEQUENCE cqrs.failed_id MAXVALUE 2;
	SELECT nextval('cqrs.failed_id') FROM generate_series(1, 2)});
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save_body('author', 1, 'bad', 0));
publish_many([ 1500, 'small' ], [ 30, 'large', 1024 * 1024 ], [ 10, 'slow' ]);
wait_consumer($node, 'postgres', 'backing off');
like(
	checked('consumer'),
	qr/^error: nothing can be committed.*failed_id/,
	'cqrs_check says why nothing can be committed');
wait_for('SELECT buffered = 1541 FROM cqrs.consumer_stats');
is(query('SELECT failures FROM cqrs.consumer_stats'),
	0, 'the message is kept and not counted');
query('ALTER SEQUENCE cqrs.failed_id NO MAXVALUE');
wait_for(q{SELECT attempts >= 1 FROM cqrs.failed});
like(
	checked('failed messages'),
	qr/^warning: 1 messages wait/,
	'afterwards it is stored');
wait_consumer($node, 'postgres', 'consuming');

# What had arrived meanwhile: the limits of a transaction.
wait_for("SELECT count(*) = $many FROM many");
my %most = map { split /\|/ } split /\n/, query(
	q{SELECT name, max(rows) FROM
		(SELECT name, count(*) AS rows FROM many GROUP BY name, xmin) AS t
	GROUP BY name});
cmp_ok($most{small}, '<=', 1000, 'a transaction takes 1000 messages');
cmp_ok($most{large}, '<=', 15,   'a transaction takes 16 MB of messages');
cmp_ok($most{slow},  '<=', 2,    'a transaction ends after 200 ms');
note explain \%most;
query('DROP TABLE many');

# Dumps have what has failed, and not what is consumed.
my ($dump) = run_command([ 'pg_dump', '-d', $node->connstr('postgres') ]);
like(
	$dump,
	qr/^COPY cqrs\.failed .*\n\d+\tauthor\t1\tS\t/m,
	'a dump has the failed message');
unlike(
	$dump,
	qr/^COPY cqrs\.(?:consumer|handled)/m,
	'and neither the queue nor what was handled');

# What it is restored into consumes nothing, and can try what has failed.
query('CREATE DATABASE restored TEMPLATE template0');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
append_to_file($file, $dump);
command_ok(
	[   'psql', '-Xqo/dev/null', '-vON_ERROR_STOP=1', '-f', $file, '-d',
		$node->connstr('restored') ],
	'restored');
my $STATE = q{SELECT (SELECT string_agg(instance_pk, ',') FROM cqrs.failed),
	(SELECT count(*) FROM cqrs.consumer), (SELECT pid FROM cqrs.consumer_stats),
	nextval('cqrs.failed_id') > (SELECT max(id) FROM cqrs.failed),
	(SELECT count(*) FROM cqrs.handled_turn)};
is($node->safe_psql('restored', $STATE),
	'1|0||t|1',
	'a restored database has what has failed, and consumes nothing');
$node->safe_psql(
	'restored', q{
	ALTER TABLE author DROP CONSTRAINT author_name_check;
	SELECT cqrs_consume('second');
	SELECT cqrs_retry_failed()});
ok( $node->poll_query_until(
		'restored', q{SELECT count(*) = 1 FROM author WHERE name = 'bad'}),
	'what has failed is applied there');
$node->safe_psql('restored', 'SELECT cqrs_stop_consuming()');
query('DROP DATABASE restored');

# Old dead letters are removed.
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
query(
	q{UPDATE cqrs.failed SET next_try = NULL, failed_at = now() - interval '2 hours';
	INSERT INTO cqrs.failed SELECT 1000, f.cqrs_id, f.instance_pk, f.signal_type, f.body, NULL, false,
		now(), now(), 1, NULL, NULL, 'young' FROM cqrs.failed f;
	INSERT INTO cqrs.failed SELECT 2000 + n, f.cqrs_id, f.instance_pk, f.signal_type, f.body, NULL, false,
		now(), f.failed_at, 1, NULL, NULL, 'old' FROM cqrs.failed f, generate_series(1, 2500) n WHERE f.id <> 1000;
	ALTER SYSTEM SET cqrs.dead_letter_ttl = '1h';
	SELECT pg_reload_conf();
	SELECT pg_terminate_backend(pid) FROM cqrs.consumer_stats});
my $asked_at = time;
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed});
is(query('SELECT error FROM cqrs.failed'),
	'young', 'only the old ones are gone');
cmp_ok(time - $asked_at,
	'<', 45, 'many old ones are not removed in steps of a minute');
query('DELETE FROM cqrs.failed; SELECT cqrs_resume_consumer()');

# With a handler, messages of a row wait behind an earlier one.
query(
	q{CREATE TABLE handled (id bigserial, name text);
	CREATE TABLE broken ();
	CREATE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.handled (name) VALUES (m.instance_data ->> 'name');
		RETURN m.instance_pk::text <> '1' OR
			NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'broken');
	END $$;
	SELECT cqrs_register_replica(NULL, 'event', handler => 'public.handle', max_retries => NULL)}
);
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save_body('event', 1, 'first', 0));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed});
publish(
	$broker, 'cqrs', 'author',
	save_body('event', 1, 'second',    1),
	save_body('event', 2, 'neighbour', 0));
wait_for(
	q{SELECT count(*) = 1 FROM cqrs.failed WHERE error LIKE '%waits for an earlier one%'}
);
wait_for(q{SELECT count(*) = 1 FROM handled});
is(query('SELECT name FROM handled'),
	'neighbour', 'messages of other rows are handled');
query('DROP TABLE broken');
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(query(q{SELECT string_agg(name, ',' ORDER BY id) FROM handled}),
	'neighbour,first,second', 'messages of the row are handled in order');

# A user can put off one for ever, and so those behind it.
query('CREATE TABLE broken (); SELECT cqrs_pause_consumer()');
query(
	q{INSERT INTO cqrs.failed (id, cqrs_id, instance_pk, signal_type, body, direct,
		received_at, failed_at, attempts, next_try, error)
	VALUES (0, 'event', '1', 'S', '{}', false, now(), now(), 1, 'infinity', 'put off');
	SELECT cqrs_resume_consumer()});
publish($broker, 'cqrs', 'author', save_body('event', 1, 'third', 2));
wait_for(q{SELECT count(*) = 2 FROM cqrs.failed});
is(query(q{SELECT next_try FROM cqrs.failed WHERE id <> 0}),
	'infinity', 'a message waits behind one that is put off for ever');
query('DELETE FROM cqrs.failed; DROP TABLE broken');

# Each message is handled once.
query(
	q{DELETE FROM handled;
	CREATE OR REPLACE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.handled (name) VALUES (m.instance_data ->> 'name');
		RETURN m.instance_data ->> 'name' NOT LIKE 'bad%' OR
			NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'broken');
	END $$;
	CREATE TABLE broken ()});
my ($unknown, $repeated) = (0, 0);

# Publishes messages, and a last one that is only counted, for which it waits;
# returns what was handled since the last call, and how many messages were
# counted as repeated.
sub handled_of
{
	publish($broker, 'cqrs', 'author', @_, save_body('nobody', 1, '', 0));
	$unknown++;
	wait_for("SELECT unknown = $unknown FROM cqrs.consumer_stats");
	my $count = query('SELECT repeated FROM cqrs.consumer_stats');
	my $names =
	  query(q{SELECT string_agg(name, ',' ORDER BY id) FROM handled});
	query('DELETE FROM handled');
	(my $new, $repeated) = ($count - $repeated, $count);
	return "$names $new";
}

my $once  = [ 'id 1', save_body('event', 5, 'once', 0) ];
my $plain = save_body('event', 6, 'plain', 0);
is( handled_of(
		$once,
		$once,
		[ 'id 1', save_body('event', 5, 'other contents', 1) ],
		[ 'id 1', { %{ $once->[1] }, expires => '2999-01-01T00:00:00' } ],
		$plain,
		$plain),
	'once,other contents,plain,plain 2',
	'an id with its contents is known, and no message without an id');
my $bad = [ 'id 2', save_body('event', 7, 'bad', 0) ];
is(handled_of($bad, $bad),
	' 1', 'what has failed is not tried because it is delivered again');
is(query('SELECT count(*) FROM cqrs.failed'), 1, 'and stored once');
query('DELETE FROM cqrs.failed');
is(handled_of($bad, [ 'id 3', $bad->[1] ]),
	' 1', 'nor when it was discarded; with another id it is tried');
query(q{DROP TABLE broken; SELECT cqrs_retry_failed()});
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(handled_of([ 'id 3', $bad->[1] ]),
	'bad 1', 'a retry calls the handler, and another delivery does not');

# The list is in two tables, which are emptied in turn.  The consumer looks once
# a minute, and after its start.
sub turn_is_due
{
	my ($sql) = @_;
	my $pid = query('SELECT pid FROM cqrs.consumer_stats');

	query(
		"UPDATE cqrs.handled_turn SET since = $sql;
		SELECT pg_terminate_backend($pid)");
	wait_consumer($node, 'postgres', "state = 'consuming' AND pid <> $pid");
	return;
}

sub current
{
	return query(
		q{SELECT current, since BETWEEN now() - interval '1 hour' AND now()
		FROM cqrs.handled_turn});
}
my $next = 1000;

sub fresh
{
	return [ 'id ' . ++$next, save_body('event', $next, 'fresh', 0) ];
}

turn_is_due(q{since - interval '23 hours'});
handled_of(fresh());
is(current(), '0|f', 'no turn before a day has passed');
turn_is_due(q{since - interval '1 hour'});
handled_of(fresh());
wait_for(q{SELECT current = 1 FROM cqrs.handled_turn});
is(current(), '1|t', 'the other table is used after a day');
my ($lock_in, $lock_out, $lock_err) =
  ("BEGIN; TABLE cqrs.handled_0; SELECT 'locked';\n", '', '');
my $holder = open_psql($node, \$lock_in, \$lock_out, \$lock_err);
$holder->pump until $lock_out =~ /^locked$/m;
turn_is_due(q{since - interval '1 day'});
is(handled_of($once, fresh()),
	'fresh 1',
	'what is in the older table is known, and a lock holds up nothing');
is(current(), '1|f', 'but the turn');
$lock_in .= "\\q\n";
$holder->finish;

# The first message makes a batch of its own, since the window begins at 1.
turn_is_due('since');
is(handled_of(fresh(), $once),
	'fresh,once 0', 'after two turns nothing is known any more');
is(query('SELECT count(*) FROM cqrs.handled_0'), 1, 'a table is emptied');
turn_is_due(q{now() + interval '1 year'});
handled_of(fresh());
wait_for(q{SELECT since <= now() FROM cqrs.handled_turn});
is(current(), '0|t', 'the clock was set back');

# A synchronous standby that does not answer: nothing is acknowledged, whatever
# the database's synchronous_commit is.
query(
	q{ALTER DATABASE postgres SET synchronous_commit = off;
	SELECT pg_terminate_backend(pid) FROM cqrs.consumer_stats});
wait_consumer($node, 'postgres', 'consuming');
publish($broker, 'cqrs', 'author', save_body('author', 10, 'before', 0));
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
publish($broker, 'cqrs', 'author', save_body('event', 11, 'committed', 0));
wait_for(
	q{SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event = 'SyncRep')});
is( $broker->ctl('-q', 'list_queues', 'name', 'messages_unacknowledged') =~
	  /^shop\t(\d+)$/m ? $1 : undef,
	1,
	'a message is not acknowledged before the standby has it');

# It is committed here.  A consumer that ends now gets it again.
query(
	q{UPDATE cqrs.handled_turn SET since = since - interval '1 day';
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE wait_event = 'SyncRep'});
$session->pump while $session->pumpable;
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
wait_for("SELECT repeated = $repeated + 1 FROM cqrs.consumer_stats");
is(query(q{SELECT count(*) FROM handled WHERE name = 'committed'}),
	1,
	'a message without an id that is delivered again is not handled again');
wait_for(q{SELECT buffered = 0 FROM cqrs.consumer_stats});
ok( RabbitMQ->poll_until(
		sub {
			return $broker->ctl('-q', 'list_queues', 'name',
				'messages_unacknowledged') =~ /^shop\t0$/m;
		},
		60),
	'and is acknowledged then');
is(current(), '0|f', 'no turn while messages are delivered again');
handled_of(fresh());
wait_for(q{SELECT current = 1 FROM cqrs.handled_turn});
pass('the next other message brings it');

$node->stop;
done_testing();
