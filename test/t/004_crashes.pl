# Crashes of the publisher, the server and the broker while transactions run:
# what arrives is what was committed (I1, I5), in order, and repetitions are known
# as such.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $PROGRESS = 1000;    # insertions before, and after, each crash
my $RATE     = 800;     # transactions a second
my $TMP      = $PostgreSQL::Test::Utils::tmp_check;

my $broker = RabbitMQ->new('crashes');
$broker->start;
my $node = new_master('crashes', $broker, conf => <<'END');
restart_after_crash = on
cqrs.reconnect_delay_max = '500ms'
END

# A deleted row is noted in "deleted" by the same transaction.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id serial PRIMARY KEY, value text, n int DEFAULT 0);
	CREATE TABLE hot (id int PRIMARY KEY, value text, n int DEFAULT 0);
	CREATE TABLE mark (id serial PRIMARY KEY);
	CREATE TABLE deleted (id int PRIMARY KEY, revision int);
	SELECT cqrs_register('item'), cqrs_register('hot'), cqrs_register('mark')}
);
my $consumer = start_consumer($broker, 'replica', 'item', 'hot', 'mark');
$node->safe_psql('postgres',
	q{INSERT INTO hot SELECT i, 'committed' FROM generate_series(1, 5) i});

append_to_file("$TMP/commit.sql", <<'END');
\set hot random(1, 5)
BEGIN;
INSERT INTO item (value) VALUES ('committed') RETURNING id AS new \gset
SAVEPOINT s;
UPDATE item SET value = 'rolled back' WHERE id = :new;
UPDATE hot SET value = 'rolled back' WHERE id = :hot;
ROLLBACK TO s;
UPDATE hot SET n = n + 1 WHERE id = :hot;
COMMIT;
END
append_to_file("$TMP/rollback.sql", <<'END');
\set hot random(1, 5)
BEGIN;
INSERT INTO item (value) VALUES ('rolled back');
UPDATE hot SET value = 'rolled back' WHERE id = :hot;
ROLLBACK;
END
append_to_file("$TMP/asynchronous.sql", <<'END');
\set hot random(1, 5)
BEGIN;
SET LOCAL synchronous_commit = off;
UPDATE item SET n = n + 1 WHERE id = (SELECT max(id) FROM item);
UPDATE hot SET n = n + 1 WHERE id = :hot;
COMMIT;
END
append_to_file("$TMP/delete.sql", <<'END');
WITH gone AS (DELETE FROM item WHERE id = (SELECT id FROM item
	ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
	RETURNING id, cqrs_revision)
INSERT INTO deleted SELECT * FROM gone;
END

# Sessions that connect again when their server has gone, until the file
# "stop" appears.
my $load;

sub start_load
{
	unlink "$TMP/stop";
	my $pgbench =
		"pgbench -n -c 4 -j 2 -R $RATE -t 50"
	  . " -f $TMP/commit.sql\@5 -f $TMP/rollback.sql\@2"
	  . " -f $TMP/asynchronous.sql\@2 -f $TMP/delete.sql\@1" . " -d '"
	  . $node->connstr('postgres') . "'";
	my $log = "$PostgreSQL::Test::Utils::log_path/pgbench.log";

	# When the server has gone, the next attempt is made when it answers again.
	$load = IPC::Run::start(
		sub {
			until (-e "$TMP/stop")
			{
				next if system("$pgbench >>$log 2>&1") == 0;
				RabbitMQ->poll_until(
					sub {
						return -e "$TMP/stop"
						  || system('pg_isready', '-q', '-d',
							$node->connstr('postgres')) == 0;
					},
					60);
			}
		});
	wait_for_progress();
	return;
}

sub stop_load
{
	append_to_file("$TMP/stop", '');
	$load->finish or BAIL_OUT('the load did not end');
	return;
}

sub wait_for_progress
{
	my $inserted = '';

	$node->poll_query_until('postgres',
		'SELECT count(*) > 0 FROM pg_sequences');
	$inserted =
	  $node->safe_psql('postgres', 'SELECT last_value FROM item_id_seq');
	$node->poll_query_until('postgres',
		"SELECT last_value >= $inserted + $PROGRESS FROM item_id_seq")
	  or BAIL_OUT('transactions do not go on');
	return;
}

# Freezes the broker and waits until a lot is sent and not confirmed, so that a
# crash hits a full window.
sub fill_window
{
	$broker->suspend;
	$node->poll_query_until('postgres',
		'SELECT published - confirmed >= 500 FROM cqrs.stats')
	  or BAIL_OUT('the window did not fill');
	return;
}

# Everything that was confirmed has arrived when this message has.
sub wait_for_mark
{
	wait_published($node);
	my $mark = $node->safe_psql('postgres',
		'INSERT INTO mark DEFAULT VALUES RETURNING id');
	RabbitMQ->poll_until(
		sub {
			my @messages = messages($consumer);
			return grep {
					 $_->{routing_key} eq 'mark'
				  && $_->{body}{instance_pk} == $mark
			} @messages[ -10 .. -1 ];
		},
		60) or BAIL_OUT('the last message did not arrive');
	return;
}

sub rows
{
	my ($query) = @_;
	return map { [ split /\|/ ] } split /\n/,
	  $node->safe_psql('postgres', $query);
}

# What should not be: compares all messages with what is in the tables.
sub errors
{
	my @messages = grep { $_->{routing_key} ne 'mark' } messages($consumer);
	my (%final, %deleted, %last, %id_of, %what_of, @errors, @saves);

	foreach my $row (
		rows(
			q{SELECT 'item', id, cqrs_revision, value, n FROM item
			UNION ALL SELECT 'hot', id, cqrs_revision, value, n FROM hot}))
	{
		my ($table, $id, $revision, $value, $n) = @$row;
		$final{"$table $id"} = [ $revision, $value, $n ];
		push @saves, [ $table, $id, $_ ] foreach 0 .. $revision;
	}
	foreach my $row (rows('SELECT id, revision FROM deleted'))
	{
		my ($id, $revision) = @$row;
		$deleted{"item $id"} = $revision + 1;
		push @saves, [ 'item', $id, $_ ] foreach 0 .. $revision;
	}
	push @errors, ledger_errors(\@messages, \@saves);

	foreach my $message (@messages)
	{
		my $body = $message->{body};
		my $data = $body->{instance_data};
		my $row  = "$body->{cqrs_id} $body->{instance_pk}";
		my $id   = $message->{properties}{message_id};
		my $what =
		  "$row: $body->{signal_type} with revision $data->{cqrs_revision}";

		push @errors, "$what: rolled back"
		  if $message->{raw} =~ /rolled back/;
		push @errors, "$what: two ids, $id and $id_of{$what}"
		  if ($id_of{$what} //= $id) ne $id;
		push @errors, "$what: has the id of $what_of{$id}"
		  if ($what_of{$id} //= $what) ne $what;

		my $limit = $deleted{$row} // ($final{$row} // [-1])->[0];
		push @errors, "$what: never committed"
		  if $data->{cqrs_revision} > $limit;
		$last{$row} = [ $data->{cqrs_revision}, $data->{value}, $data->{n} ]
		  if $final{$row} && $data->{cqrs_revision} == $limit;
	}
	foreach my $row (keys %final)
	{
		push @errors, "$row: not the final state"
		  if "@{ $last{$row} // [] }" ne "@{ $final{$row} }";
	}
	foreach my $row (keys %deleted)
	{
		push @errors, "$row: DELETE lost"
		  unless $id_of{"$row: DELETE with revision $deleted{$row}"};
	}
	return @errors;
}

sub check
{
	my ($what) = @_;

	wait_for_mark();
	my @errors = errors();
	note scalar(messages($consumer)) . ' messages';
	splice @errors, 20;
	is(join("\n", @errors), '', $what);
	return;
}

# The publisher.  The server then ends all sessions.
start_load();
my $pid = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
fill_window();
is(kill('KILL', $pid), 1, 'publisher killed');
$broker->resume;
$node->poll_query_until('postgres',
	"SELECT state = 'publishing' AND pid <> $pid FROM cqrs.stats")
  or BAIL_OUT('the publisher did not come back');
wait_for_progress();
stop_load();
check('after a crash of the publisher');

# Freezes the process that brings to the disk what commits do not wait for: of
# these, only what somebody else flushes survives.
sub freeze_wal_writer
{
	my $writer = $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
	is(kill('STOP', $writer), 1, 'WAL writer frozen');
	return;
}

# The server, also where commits do not wait for the disk: what was sent has
# to survive.
foreach my $commit (qw(on off))
{
	local $ENV{PGOPTIONS} = "-c synchronous_commit=$commit";
	start_load();
	freeze_wal_writer() if $commit eq 'off';
	fill_window();
	$node->stop('immediate');
	$broker->resume;
	$node->start;
	wait_for_progress();
	stop_load();
	check("after a crash of the server, synchronous_commit = $commit");
}

# The broker.
start_load();
fill_window();
$broker->kill9;
$broker->start;
wait_for_progress();
stop_load();
check('after a crash of the broker');

my @messages = stop_consumer($consumer);
my %ids      = map { $_->{properties}{message_id} => 1 } @messages;
cmp_ok(@messages - keys %ids, '>', 0, 'some messages came again');
note sprintf '%d messages, %d repetitions', scalar(@messages),
  @messages - keys %ids;
$node->stop;
done_testing();
