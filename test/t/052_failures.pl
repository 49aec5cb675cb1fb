# Messages that cannot be applied: none of them stops its neighbours, none is
# lost (I25), the order of a row is kept (I27), and so are the rights of its owner
# (I30).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('failures');
$broker->start;
my $node = new_master('failures', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '500ms'
deadlock_timeout = '1s'
END
$node->safe_psql(
	'postgres', q{
	CREATE ROLE alice;
	CREATE ROLE bob;
	GRANT ALL ON SCHEMA public TO alice, bob;
	CREATE TABLE author (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE TABLE book (id int PRIMARY KEY, title text,
		author_id int REFERENCES author DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE other (id int PRIMARY KEY, name text);
	ALTER TABLE author OWNER TO alice;
	ALTER TABLE book OWNER TO alice;
	ALTER TABLE other OWNER TO bob;
	SELECT cqrs_register_replica('author', retry_delay => '100ms', max_retries => 2);
	SELECT cqrs_register_replica('book');
	SELECT cqrs_register_replica('other');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# The body of a message.
sub message
{
	my ($signal, $cqrs_id, $pk, $revision, %data) = @_;
	my $more = delete $data{envelope} // {};
	my %body = (
		signal_type   => $signal,
		cqrs_id       => $cqrs_id,
		instance_pk   => $pk,
		instance_data => {
			id            => $pk,
			cqrs_revision => $revision,
			cqrs_updated  => '2026-01-01T00:00:00+00:00',
			%data },
		previous_data => undef,
		%$more);
	return \%body;
}

# Publishes to the queue itself.
sub send_all
{
	publish($broker, 'cqrs', 'author', @_);
	return;
}

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

# A failing message in a hundred, and bodies that are no messages: they are found
# among their neighbours, which are applied.
my @hundred =
  map { message('SAVE', 'author', $_, 0, name => "n$_") } 1 .. 100;
$hundred[49] = message('SAVE', 'author', 50, 0, name => 'bad');
$hundred[20] = 'no JSON';
$hundred[30] = '{"signal_type": "SAVE"}';
$hundred[40] = "\xff\xfe";
$hundred[60] = message('SAVE', 'nobody', 61, 0);
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
send_all(@hundred);
query('SELECT cqrs_resume_consumer()');
wait_for(q{SELECT count(*) = 95 FROM author});
wait_for(q{SELECT count(*) = 4 FROM cqrs.dead_letters});
is(query(q{SELECT unknown FROM cqrs.consumer_stats}),
	1, 'a message of no replica is counted');
is( query(
		q{SELECT string_agg(encode(body, 'hex'), ',' ORDER BY id) FROM cqrs.dead_letters WHERE cqrs_id IS NULL}
	),
	join(',', map { unpack 'H*', $_ } @hundred[ 20, 30, 40 ]),
	'what is no message is kept verbatim');
is( query(
		q{SELECT attempts, sqlstate, cqrs_id, instance_pk, signal_type FROM cqrs.dead_letters WHERE cqrs_id IS NOT NULL}
	),
	'3|23514|author|50|SAVE',
	'a dead letter after max_retries');
is($broker->queue_length('shop'), 0, 'all is acknowledged');

# cqrs_retry_failed, and success drops the row of cqrs.failed.
query(q{ALTER TABLE author DROP CONSTRAINT author_name_check});
is(query(q{SELECT cqrs_retry_failed('author')}), 1, 'cqrs_retry_failed');
wait_for(q{SELECT count(*) = 1 FROM author WHERE id = 50});
is(query(q{SELECT count(*) FROM cqrs.failed WHERE cqrs_id IS NOT NULL}),
	0, 'the failed message is gone');
query(q{DELETE FROM cqrs.failed});

# A parent that comes later, by a deferred foreign key: its child fails, and is
# tried again.
send_all(message('SAVE', 'book', 1, 0, title => 't', author_id => 1000));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE sqlstate = '23503'});
send_all(message('SAVE', 'author', 1000, 0, name => 'parent'));
wait_for(q{SELECT count(*) = 1 FROM book WHERE author_id = 1000});
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
pass('the child is applied when its parent has come');

# A child before its parent in one batch: no failure at all.
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
send_all(
	(map { message('SAVE', 'author', 2000 + $_, 0, name => 'x') } 1 .. 3),
	message('SAVE', 'book',   2,    0, title => 't', author_id => 3000),
	message('SAVE', 'author', 3000, 0, name  => 'parent'));
query('SELECT cqrs_resume_consumer()');
wait_for(q{SELECT count(*) = 1 FROM book WHERE id = 2});
wait_for(q{SELECT waiting = 0 FROM cqrs.consumer_stats});

# Order of a row: a later SAVE drops the older failed one.
query(q{ALTER TABLE author ADD CHECK (name <> 'bad') NOT VALID});
send_all(message('SAVE', 'author', 1, 1, name => 'bad'));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed});
send_all(message('SAVE', 'author', 1, 2, name => 'good'));
wait_for(q{SELECT name = 'good' FROM author WHERE id = 1});
is(query(q{SELECT count(*) FROM cqrs.failed}),
	0, 'a later state of the row drops the failed message');

# A DELETE that fails, then a SAVE of a new row of that key, from revision 0.
send_all(message('SAVE', 'author', 1000, 7, name => 'parent'));
wait_for(q{SELECT cqrs_revision = 7 FROM author WHERE id = 1000});
send_all(message('DELETE', 'author', 1000, 8));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE signal_type = 'D'});
send_all(message('SAVE', 'author', 1000, 0, name => 'reborn'));
wait_for(
	q{SELECT name = 'reborn' AND cqrs_revision = 0 FROM author WHERE id = 1000}
);
is(query(q{SELECT count(*) FROM cqrs.failed}),
	0, 'a SAVE after a failed DELETE is a new row');

