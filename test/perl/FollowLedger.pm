
=pod

=head1 NAME

FollowLedger - writers at a master and faults at random, and whether the
replica is equal in the end

=head1 SYNOPSIS

  use FollowLedger;
  run_follow_ledger(duration_s => 60);

=head1 DESCRIPTION

Several sessions write to the tables of a master in random transactions: hot
rows, keys that are deleted and come back, keys that are changed, children of
parents.  Another server follows by a queue.  Meanwhile publisher, consumer,
broker and both servers are stopped, killed and frozen in a random order, and
the replica's own triggers and sessions make messages fail at random.

Afterwards the tables of both are equal, row by row, nothing has failed for
good, and no row whose key is used once has gone back to an earlier revision:
a trigger at the replica records what it has seen.  Where a key is used again
revisions begin anew, and the replica does not see the end of the former row
if its DELETE has failed.

Whoever is killed twice at a message that is innocent leaves a dead letter.
These are tried again; others are errors.

The seed is CQRS_SEED, or a random one; it is shown.

=cut

package FollowLedger;

use strict;
use warnings;

use CqrsTest;
use Exporter 'import';
use Ledger qw(start_writers stop_writers);
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(run_follow_ledger);

# Messages that have to be applied between two faults.
my $PROGRESS = 100;

my ($broker, $master, $replica, %faults, $longest_stall_s);

my %fault = (
	'broker killed'    => sub { $broker->kill9; $broker->start },
	'broker restarted' => sub { $broker->restart },
	'broker frozen'    => sub {
		$broker->suspend;
		_wait_for_stall();
		$broker->resume;
	},
	'memory alarm' => sub {
		$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
		_wait_for_stall();
		$broker->ctl('set_vm_memory_high_watermark', '0.4');
	},
	'connections closed' =>
	  sub { $broker->ctl('close_all_connections', 'test') },
	'publisher killed'    => sub { _signal($master,  'publisher', 'KILL') },
	'consumer killed'     => sub { _signal($replica, 'consumer',  'KILL') },
	'consumer terminated' => sub { _signal($replica, 'consumer',  'TERM') },
	'consumer frozen'     => sub {
		my $pid = _signal($replica, 'consumer', 'STOP') or return;
		_wait_for_stall();
		kill 'CONT', $pid;
	},
	'table locked' => sub {
		$replica->safe_psql(
			'postgres', q{
			BEGIN;
			LOCK author IN EXCLUSIVE MODE;
			SELECT pg_sleep(1.5);
			COMMIT});
	},
	'master crashed'   => sub { $master->stop('immediate'); $master->start },
	'master restarted' => sub { $master->restart },
	'replica crashed' => sub { $replica->stop('immediate'); $replica->start },
	'replica restarted' => sub { $replica->restart },
	'consumer paused'   => sub {
		$replica->safe_psql('postgres', 'SELECT cqrs_pause_consumer()');
		_wait_for_stall();
		$replica->safe_psql('postgres', 'SELECT cqrs_resume_consumer()');
	},
	'settings reloaded' => sub { $_->reload foreach $master, $replica });

# Sends a signal to a worker, and returns its pid, or undef if none runs.
sub _signal
{
	my ($node, $kind, $signal) = @_;
	my $pid = try_query($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'cqrs $kind' LIMIT 1"
	);

	return undef unless $pid && kill $signal, $pid;
	return $pid;
}

# The number of changes that the replica has seen, undef if it cannot say.
sub _applied
{
	my $count = try_query($replica, 'SELECT last_value FROM seen_id_seq');

	return defined $count && $count ne '' ? $count : undef;
}

