
=pod

=head1 NAME

BenchReplica - what tables that follow cost: test/bench/bench.pl, part "replica"

=head1 SYNOPSIS

  use BenchReplica;
  bench_replica($broker, $columns, \&create_source, $rows, $rounds, $quick);

=head1 DESCRIPTION

One server has a master, a replica that the extension keeps, and a subscriber of
PostgreSQL's own logical replication.  Each side gets the same rows:

  bare     the queue is read by librabbitmq and acknowledged, 200 at a time
  logical  the rows, in transactions of 1000, by a subscription
  cqrs     the queue, turned into rows by the consumer
  failing  the same where a constraint refuses one row in a hundred
  waiting  the same while 10,000 other messages wait in cqrs.failed
  redis    the same from a list of Redis, with appendfsync everysec
  django   fewer of the messages, by cqrs_consume of the real library with two
           workers, where it is installed

What has to be read is complete before the clock starts; for django it is sent
then, in a fraction of the time.  Latency is the time between the commits, as
track_commit_timestamp has them.

=cut

package BenchReplica;

use strict;
use warnings;

use Bench;
use CqrsTest;
use Exporter 'import';
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Redis;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(bench_replica);

my $WAITING     = 10_000;
my $DJANGO_ROWS = 2000;

my ($broker, $redis, $node, $rows, $source, $replica, $subscriber);

sub bench_replica
{
	(my ($columns, $create_source, $rounds, $quick), $broker, $rows) =
	  @_[ 1, 2, 4, 5, 0, 3 ];
	set_up($columns, $create_source);
	my ($python) = split ' ', $ENV{BENCH_DJANGO} // '';
	$node->safe_psql('postgres', 'CREATE DATABASE django') if defined $python;
	throughput($rounds, $python);
	delays($quick ? 1000 : 5000);
	$redis->stop;
	$_->end foreach $source, $replica, $subscriber;
	$node->stop('immediate');
	return;
}

sub set_up
{
	my ($columns, $create_source) = @_;

	$node = new_master('follow', $broker, conf => <<'END');
wal_level = logical
max_wal_senders = 4
max_replication_slots = 4
max_worker_processes = 12
track_commit_timestamp = on
fsync = on
log_statement = none
shared_buffers = 256MB
max_wal_size = 16GB
checkpoint_timeout = 1h
END
	$node->safe_psql('postgres', "CREATE DATABASE $_")
	  foreach qw(replica subscriber);
	$source = Bench::Session->new($node, 'postgres');
	$source->sql(
		qq{CREATE TABLE followed $columns;
		CREATE TABLE published $columns;
		SELECT cqrs_register('followed');
		CREATE PUBLICATION bench FOR TABLE published;
		SELECT pg_create_logical_replication_slot('bench', 'pgoutput')});
	$create_source->($source, $rows);

	$replica = Bench::Session->new($node, 'replica');
	$replica->sql(
		qq{CREATE EXTENSION cqrs;
		CREATE TABLE followed $columns;
		SELECT cqrs_register_replica('followed', retry_delay => '1 hour');
		SELECT cqrs_consume('follow')});
	wait_consumer($node, 'replica', 'consuming');
	consume(0);
	$redis = Redis->new('follow', config => 'appendfsync everysec');
	$redis->start;
	with_redis(
		sub {
			consume(1);
			wait_consumer($node, 'replica', 'consuming');
			consume(0);
		});

	$subscriber = Bench::Session->new($node, 'subscriber');
	my $connection = $node->connstr('postgres') =~ s/'/''/gr;
	$subscriber->sql(
		qq{CREATE TABLE published $columns;
		CREATE SUBSCRIPTION bench CONNECTION '$connection' PUBLICATION bench
			WITH (create_slot = false, enabled = false, copy_data = false)});
	return;
}

# The library has a queue and a database of its own.  The queue is deleted again:
# it would get what the other sides publish.
sub django
{
	my ($python) = @_;

	local @ENV{qw(PGHOST PGPORT PGDATABASE)} =
	  ($node->host, $node->port, 'django');
	my $consumer = IPC::Run::start(
		[   $python,
			dirname($INC{'BenchReplica.pm'}) . '/../bench/django_replica.py',
			$broker->url,
			'django',
			2 ],
		'<',
		'/dev/null',
		'>&',
		"$PostgreSQL::Test::Utils::tmp_check/django_replica.log");
	wait_for_broker(qr/^django\t2$/m, 'list_queues', 'name', 'consumers');
	my $session = Bench::Session->new($node, 'django');
	$session->sql('TRUNCATE followed');
	empty_source();

	my $start = time;
	$source->sql(
		"INSERT INTO followed SELECT * FROM source WHERE id <= $DJANGO_ROWS");
	RabbitMQ->poll_until(
		sub {
			return $session->sql('SELECT count(*) FROM followed') ==
			  $DJANGO_ROWS;
		},
		600) or die 'django-cqrs does not keep up';
	my $seconds = time - $start;

	$consumer->signal('TERM');
	$consumer->finish;
	$session->end;
	wait_published($node);
	$broker->ctl('delete_queue', $_) foreach qw(django dead_letter_django);
	$broker->ctl('purge_queue',  'follow');
	return { rate => $DJANGO_ROWS / $seconds };
}