# A user's transaction has the row of a message that is due: the consumer leaves it
# out, and stores a later message of that row behind it if that has to remove it.
my ($user_in, $user_out, $user_err) = ('', '', '');
my $user = open_psql($node, \$user_in, \$user_out, \$user_err);

sub as_user
{
	my ($sql, $mark) = @_;
	$user_in .= "$sql; SELECT '$mark';\n";
	$user->pump until $user_out =~ /^$mark$/m || $user_err =~ /ERROR/;
	return;
}

send_all(message('SAVE', 'book', 77, 1, title => 'old', author_id => 777));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE sqlstate = '23503'});
as_user('BEGIN; DELETE FROM cqrs.failed', 'deleted');
my $batches = query('SELECT batches FROM cqrs.consumer_stats');
wait_for("SELECT batches > $batches FROM cqrs.consumer_stats");
send_all(message('SAVE', 'author', 78, 1, name => 'other'));
wait_for(q{SELECT count(*) = 1 FROM author WHERE name = 'other'});
pass('messages of other rows are applied while a user deletes a failed one');
send_all(message('SAVE', 'book', 77, 2, title => 'new', author_id => 78));
wait_for(q{SELECT title = 'new' FROM book WHERE id = 77});
pass('so is a later one of its row, whose revision tells');
as_user('ROLLBACK', 'rolled back');
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(query('SELECT title FROM book WHERE id = 77'),
	'new', 'the earlier one is outdated');

# A SYNC has to be removed by what comes after it, and all by a DELETE.
send_all(message('SYNC', 'book', 77, 2, title => 'sync', author_id => 777));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE sqlstate = '23503'});
as_user('BEGIN; DELETE FROM cqrs.failed', 'deleted again');
send_all(message('SAVE', 'book', 77, 3, title => 'newer', author_id => 78));
wait_for(
	q{SELECT count(*) = 1 FROM cqrs.failed WHERE error LIKE 'another transaction%'}
);
is( query(
		q{SELECT errors FROM cqrs.consumer_stats WHERE state <> 'consuming'}),
	'',
	'messages behind a SYNC wait');
as_user('ROLLBACK', 'rolled back again');
wait_for(q{SELECT title = 'newer' FROM book WHERE id = 77});
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});

send_all(message('SAVE', 'book', 77, 4, title => 'last', author_id => 777));
wait_for(q{SELECT count(*) = 1 FROM cqrs.failed WHERE sqlstate = '23503'});
as_user('BEGIN; DELETE FROM cqrs.failed', 'deleted once more');
send_all(message('DELETE', 'book', 77, 5));
wait_for(
	q{SELECT count(*) = 1 FROM cqrs.failed WHERE error LIKE 'another transaction%'}
);
as_user('ROLLBACK', 'rolled back once more');
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(query('SELECT count(*) FROM book WHERE id = 77'),
	0, 'no SAVE comes back after a DELETE');

# A lock of the whole table does not end the process.
my $PROCESS =
  q{SELECT pid, backend_start FROM pg_stat_activity WHERE backend_type = 'cqrs consumer'};
my $process = query($PROCESS);
my $log_end = -s $node->logfile;
as_user(
	'BEGIN; LOCK TABLE cqrs.failed; SELECT cqrs.wake_consumer(); COMMIT; BEGIN; LOCK TABLE cqrs.failed',
	'locked');
ok( RabbitMQ->poll_until(
		sub {
			return slurp_file($node->logfile, $log_end) =~
			  /consumer cannot read or write its tables: canceling statement due to lock timeout/;
		},
		60),
	'the consumer waits for no lock for long');
