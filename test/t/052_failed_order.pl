# Failed messages and those that come after them (I27): ids that are not unique,
# messages that come late, an owner who changes in between, many of one row; and
# triggers that run when the consumer commits.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('failed_order');
$broker->start;
my $node = new_master('failed_order', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '500ms'
cqrs.apply_timeout = '2s'
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub wait_for
{
	my ($condition, $what) = @_;

	ok( $node->poll_query_until(
			'postgres', "SELECT coalesce(($condition), false)"),
		$what)
	  or diag query('SELECT * FROM cqrs.consumer_stats') . "\n"
	  . query('SELECT cqrs_id, instance_pk, error FROM cqrs.failed');
	return;
}

sub body
{
	my ($signal, $cqrs_id, $key, $revision, %data) = @_;

	return {
		signal_type   => $signal,
		cqrs_id       => $cqrs_id,
		instance_pk   => $key,
		instance_data => {
			id            => $key,
			cqrs_revision => $revision,
			cqrs_updated  => '2026-01-01T00:00:00+00:00',
			%data },
		previous_data => undef };
}

# Sends messages by one route, so that they keep their order.
sub sends
{
	my (@messages) = @_;

	publish($broker, 'cqrs', 'item', @messages);
	return;
}

query(
	q{CREATE TABLE item (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('item', retry_delay => '1h');
	CREATE TABLE other (id int PRIMARY KEY);
	SELECT cqrs_register_replica('other');
	CREATE TABLE seen (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE FUNCTION handle(message cqrs.message) RETURNS boolean LANGUAGE plpgsql
		AS $$BEGIN PERFORM public.cqrs_apply(message); RETURN true; END$$;
	SELECT cqrs_register_replica('seen', handler => 'handle',
		retry_delay => '1h', max_retries => NULL);
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# Messages with one id and other contents are two messages.
query(q{UPDATE cqrs.replica SET max_retries = 0 WHERE cqrs_id = 'item'});
sends([ 'same', body('SAVE', 'item', 1, 0, name => 'bad') ]);
wait_for('SELECT count(*) = 1 FROM cqrs.dead_letters', 'a dead letter');
sends([ 'same', body('SAVE', 'item', 1, 1, name => 'good') ]);
wait_for(
	q{SELECT name = 'good' FROM item WHERE id = 1},
	'a later message with its id is applied');
is(query('SELECT count(*) FROM cqrs.failed'),
	0, 'and the dead letter of the row is of no use any more');

sends([ 'same', body('SAVE', 'seen', 1, 0, name => 'bad') ]);
wait_for('SELECT count(*) = 1 FROM cqrs.failed', 'a message fails');
sends([ 'same', body('SAVE', 'seen', 1, 1, name => 'good') ]);
wait_for(
	'SELECT count(*) = 2 FROM cqrs.failed',
	'a later message with its id waits behind it');
query(
	'ALTER TABLE seen DROP CONSTRAINT seen_name_check; SELECT cqrs_retry_failed()'
);
wait_for(q{SELECT name = 'good' FROM seen WHERE id = 1}, 'and has its turn');
wait_for('SELECT count(*) = 0 FROM cqrs.failed',         'both are gone');

# The same message again, while its dead letter is there.
my $message = [ 'twice', body('SAVE', 'item', 2, 0, name => 'bad') ];
sends($message);
wait_for('SELECT count(*) = 1 FROM cqrs.dead_letters', 'a dead letter');
my $repeated = query('SELECT repeated FROM cqrs.consumer_stats');
sends($message);
wait_for("SELECT repeated = $repeated + 1 FROM cqrs.consumer_stats",
	'the same message is known');
is(query('SELECT count(*) FROM cqrs.failed'), 1, 'and stored once');

# The same of what is no message.
sends(
	([ 'none', '{"signal_type":"SAVE","cqrs_id":"item","instance_pk":2}' ]) x
	  2);
wait_for(q{SELECT count(*) > 0 FROM cqrs.failed WHERE message_id = 'none'},
	'a bad message is stored');
sends(body('SAVE', 'other', 100, 0));
wait_for('SELECT count(*) = 1 FROM other WHERE id = 100', 'what follows');
is(query(q{SELECT count(*) FROM cqrs.failed WHERE message_id = 'none'}),
	1, 'and is stored once, too');
query('DELETE FROM cqrs.failed');
query(q{UPDATE cqrs.replica SET max_retries = NULL WHERE cqrs_id = 'item'});

# A SAVE that comes after a later one of its row.
sends(
	body('SAVE', 'item', 3, 0, name => 'old'),
	body('SAVE', 'item', 3, 3, name => 'bad'));
wait_for('SELECT count(*) = 1 FROM cqrs.failed', 'the later one fails');
sends(body('SAVE', 'item', 3, 2, name => 'late'));
wait_for(q{SELECT name = 'late' FROM item WHERE id = 3},
	'the earlier one is applied');
is(query('SELECT count(*) FROM cqrs.failed'), 1, 'the later one stays');
query(
	'ALTER TABLE item DROP CONSTRAINT item_name_check; SELECT cqrs_retry_failed()'
);
wait_for(q{SELECT name = 'bad' FROM item WHERE id = 3}, 'and is the last');
query(
	q{ALTER TABLE item ADD CONSTRAINT item_name_check
	CHECK (name <> 'bad') NOT VALID});

# The same where the revision has another key, and is a text.
query(
	q{CREATE TABLE mapped (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('mapped', retry_delay => '1h',
		field_map => '{"cqrs_revision": "rev"}')});
sends(
	body('SAVE', 'mapped', 1, 9, rev => 0,   name => 'old'),
	body('SAVE', 'mapped', 1, 9, rev => '3', name => 'bad'),
	body('SAVE', 'mapped', 1, 9, rev => 2,   name => 'late'));
wait_for(q{SELECT name = 'late' FROM mapped WHERE id = 1},
	'with another key of the revision, the earlier one is applied');
is(query(q{SELECT count(*) FROM cqrs.failed WHERE cqrs_id = 'mapped'}),
	1, 'and the later one stays');
query('DELETE FROM cqrs.failed');

# A failed DELETE that is discarded leaves the row, with its revision.
query(
	q{CREATE TABLE detail (item int REFERENCES item); INSERT INTO detail VALUES (3);
	UPDATE cqrs.replica SET retry_delay = '1h' WHERE cqrs_id = 'item'});
sends(body('DELETE', 'item', 3, 4));
wait_for('SELECT count(*) = 1 FROM cqrs.failed', 'a DELETE fails');
query('DELETE FROM cqrs.failed');
my $outdated = query('SELECT outdated FROM cqrs.consumer_stats');
sends(body('SAVE', 'item', 3, 0, name => 'new'));
wait_for("SELECT outdated > $outdated FROM cqrs.consumer_stats",
	'a new row with its key is outdated');
sends(body('SYNC', 'item', 3, 0, name => 'new'));
wait_for(q{SELECT name = 'new' FROM item WHERE id = 3}, 'until a SYNC');

# Of a row that was deleted, nothing of before stays, whatever its revision.
sends(
	body('SAVE',   'item', 4, 5, name => 'bad'),
	body('DELETE', 'item', 4, 6),
	body('SAVE',   'item', 4, 0, name => 'new'));
wait_for(q{SELECT name = 'new' FROM item WHERE id = 4}, 'a new row');
is(query('SELECT count(*) FROM cqrs.failed'), 0, 'nothing of the former one');

# The table of a replica gets another owner while messages of its new owner are
# applied: those that are behind wait for those before them.
query(
	q{CREATE ROLE alice; CREATE ROLE bob SUPERUSER;
	GRANT ALL ON SCHEMA public TO alice;
	CREATE TABLE first (id int PRIMARY KEY); ALTER TABLE first OWNER TO bob;
	CREATE TABLE second (id int PRIMARY KEY); ALTER TABLE second OWNER TO alice;
	SELECT cqrs_register_replica('first'), cqrs_register_replica('second');
	CREATE FUNCTION change_owner() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF new.id = 1000 THEN ALTER TABLE public.second OWNER TO bob; END IF;
		RETURN new; END$$;
	CREATE TRIGGER change_owner BEFORE INSERT ON first
		FOR EACH ROW EXECUTE FUNCTION change_owner();
	SELECT cqrs_pause_consumer()});
wait_consumer($node, 'postgres', 'paused');
sends(
	map({ body('SAVE', 'first', $_, 0) } 1 .. 100),
	body('SAVE',   'second', 1,    0),
	body('SAVE',   'first',  1000, 0),
	body('DELETE', 'second', 1,    1),
	body('SAVE',   'other',  1,    0));
query('SELECT cqrs_resume_consumer()');
wait_for('SELECT count(*) = 1 FROM other WHERE id = 1', 'all are applied');
is( query(q{SELECT relowner::regrole FROM pg_class WHERE relname = 'second'}),
	'bob', 'the owner has changed in between');
is(query('SELECT count(*) FROM second'),
	0, 'a deleted row does not come back');

# A deferred trigger that defers itself again would run when the consumer commits.
query(
	q{CREATE TABLE stubborn (id int PRIMARY KEY, name text);
	ALTER TABLE stubborn OWNER TO alice;
	CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF current_setting('my.stage', true) = '1' THEN
			PERFORM pg_sleep(1000);
		ELSE
			PERFORM set_config('my.stage', '1', true);
			SET CONSTRAINTS ALL DEFERRED;
			UPDATE public.stubborn SET name = 'x' WHERE id = new.id;
		END IF;
		RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER again AFTER INSERT OR UPDATE ON stubborn
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION again();
	SELECT cqrs_register_replica('stubborn', retry_delay => '1h')});
sends(body('SAVE', 'stubborn', 1, 0), body('SAVE', 'other', 2, 0));
wait_for(
	'SELECT count(*) = 1 FROM other WHERE id = 2',
	'a trigger that takes for ever does not hold up others');
like(query(q{SELECT error FROM cqrs.failed WHERE cqrs_id = 'stubborn'}),
	qr/timeout/, 'its message has failed');
query('DELETE FROM cqrs.failed');

# Many messages of one row that wait, each behind the one before.
query(
	q{ALTER TABLE seen ADD CONSTRAINT seen_name_check
		CHECK (name <> 'bad') NOT VALID;
	INSERT INTO cqrs.failed
		SELECT nextval('cqrs.failed_id'), 'seen', '7', 'S',
			convert_to(json_build_object('signal_type', 'SAVE', 'cqrs_id', 'seen',
				'instance_pk', 7, 'previous_data', NULL, 'instance_data',
				json_build_object('id', 7, 'name', 'bad', 'cqrs_revision', i,
					'cqrs_updated', '2026-01-01T00:00:00+00:00'))::text, 'UTF8'),
			NULL, false, now(), now(), 1, 'infinity', NULL, ''
		FROM generate_series(1, 40000) i});
query('SELECT cqrs_retry_failed()');
my $slowest = 0;
foreach my $id (11 .. 15)
{
	my $start = time;
	sends(body('SAVE', 'other', $id, 0));
	wait_for(
		"SELECT count(*) = 1 FROM other WHERE id = $id",
		"message $id of another row is applied");
	$slowest = time - $start if time - $start > $slowest;
}
cmp_ok($slowest, '<', 5,
	'retries of one row hold up others for a short time');
note sprintf 'the slowest took %.1f s', $slowest;

$node->stop;
done_testing();