# Waits until what the broker lists is so.
sub wait_for_broker
{
	my ($pattern, @list) = @_;

	RabbitMQ->poll_until(
		sub { return $broker->ctl('--no-table-headers', @list) =~ $pattern },
		60) or die "not so: @list";
	return;
}

# Has the server publish to Redis and consume from there for as long as the
# function takes; the consumer is paused before and after it.
sub with_redis
{
	my ($function) = @_;

	use_url($redis->url);
	my $result = $function->();
	use_url($broker->url);
	return $result;
}

sub use_url
{
	my ($url) = @_;

	$source->sql(
		"ALTER SYSTEM SET cqrs.url = '$url'; SELECT pg_reload_conf()");
	foreach my $dbname (qw(postgres replica))
	{
		$node->poll_query_until($dbname,
			"SELECT current_setting('cqrs.url') = '$url'")
		  or die 'URL not set';
	}
	wait_for_state($node, 'publishing');
	wait_consumer($node, 'replica', 'paused');
	return;
}

# Pauses the consumer, or ends the pause.
sub consume
{
	my ($on) = @_;

	$replica->sql(
		'SELECT cqrs_' . ($on ? 'resume' : 'pause') . '_consumer()');
	wait_consumer($node, 'replica', 'paused') unless $on;
	return;
}

sub empty_source
{
	$source->sql(
		'SET cqrs.produce = off; TRUNCATE followed; RESET cqrs.produce');
	return;
}

# Has all rows in the queue, and none in the replica.
sub fill_queue
{
	empty_source();
	$source->sql(
		q{INSERT INTO followed SELECT * FROM source; SELECT cqrs_wait_published()}
	);
	$replica->sql('TRUNCATE followed; CHECKPOINT');
	return;
}

# Seconds until a database has the last row.
sub until_last
{
	my ($session, $table, $last) = @_;
	my $start = time;

	RabbitMQ->poll_until(
		sub {
			return $session->sql(
				"SELECT EXISTS (SELECT FROM $table WHERE id = $last)") eq 't';
		},
		600) or die "the rows do not arrive in $table";
	return time - $start;
}

sub bare
{
	fill_queue();
	my $start = time;
	IPC::Run::run(
		[   $ENV{CQRS_CONSUME}, '--url',   $broker->url, '--queue',
			'follow',           '--count', $rows ],
		'<',
		'/dev/null',
		'>',
		'/dev/null',
		'2>',
		"$PostgreSQL::Test::Utils::tmp_check/bare_consumer.log"
	) or die 'the bare consumer failed';
	return { rate => $rows / (time - $start) };
}

sub logical
{
	$source->sql(
		q{TRUNCATE published;
		DO $$BEGIN
			FOR i IN 0 .. (SELECT max(id) - 1 FROM source) / 1000 LOOP
				INSERT INTO published SELECT * FROM source
					WHERE id BETWEEN i * 1000 + 1 AND (i + 1) * 1000;
				COMMIT;
			END LOOP;
		END$$; CHECKPOINT});
	$subscriber->sql('TRUNCATE published');
	my $start = time;
	$subscriber->sql('ALTER SUBSCRIPTION bench ENABLE');
	until_last($subscriber, 'published', $rows);
	my $seconds = time - $start;
	$subscriber->sql('ALTER SUBSCRIPTION bench DISABLE');
	$node->poll_query_until('postgres',
		q{SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'bench'}
	) or die 'the subscription does not end';
	return { rate => $rows / $seconds };
}

# The clock starts with the connection.
sub cqrs
{
	my ($queue) = @_;

	fill_queue();
	my $pid = $replica->sql('SELECT pid FROM cqrs.consumer_stats');
	my $cpu = cpu_s($pid);

	consume(1);
	until_last($replica, 'followed', $rows - 1);
	my $seconds = $replica->sql(
		'SELECT extract(epoch FROM clock_timestamp() - connected_at) FROM cqrs.consumer_stats'
	);
	my $used = cpu_s($pid) - $cpu;
	RabbitMQ->poll_until(sub { $queue->queue_length('follow') == 0 }, 60)
	  or die 'the queue is not drained';
	consume(0);
	return { rate => $rows / $seconds, cpu => $used / $rows * 1e6 };
}

# The same while a constraint refuses rows.
sub refusing
{
	my ($check, $function) = @_;

	$replica->sql(
		"TRUNCATE followed; ALTER TABLE followed ADD CONSTRAINT refused CHECK ($check)"
	);
	my $result = $function->();
	$replica->sql('ALTER TABLE followed DROP CONSTRAINT refused');
	return $result;
}

sub failing
{
	my $result = refusing('id % 100 <> 0', sub { return cqrs($broker) });
	$replica->sql('DELETE FROM cqrs.failed');
	return $result;
}