# Waits until the replica has stood still for a second, for ten at most.
sub _wait_for_stall
{
	my ($last, $since) = (_applied() // 0, time);

	RabbitMQ->poll_until(
		sub {
			my $now = _applied() // $last;
			($last, $since) = ($now, time) if $now != $last;
			return time - $since > 1;
		},
		10);
	return;
}

sub _wait_for_progress
{
	my $start = time;
	my $base;
	my $moved = RabbitMQ->poll_until(
		sub {
			my $applied = _applied() // return 0;
			$base //= $applied;
			return $applied - $base >= $PROGRESS;
		},
		120);
	BAIL_OUT('nothing is applied any more: '
		  . (try_query($replica, 'SELECT * FROM cqrs.consumer_stats') // '')
		  . _failed())
	  unless $moved;
	my $stall = time - $start;
	$longest_stall_s = $stall if $stall > $longest_stall_s;
	return;
}

my $script = <<'END';
\set what random(1, 12)
\set end random(1, 10)
\set hot random(1, 30)
\set key random(1, 200)
BEGIN;
SELECT CASE WHEN :end <= 8 THEN 'committed' ELSE 'rolled back' END AS data \gset
\if :what <= 2
WITH parent AS (INSERT INTO author (name) VALUES (':data') RETURNING id)
INSERT INTO book (author, title) SELECT id, ':data' FROM parent, generate_series(1, :what);
\elif :what <= 5
UPDATE author SET name = ':data' || :key WHERE id = :hot;
SAVEPOINT s;
UPDATE author SET name = 'rolled back' WHERE id = :hot + 30;
ROLLBACK TO s;
\elif :what <= 7
INSERT INTO slot VALUES (:key, ':data') ON CONFLICT (id) DO UPDATE SET data = ':data' || :hot;
\elif :what <= 9
DELETE FROM slot WHERE id = :key;
\elif :what = 10
DELETE FROM slot WHERE id = :key;
INSERT INTO slot VALUES (:key, ':data' || :hot) ON CONFLICT (id) DO NOTHING;
\elif :what = 11
UPDATE slot SET id = 1000 + :key WHERE id = :key
	AND NOT EXISTS (SELECT FROM slot WHERE id = 1000 + :key);
\else
WITH gone AS (SELECT id FROM author WHERE id > 60 ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED),
	children AS (DELETE FROM book USING gone WHERE author = gone.id)
DELETE FROM author USING gone WHERE author.id = gone.id;
\endif
\if :end <= 7
COMMIT;
\elif :end = 8
PREPARE TRANSACTION 'writer:client_id';
COMMIT PREPARED 'writer:client_id';
\else
ROLLBACK;
\endif
END

my $tables = <<'END';
CREATE TABLE author (id bigserial PRIMARY KEY, name text NOT NULL);
CREATE TABLE book (id bigserial PRIMARY KEY, title text NOT NULL,
	author bigint NOT NULL REFERENCES author ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE slot (id bigint PRIMARY KEY, data text NOT NULL);
END

# What happens at the replica: changes fail at random, with errors of the
# message and of the database, and each that succeeds is recorded.
my $observe = <<'END';
CREATE TABLE seen (id bigserial PRIMARY KEY, relation text, key bigint,
	operation text, revision bigint);
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF random() < 0.01 THEN
		RAISE EXCEPTION 'unlucky' USING ERRCODE =
			(ARRAY['P0001', '23514', '53100', '40001', 'XX000'])[1 + floor(random() * 5)];
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		INSERT INTO public.seen (relation, key, operation) VALUES (TG_TABLE_NAME, OLD.id, 'D');
	ELSE
		INSERT INTO public.seen (relation, key, operation, revision)
			VALUES (TG_TABLE_NAME, NEW.id, left(TG_OP, 1), NEW.cqrs_revision);
	END IF;
	RETURN NULL;
END $$;
END

foreach my $table (qw(author book slot))
{
	$observe .= <<"END";
SELECT cqrs_register_replica('$table', retry_delay => '200 ms', max_retries => NULL);
CREATE TRIGGER unlucky BEFORE INSERT OR UPDATE OR DELETE ON $table
	FOR EACH ROW EXECUTE FUNCTION fail_sometimes();
CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON $table
	FOR EACH ROW EXECUTE FUNCTION record();
END
}

# Changes of a row that follow an equal or later revision of the same row.
my $backwards = <<'END';
SELECT count(*) FROM (
	SELECT operation, revision,
		lag(operation) OVER w AS before_operation, lag(revision) OVER w AS before_revision
	FROM seen WHERE relation <> 'slot' WINDOW w AS (PARTITION BY relation, key ORDER BY id)) s
WHERE operation = 'U' AND revision <= before_revision
	OR operation = 'I' AND before_operation <> 'D'
END

sub _rows
{
	my ($node) = @_;

	return $node->safe_psql(
		'postgres', q{
		SELECT 'author', id, name, cqrs_revision, cqrs_updated FROM author
		UNION ALL SELECT 'book', id, title || author, cqrs_revision, cqrs_updated FROM book
		UNION ALL SELECT 'slot', id, data, cqrs_revision, cqrs_updated FROM slot
		ORDER BY 1, 2});
}

=head1 FUNCTIONS

=over

=item run_follow_ledger(duration_s => $seconds)

Runs the whole, as tests.

=cut

sub run_follow_ledger
{
	my (%params) = @_;
	my $seed     = $ENV{CQRS_SEED} // int(rand(1_000_000));
	my $conf     = <<'END';
cqrs.reconnect_delay_max = '1s'
cqrs.heartbeat = '5s'
cqrs.retry_delay_max = '1s'
restart_after_crash = on
END

	srand($seed);
	diag("CQRS_SEED=$seed");
	$longest_stall_s = 0;
	$broker          = RabbitMQ->new('follow');
	$broker->start;
	$master  = new_master('origin',   $broker, conf => $conf);
	$replica = new_master('follower', $broker, conf => $conf);
	$replica->safe_psql('postgres', $tables);
	$replica->safe_psql('postgres', $observe);
	$replica->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
	$replica->poll_query_until('postgres',
		q{SELECT state = 'consuming' FROM cqrs.consumer_stats})
	  or BAIL_OUT('the consumer does not begin');
	$master->safe_psql('postgres', $tables);
	$master->safe_psql(
		'postgres', q{
		SELECT cqrs_register(name) FROM unnest('{author,book,slot}'::regclass[]) name;
		INSERT INTO author (name) SELECT 'first' FROM generate_series(1, 60)});

	my $writers = start_writers($master, $script, $seed);
	my $end     = time + $params{duration_s};
	my @names   = sort keys %fault;
	_wait_for_progress();
	while (time < $end)
	{
		my $name = $names[ int(rand(@names)) ];
		$faults{$name}++;
		$fault{$name}->();
		_wait_for_progress();
	}
	stop_writers($master, $writers);
	wait_published($master);
	_finish();

	my ($rows, $copies) = (_rows($master), _rows($replica));
	ok($rows eq $copies, 'the replica equals the master, row by row')
	  or _show_difference($rows, $copies);
	is($replica->safe_psql('postgres', $backwards),
		0, 'no row has gone back to an earlier revision');
	cmp_ok(_applied(), '>', $PROGRESS, 'there were changes');
	note _applied(), ' changes applied, ',
	  sprintf('longest stall %.1f s', $longest_stall_s);
	note "$_: $faults{$_}" foreach sort keys %faults;
	$_->stop foreach $master, $replica;
	return;
}

# Waits until everything is applied, or waits for nothing any more.
sub _finish
{
	my $settled = RabbitMQ->poll_until(
		sub {
			return ($broker->queue_length('shop') // -1) == 0
			  && (
				try_query(
					$replica,
					'SELECT waiting = 0 AND buffered = 0 FROM cqrs.consumer_stats'
				) // '') eq 't';
		},
		120);
	ok($settled, 'nothing waits');
	is( $replica->safe_psql(
			'postgres',
			"SELECT * FROM cqrs.dead_letters WHERE error NOT LIKE 'the server has crashed%'"
		),
		'',
		'nothing has failed for good');
	note 'dead letters: ',
	  $replica->safe_psql('postgres', 'SELECT cqrs_retry_failed()');
	ok( $replica->poll_query_until(
			'postgres', 'SELECT count(*) = 0 FROM cqrs.failed'),
		'dead letters can be tried again') or diag _failed();
	return;
}

sub _failed
{
	return try_query($replica,
		'SELECT id, cqrs_id, instance_pk, attempts, next_try, sqlstate, error FROM cqrs.failed ORDER BY id LIMIT 20'
	) // '';
}

sub _show_difference
{
	my ($rows, $copies) = @_;
	my %there = map  { $_ => 1 } split /\n/, $copies;
	my %here  = map  { $_ => 1 } split /\n/, $rows;
	my @lost  = grep { !$there{$_} } split /\n/, $rows;
	my @extra = grep { !$here{$_} } split /\n/,  $copies;

	diag('only at the master: ',  join("\n", splice @lost,  0, 20));
	diag('only at the replica: ', join("\n", splice @extra, 0, 20));
	return;
}

=back

=cut

1;