$user_in .= "COMMIT;\n\\q\n";
$user->finish;
send_all(message('SAVE', 'author', 79, 1, name => 'unlocked'));
wait_for(q{SELECT count(*) = 1 FROM author WHERE name = 'unlocked'});
is(query($PROCESS), $process, 'it goes on in the same process');

# A SAVE and a DELETE are delivered again, and both fail again: the DELETE is
# still the last.
query(
	q{CREATE TABLE broken ();
	CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'broken') THEN RAISE 'broken'; END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END$$;
	ALTER TABLE broken RENAME TO whole;
	CREATE TRIGGER break BEFORE INSERT OR UPDATE OR DELETE ON other
		FOR EACH ROW EXECUTE FUNCTION break()}
);
my $save   = [ 'first',  message('SAVE',   'other', 900, 1, name => 'x') ];
my $delete = [ 'second', message('DELETE', 'other', 900, 2) ];
send_all($save);
wait_for(q{SELECT count(*) = 1 FROM other WHERE id = 900});
query('ALTER TABLE whole RENAME TO broken');
my $received = query('SELECT received FROM cqrs.consumer_stats');
send_all($delete, $save, $delete);
wait_for(
	qq{SELECT received = $received + 3 AND buffered = 0 AND waiting = 2 FROM cqrs.consumer_stats}
);
query('ALTER TABLE broken RENAME TO whole; SELECT cqrs_retry_failed()');
wait_for(q{SELECT NOT EXISTS (SELECT FROM cqrs.failed)});
is(query('SELECT count(*) FROM other WHERE id = 900'),
	0, 'a DELETE that was delivered twice, and failed twice, is the last');
query('DROP FUNCTION break() CASCADE');

# Expired messages are dead letters, which a user can have applied.
send_all(
	message(
		'SAVE', 'author', 4000, 0,
		name     => 'late',
		envelope => { expires => '2020-01-01T00:00:00+00:00' }));
wait_for(
	q{SELECT count(*) = 1 FROM cqrs.dead_letters WHERE error LIKE '%expired%'}
);
is( query(
		q{SELECT cqrs_retry_failed(ids => (SELECT array_agg(id) FROM cqrs.dead_letters))}
	),
	1,
	'retried');
wait_for(q{SELECT count(*) = 1 FROM author WHERE id = 4000});
pass('cqrs_retry_failed ignores that a message has expired');

# Two owners in one batch, each with its own rights.
query(
	q{CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN NEW.name := current_user; RETURN NEW; END$$;
	CREATE TRIGGER who BEFORE INSERT ON author FOR EACH ROW EXECUTE FUNCTION who();
	CREATE TRIGGER who BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION who()}
);
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
send_all(
	map {
		(   message('SAVE', 'author', 5000 + $_, 0, name => 'x'),
			message('SAVE', 'other',  5000 + $_, 0, name => 'x'))
	} 1 .. 50);
query('SELECT cqrs_resume_consumer()');
wait_for(
	q{SELECT (SELECT count(*) FROM author WHERE id > 5000) = 50
	AND (SELECT count(*) FROM other) = 50});
is( query(
		q{SELECT string_agg(DISTINCT name, ',') FROM author WHERE id > 5000
		UNION ALL SELECT string_agg(DISTINCT name, ',') FROM other}),
	"alice\nbob",
	'each row is applied with the rights of its owner');
query('DROP FUNCTION who() CASCADE');

# A lock on a row: tried in place, then stored without counting, and
# neighbours go on.
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= "BEGIN; SELECT 'locked' FROM author WHERE id = 2 FOR UPDATE;\n";
$session->pump until $out =~ /locked/ || $err;
send_all(
	message('SAVE', 'author', 2, 1, name => 'waited'),
	message('SAVE', 'author', 3, 1, name => 'behind'));
wait_for(
	q{SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event_type = 'Lock')});
$in .= "COMMIT; SELECT 'committed';\n";
$session->pump until $out =~ /committed/ || $err;
wait_for(q{SELECT name = 'behind' FROM author WHERE id = 3});
is(query(q{SELECT name FROM author WHERE id = 2}),
	'waited', 'a message that waits for a lock is applied after it');
is(query(q{SELECT count(*) FROM cqrs.failed}), 0, 'and is not stored');

# A table that is locked for long.
$in .= "BEGIN; LOCK TABLE other; SELECT 'again';\n";
$session->pump until $out =~ /again/ || $err;
$node->append_conf('postgresql.conf', "cqrs.apply_timeout = '2s'");
$node->reload;
send_all(
	message('SAVE', 'other',  1, 0, name => 'stuck'),
	message('SAVE', 'author', 3, 2, name => 'beyond'));
wait_for(q{SELECT name = 'beyond' FROM author WHERE id = 3});
pass('a table that is locked does not hold up another');
$in .= "COMMIT;\n\\q\n";
$session->finish;
wait_for(q{SELECT count(*) = 1 FROM other WHERE id = 1});
pass('its message is applied when the lock is gone');