sub waiting
{
	refusing(
		'id < 1000000000',
		sub {
			empty_source();
			$source->sql(
				"INSERT INTO followed SELECT id + 1000000000, a, b, c, d, e, f, g
				FROM source WHERE id <= $WAITING");
			consume(1);
			$node->poll_query_until('replica',
				"SELECT count(*) = $WAITING FROM cqrs.failed")
			  or die 'not refused';
			RabbitMQ->poll_until(sub { $broker->queue_length('follow') == 0 },
				60)
			  or die 'the queue is not drained';
			consume(0);
		});
	my $result = cqrs($broker);
	$replica->sql('DELETE FROM cqrs.failed');
	return $result;
}

# The rate of cqrs divided by that of other sides: [ side, name, sense, goal ].
sub compare_rates
{
	my ($rounds, $rate, @rows) = @_;

	foreach my $row (@rows)
	{
		my ($side, $name, @goal) = @$row;
		goal(
			"queue to rows, $name",
			@goal,
			median(map { $_->{cqrs}{rate} / $_->{$side}{rate} } @$rounds),
			sprintf '%.0f against %.0f messages/s',
			@$rate{ 'cqrs', $side });
	}
	return;
}

sub throughput
{
	my ($rounds, $python) = @_;
	my @rounds = interleaved(
		'rows of a queue',
		$rounds,
		bare    => \&bare,
		logical => \&logical,
		cqrs    => sub { return cqrs($broker) },
		failing => \&failing,
		waiting => \&waiting,
		redis   => sub {
			return with_redis(sub { return cqrs($redis) });
		},
		defined $python ? (django => sub { return django($python) }) : ());
	my %rate = map {
		my $side = $_;
		$side => median(map { $_->{$side}{rate} } @rounds)
	} keys %{ $rounds[0] };

	compare_rates(
		\@rounds,
		\%rate,
		[   logical => 'against logical replication of the same rows',
			'>=', 1 ],
		[ bare    => 'against a consumer that only acknowledges', '>=', 0.6 ],
		[ failing => 'one message in a hundred fails',            '<=', 2 ],
		[   waiting => "$WAITING other messages wait in cqrs.failed",
			'<=', 1.2 ],
		defined $python
		? [ django => 'against two workers of cqrs_consume of django-cqrs '
			  . django_cqrs_version($python),
			'>=', 80 ]
		: ());
	figure(
		'queue to rows, from Redis with appendfsync everysec against RabbitMQ',
		median(map { $_->{redis}{rate} / $_->{cqrs}{rate} } @rounds),
		sprintf '%.0f against %.0f messages/s',
		@rate{qw(redis cqrs)});
	goal(
		"consumer's processor time a message, µs",
		'<=', 15,
		median(map { $_->{cqrs}{cpu} } @rounds),
		'user and system');
	chart(
		'replica',
		'from a full queue to rows',
		'rows/s',
		[ 'cqrs',                             $rate{cqrs} ],
		[ 'cqrs, from Redis',                 $rate{redis} ],
		[ 'cqrs, one in a hundred fails',     $rate{failing} ],
		[ 'logical replication',              $rate{logical} ],
		[ 'bare consumer, only acknowledges', $rate{bare} ]);
	return;
}

# From the commit at the master to that at the replica, 500 transactions a second.
# The first 500 are not counted: the window of a new consumer begins at 1.
sub delays
{
	my ($count) = @_;
	my $rate = 500;
	my ($output, $error);
	my $script = "$PostgreSQL::Test::Utils::tmp_check/delays.sql";
	my $commits =
	  q{SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))
		FROM followed WHERE id % 1000000 > 125};

	append_to_file(
		$script,
		"\\set n :n + 1\n"
		  . q{INSERT INTO followed VALUES (:client_id * 1000000 + :n, 1, 'name',
			repeat('x', 120), 0.125, now(), true,
			'11111111-2222-3333-4444-555555555555');} . "\n");
	empty_source();
	$replica->sql('TRUNCATE followed');
	consume(1);
	wait_consumer($node, 'replica', 'consuming');
	IPC::Run::run(
		[   'pgbench', '-n', '-c', 4, '-j', 1, '-t', $count / 4 + 125,
			'-R',      $rate,
			'-f',      $script, '-D', 'n=0', $node->connstr('postgres') ],
		'>',
		\$output,
		'2>',
		\$error) or die "pgbench failed: $error";
	wait_published($node);
	wait_applied($broker, $node, 'replica', 'follow');

	goal(
		"consumer's memory after these messages, MB",
		'<=',
		64,
		private_kb($replica->sql('SELECT pid FROM cqrs.consumer_stats')) /
		  1024,
		'resident and not shared');
	my %sent = map { split /\|/ } split /\n/, $source->sql($commits);
	my %seen = map { split /\|/ } split /\n/, $replica->sql($commits);
	my @ms   = map { ($seen{$_} - $sent{$_}) * 1000 } keys %sent;
	goal("commit to the replica's commit at $rate/s, median, ms",
		'<=', 2, median(@ms), scalar(@ms) . ' rows');
	goal(
		"commit to the replica's commit at $rate/s, p99, ms",
		'<=', 20,
		percentile(99, @ms),
		scalar(@ms) . ' rows');
	return;
}

1;
