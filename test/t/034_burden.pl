# What publishing costs those who write: nothing waits for a broker that does
# not answer (I16), and a held snapshot lets nothing of ours grow or slow down.
use strict;
use warnings;

use CqrsTest;
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $ROUNDS     = 5;
my $RATIO      = 0.5;          # of transactions a second, at least
my $BACKLOG    = 1_000_000;
my $RSS_LIMIT  = 64 * 1024;    # kB
my $NOTE_BYTES = 13;           # a row, while the transaction runs
my $COMMIT_KB  = 8 * 1024;
my $LATENCIES  = 40;
my $LATENCY_MS = 200;          # of a single message, median

my $broker = RabbitMQ->new('burden');
$broker->start;
my $node = new_master('burden', $broker, conf => <<'END');
shared_buffers = '16MB'
max_wal_size = '2GB'
autovacuum = off
cqrs.reconnect_delay_max = '300ms'
log_statement = none
END
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgstattuple;
	CREATE TABLE item (id serial PRIMARY KEY, n int);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item', 'bulk');
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ @sorted / 2 ];
}

# Single-row transactions for a second; returns how many there were.
my $script = "$PostgreSQL::Test::Utils::tmp_check/single.sql";
append_to_file($script, "INSERT INTO item (n) VALUES (1);\n");
my %waits;

sub rate
{
	my ($report, $errors);
	my $run = IPC::Run::start(
		[   'pgbench', '-n', '-f', $script, '-c', 2, '-T', 1, '-d',
			$node->connstr('postgres') ],
		'<',
		'/dev/null',
		'>',
		\$report,
		'2>',
		\$errors);
	foreach my $sample (1 .. 5)
	{
		$waits{$_}++
		  foreach split /\n/, query(
			q{SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity
			WHERE application_name = 'pgbench' AND wait_event IS NOT NULL});
	}
	$run->finish or BAIL_OUT($errors);
	return $report =~ /^tps = ([\d.]+)/m ? $1 : BAIL_OUT($report);
}

sub set_url
{
	my ($url) = @_;
	$node->append_conf('postgresql.conf', "cqrs.url = '$url'");
	$node->reload;
	return;
}

# Something that accepts connections and never says a word.
my $hole = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 100) or BAIL_OUT("could not listen: $!");
my %states = (
	'suspended' => [ sub { $broker->suspend }, sub { $broker->resume } ],
	'silent'    => [
		sub {
			set_url('amqp://127.0.0.1:' . $hole->sockport);
			wait_for_state($node, 'connecting');
		},
		sub { set_url($broker->url) } ],
	'refused' => [
		sub {
			set_url('amqp://127.0.0.1:1');
			wait_for_state($node, 'waiting');
		},
		sub { set_url($broker->url) } ]);
my %rates;
foreach my $round (1 .. $ROUNDS)
{
	foreach my $state (sort keys %states)
	{
		my ($begin, $end) = @{ $states{$state} };

		wait_for_state($node, 'publishing');
		push @{ $rates{"$state before"} }, rate();
		$begin->();
		push @{ $rates{$state} }, rate();
		$end->();
	}
}
foreach my $state (sort keys %states)
{
	my ($with, $before) =
	  map { median(@{ $rates{$_} }) } $state, "$state before";
	cmp_ok(
		$with / $before,
		'>', $RATIO,
		sprintf 'a broker that is %s: %.0f transactions/s, %.0f with it',
		$state, $with, $before);
	note sprintf '%s: %.0f transactions/s, %.0f with the broker', $state,
	  $with, $before;
}
is(join(', ', grep { /Extension|cqrs/ } keys %waits),
	'', 'no writer waits for anything of ours');
note "$_: $waits{$_}" foreach sort keys %waits;
wait_published($node);