# A trigger that never ends: cqrs.apply_timeout ends it.
query(
	q{CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN IF NEW.name = 'hang' THEN PERFORM pg_sleep(1000); END IF; RETURN NEW; END$$;
	CREATE TRIGGER hang BEFORE INSERT OR UPDATE ON other FOR EACH ROW EXECUTE FUNCTION hang()}
);
send_all(
	message('SAVE', 'other', 2, 0, name => 'hang'),
	message('SAVE', 'other', 3, 0, name => 'fine'));
wait_for(q{SELECT count(*) = 1 FROM other WHERE id = 3});
like(query(q{SELECT error FROM cqrs.failed}),
	qr/cqrs.apply_timeout/, 'a message that takes too long is stored');
query(q{DROP FUNCTION hang() CASCADE; SELECT cqrs_retry_failed()});
wait_for(q{SELECT count(*) = 1 FROM other WHERE id = 2});

# An error at COMMIT that no savepoint catches, by a deferred trigger that
# defers itself again: trying messages alone finds the message.
query(
	q{CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN IF NEW.name = 'late' THEN RAISE 'too late'; END IF; RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON other DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION late();
	CREATE FUNCTION defer() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NULL; END$$;
	CREATE TRIGGER zdefer AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION defer()}
);
query('SELECT cqrs_pause_consumer()');
wait_consumer($node, 'postgres', 'paused');
send_all(
	map {
		message('SAVE', 'other', 100 + $_, 0, name => $_ == 5 ? 'late' : 'ok')
	} 1 .. 10);
query('SELECT cqrs_resume_consumer()');
wait_for(q{SELECT count(*) = 9 FROM other WHERE id > 100 AND id < 200});
is(query(q{SELECT instance_pk, error FROM cqrs.failed}),
	'105|too late', 'the message that fails at commit is found');
query(
	q{DROP FUNCTION late() CASCADE; DROP FUNCTION defer() CASCADE; DELETE FROM cqrs.failed}
);

# A function "retry" decides when a message is tried again, or that it is not.
query(
	q{CREATE FUNCTION retry(cqrs.message, int, text, text) RETURNS interval LANGUAGE sql
	AS $$SELECT CASE WHEN $1.instance_pk::text = '7001' THEN NULL ELSE interval '1 day' END$$;
	SELECT cqrs_alter_replica('author', '{"retry": "public.retry"}')});
send_all(map { message('SAVE', 'author', $_, 0, name => 'bad') } 7001, 7002);
wait_for(q{SELECT count(*) = 2 FROM cqrs.failed});
is( query(
		q{SELECT instance_pk, next_try > now() + interval '23 hours' FROM cqrs.failed ORDER BY id}
	),
	"7001|\n7002|t",
	'the function "retry" gives up, or gives the delay');

# A time that the consumer takes for none.
my $before =
  query(q{SELECT attempts FROM cqrs.failed WHERE instance_pk = '7002'});
query(
	q{UPDATE cqrs.failed SET next_try = '2000-01-01 00:00+00' WHERE instance_pk = '7002';
	SELECT pg_reload_conf()});
wait_for(
	qq{SELECT attempts > $before FROM cqrs.failed WHERE instance_pk = '7002'}
);
pass('a message whose next try is set to the year 2000 is tried');

# cqrs.max_failed: consuming stops while so many messages wait for a retry.
$node->append_conf('postgresql.conf', 'cqrs.max_failed = 3');
$node->reload;
send_all(map { message('SAVE', 'author', $_, 0, name => 'bad') } 7003, 7004);
wait_consumer($node, 'postgres', 'full');
query(
	q{DELETE FROM cqrs.failed WHERE instance_pk = '7003'; SELECT cqrs_retry_failed()}
);
send_all(message('SAVE', 'author', 7006, 0, name => 'good'));
ok( RabbitMQ->poll_until(
		sub { query('SELECT count(*) FROM author WHERE id = 7006') == 1 }, 40
	),
	'consuming goes on soon when there is room for one');
send_all(message('SAVE', 'author', 7003, 0, name => 'bad'));
wait_consumer($node, 'postgres', 'full');
send_all(message('SAVE', 'author', 7005, 0, name => 'good'));
is($broker->queue_length('shop'), 1, 'the broker keeps the rest');
query(q{DELETE FROM cqrs.failed; SELECT cqrs_retry_failed()});
wait_for(q{SELECT count(*) = 1 FROM author WHERE id = 7005});
pass('consuming goes on when there is room');

# cqrs.dead_letter_ttl
is(query(q{SELECT count(*) FROM cqrs.dead_letters}), 0, 'no dead letters');

unlike(slurp_file($node->logfile), qr/guest:guest/, 'no password in the log');
$node->stop;
done_testing();