# How long a message takes until it is confirmed.
sub latency_ms
{
	my @ms = split /\n/,
	  query(
		"\\timing on\n" . join '',
		(       q{INSERT INTO item (n) VALUES (2);}
			  . "\nSELECT cqrs_wait_published();\n") x $LATENCIES);
	my @pairs;
	foreach my $line (grep { /^Time: ([\d.]+)/ } @ms)
	{
		push @pairs, $line =~ /([\d.]+)/;
	}
	return median(map { $pairs[ 2 * $_ ] + $pairs[ 2 * $_ + 1 ] }
		  0 .. $LATENCIES - 1);
}
my $free_ms = latency_ms();

# A held snapshot, and a transaction id that is not given up.
my $holder = $node->background_psql('postgres');
$holder->query_safe(
	'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()');
query('INSERT INTO item (n) SELECT 3 FROM generate_series(1, 20000)')
  foreach 1 .. 3;
wait_published($node);
my $held_ms = latency_ms();
note sprintf 'latency %.1f ms, with a held snapshot %.1f ms', $free_ms,
  $held_ms;
cmp_ok($held_ms, '<', $LATENCY_MS, 'a held snapshot delays no message');
my $DEAD = q{SELECT string_agg(format('%s: %s', oid::regclass, dead), ', ')
	FROM (SELECT oid, (pgstattuple(oid::regclass)).dead_tuple_count AS dead
		FROM pg_class c WHERE relkind IN ('r', 'S', 't')
		AND (relnamespace = 'cqrs'::regnamespace
			OR oid IN (SELECT reltoastrelid FROM pg_class
				WHERE relnamespace = 'cqrs'::regnamespace))) t
	WHERE dead > 0};
is(query($DEAD), '', 'nothing of ours has a dead row');
my $SIZE = q{SELECT sum(pg_relation_size(oid)) FROM pg_class
	WHERE relnamespace = 'cqrs'::regnamespace AND relname ~ '^segment_[0-9]$'};
$node->poll_query_until('postgres', "SELECT ($SIZE) < 2 * 1024 * 1024")
  or BAIL_OUT('the segments are not emptied');
pass('segments are emptied under a held snapshot');
$holder->query_safe('COMMIT');
$holder->quit;

# A million, changed by one transaction.
query(
	qq{CREATE TABLE bulk (id int PRIMARY KEY, n int);
	INSERT INTO bulk SELECT i FROM generate_series(1, $BACKLOG) i;
	SELECT cqrs_register('bulk')});
$broker->ctl(
	'set_policy', 'short', '^replica$', '{"max-length":1}',
	'--apply-to', 'queues');
$broker->stop;
my $writer     = $node->background_psql('postgres');
my $writer_pid = $writer->query_safe('SELECT pg_backend_pid()');

sub peak_kb
{
	my ($pid) = @_;
	my ($kb)  = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;
	return $kb;
}
$writer->query_safe('BEGIN; UPDATE bulk SET n = 4');
my $notes = $writer->query_safe(
	q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts
	WHERE name = 'cqrs changes'});
cmp_ok($notes / $BACKLOG,
	'<', $NOTE_BYTES,
	"memory of a transaction that changes $BACKLOG rows: $notes bytes");
my $before_kb = peak_kb($writer_pid);
$writer->query_safe('COMMIT');
my $commit_kb = peak_kb($writer_pid) - $before_kb;
cmp_ok($commit_kb, '<', $COMMIT_KB, "and that of its commit: $commit_kb kB");
$writer->quit;
query(
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'cqrs publisher'});
my $confirmed = query('SELECT confirmed FROM cqrs.publisher_stats()');
$broker->start;
$node->reload;
$node->poll_query_until('postgres',
	"SELECT confirmed >= $confirmed + $BACKLOG FROM cqrs.publisher_stats()")
  or BAIL_OUT('not drained');
my $peak_kb = peak_kb(query('SELECT pid FROM cqrs.publisher_stats()'));
cmp_ok($peak_kb, '<', $RSS_LIMIT,
	"the publisher of a backlog of $BACKLOG: $peak_kb kB");
note "publisher: $peak_kb kB";
wait_published($node);

$node->stop;
done_testing();
