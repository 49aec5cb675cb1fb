# cqrs against its peers and limits, side by side; see docs/bench/README.md.
# QUICK=1: less of everything, and a test for each ratio's third.
use strict;
use warnings;

use Bench;
use BenchReplica;
use CqrsTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Utils;
use POSIX ();
use RabbitMQ;
use Redis;
use Test::More;
use Time::HiRes qw(time);

my $QUICK  = $ENV{QUICK};
my $ROUNDS = $QUICK ? 3      : 5;
my $ROWS   = $QUICK ? 20_000 : 200_000;
my $WINDOW = 2000;
my $BARE   = $ENV{CQRS_BARE_PUBLISHER}
  or die 'CQRS_BARE_PUBLISHER is not set; use "make bench"';
my %only = map { $_ => 1 } split ' ', $ENV{BENCH_ONLY} // '';
my $tmp  = $PostgreSQL::Test::Utils::tmp_check;

my $conf = <<'END';
fsync = on
log_statement = none
shared_buffers = 256MB
max_wal_size = 16GB
checkpoint_timeout = 1h
END

my $broker = RabbitMQ->new('bench', schedulers => 2);
$broker->start;
my $node    = new_master('bench', $broker, conf => $conf);
my $session = Bench::Session->new($node, 'postgres');

# As a table of ten columns.
my $columns = q{(id int PRIMARY KEY, a int, b text, c text, d numeric,
	e timestamptz, f boolean, g uuid,
	cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now())};

# Rows come from a table, because to make them takes longer than to write them.
# Text and uuid are such that do not compress, as the outbox is compressed.
sub create_source
{
	my ($session, $rows) = @_;

	$session->sql(
		qq{CREATE TABLE source $columns;
		INSERT INTO source
			SELECT i, i * 2, 'name ' || i, left(md5(i || 'a') || md5(i || 'b')
				|| md5(i || 'c') || md5(i || 'd'), 120), i / 8.0, now(), true,
				md5(i::text)::uuid
			FROM generate_series(1, $rows) i;
		VACUUM ANALYZE source});
	return;
}

# Copies the rows with these ids, under ids that are so much higher.
sub insert
{
	my ($table, $first, $last, $more) = @_;
	my $id = $more ? "id + $more" : 'id';

	return qq{INSERT INTO $table SELECT $id, a, b, c, d, e, f, g FROM source
		WHERE id BETWEEN $first AND $last};
}

$session->sql(
	qq{CREATE TABLE plain $columns;
	CREATE TABLE master $columns;
	SELECT cqrs_register('master')});
create_source($session, $QUICK ? 100_000 : 1_000_000);
wait_published($node);

# Publishing stops, and the connection is closed.
sub pause
{
	my ($dbname) = @_;
	$node->safe_psql($dbname // 'postgres', 'SELECT cqrs_pause()');
	wait_for_state($node, 'paused', $dbname);
	return;
}

# Empties tables without a message.
sub empty
{
	my ($session, @tables) = @_;

	$session->sql('SET cqrs.produce = off; TRUNCATE '
		  . join(', ', @tables)
		  . '; RESET cqrs.produce; CHECKPOINT');
	return;
}

# Throws away what is pending; publishing is paused.
sub discard_outbox
{
	my ($session) = @_;

	$session->sql(
		'TRUNCATE cqrs.segment_0, cqrs.segment_1, cqrs.segment_2; CHECKPOINT'
	);
	return;
}

# ---- What capture adds to large statements, and cqrs_sync

sub bench_capture
{
	$session->sql(
		qq{SET client_min_messages = warning;
		CREATE TABLE plpgsql $columns;
		CREATE TABLE plpgsql_outbox (id bigserial PRIMARY KEY, cqrs_id text,
			operation text, data jsonb);
		CREATE FUNCTION plpgsql_capture() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			INSERT INTO plpgsql_outbox (cqrs_id, operation, data)
				VALUES (TG_TABLE_NAME, TG_OP, to_jsonb(NEW));
			RETURN NULL;
		END \$\$;
		CREATE TRIGGER capture AFTER INSERT OR UPDATE ON plpgsql
			FOR EACH ROW EXECUTE FUNCTION plpgsql_capture();
		CREATE EXTENSION pgq;
		SELECT pgq.create_queue('bench');
		CREATE TABLE pgq $columns;
		CREATE TRIGGER capture AFTER INSERT OR UPDATE ON pgq
			FOR EACH ROW EXECUTE FUNCTION pgq.jsontriga('bench');
		CREATE TABLE bytes (id bigint, committed_at timestamptz,
			signal_type "char", cqrs_id text, instance_pk text,
			instance_data text);
		CREATE TABLE bytes_outbox (LIKE bytes, PRIMARY KEY (id))});
	pause();
	empty($session, 'master');
	$session->sql(insert('master', 1, $ROWS));
	$session->sql(
		q{INSERT INTO bytes
		SELECT id, now(), 'S', 'master', id, cqrs_to_json(m, 'master')
		FROM master m});
	my $size = $session->sql('SELECT avg(length(instance_data)) FROM bytes');
	empty($session, 'master');
	discard_outbox($session);

	my $write = sub {
		my ($table) = @_;

		my %seconds =
		  (insert => $session->seconds(insert($table, 1, $ROWS)));
		$session->sql("VACUUM ANALYZE $table; CHECKPOINT");
		discard_outbox($session) if $table eq 'master';
		$seconds{update} = $session->seconds("UPDATE $table SET a = a + 1");
		return \%seconds;
	};
	my $trigger = sub {
		my ($table, @outbox) = @_;
		my $seconds = $write->($table);

		empty($session, $table, @outbox);
		return $seconds;
	};
	my @rounds = interleaved(
		'capture',
		$ROUNDS,
		plain => sub { return $trigger->('plain') },
		cqrs  => sub {
			my $seconds = $write->('master');
			$session->sql('VACUUM master');
			discard_outbox($session);
			$seconds->{sync} =
			  $session->seconds(q{SELECT cqrs_sync('master')});
			empty($session, 'master');
			discard_outbox($session);
			return $seconds;
		},
		plpgsql => sub { return $trigger->('plpgsql', 'plpgsql_outbox') },
		pgq     => sub { return $trigger->('pgq',     'pgq.event_template') },
		bytes   => sub {
			my $seconds = $session->seconds(
				'INSERT INTO bytes_outbox SELECT * FROM bytes');
			empty($session, 'bytes_outbox');
			return { insert => $seconds, update => $seconds };
		});

	foreach my $what (qw(insert update))
	{
		my %us;
		foreach my $side (qw(plain cqrs plpgsql pgq bytes))
		{
			my $base = $side eq 'plain' || $side eq 'bytes';
			$us{$side} = median(
				map {
					($_->{$side}{$what} - ($base ? 0 : $_->{plain}{$what})) /
					  $ROWS * 1e6
				} @rounds);
		}
		my $added = sub {
			my ($round, $side) = @_;
			return $round->{$side}{$what} - $round->{plain}{$what};
		};
		foreach my $goal (
			[ 'pgq.jsontriga',          'pgq',     0.20 ],
			[ 'plpgsql trigger',        'plpgsql', 0.25 ],
			[ 'same bytes, one INSERT', 'bytes',   1.25 ])
		{
			my ($name, $side, $limit) = @$goal;
			goal(
				uc($what) . ": cost added, against $name",
				'<=', $limit,
				median(
					map {
						$added->($_, 'cqrs') / (
							  $side eq 'bytes'
							? $_->{bytes}{$what}
							: $added->($_, $side))
					} @rounds),
				sprintf(
					'%.2f against %.2f µs a row; plain row %.2f µs',
					@us{ 'cqrs', $side, 'plain' }));
		}
		chart(
			"cost_$what",
			"cost added to each row of a large \U$what",
			'µs',
			[ 'cqrs',                   $us{cqrs} ],
			[ 'plpgsql outbox',         $us{plpgsql} ],
			[ 'pgq.jsontriga',          $us{pgq} ],
			[ 'same bytes, one INSERT', $us{bytes} ],
			[ '(the plain row)',        $us{plain} ]);
	}
	goal(
		'cqrs_sync, rows/s until committed',
		'>=',
		100_000,
		$ROWS / median(map { $_->{cqrs}{sync} } @rounds),
		sprintf '%d rows, %.0f bytes of instance_data each',
		$ROWS,
		$size);
	goal(
		'cqrs_sync against UPDATE',
		'>=',
		1,
		median(map { $_->{cqrs}{update} / $_->{cqrs}{sync} } @rounds),
		sprintf 'UPDATE %.2f s, cqrs_sync %.2f s',
		median(map { $_->{cqrs}{update} } @rounds),
		median(map { $_->{cqrs}{sync} } @rounds));
	return;
}

# ---- Small transactions

sub pgbench
{
	my ($table, $seconds) = @_;
	my $output;

	IPC::Run::run(
		[   'pgbench', '-n',
			'-c',      4,
			'-j',      1,
			'-T',      $seconds,
			'-f',      "$tmp/insert.sql",
			'-f',      "$tmp/update.sql",
			'-D',      "table=$table",
			$node->connstr('postgres') ],
		'>',
		\$output) or die "pgbench failed";
	$output =~ /^tps = ([\d.]+)/m or die $output;
	return { tps => $1 };
}

sub bench_transactions
{
	my $rounds  = $QUICK ? 2 : 8;
	my $seconds = $QUICK ? 1 : 4;

	append_to_file("$tmp/update.sql",
		"\\set id random(1, 100000)\nUPDATE :table SET a = a + 1 WHERE id = :id;\n"
	);
	append_to_file(
		"$tmp/insert.sql", q{INSERT INTO :table
		VALUES (nextval('ids'), 1, 'name', repeat('x', 120), 0.125, now(), true,
			'11111111-2222-3333-4444-555555555555');
		});
	$session->sql('CREATE SEQUENCE ids START 1000000; SELECT cqrs_pause()');
	empty($session, 'plain', 'master');
	$session->sql(insert('plain', 1, 100_000));
	$session->sql('SET cqrs.produce = off; '
		  . insert('master', 1, 100_000)
		  . '; RESET cqrs.produce; VACUUM ANALYZE');

	foreach my $mode (qw(on off))
	{
		$node->safe_psql('postgres',
			"ALTER DATABASE postgres SET synchronous_commit = $mode");
		my %side = (
			plain => sub { return pgbench('plain', $seconds) },
			idle  => sub {
				pause();
				my $result = pgbench('master', $seconds);
				discard_outbox($session);
				$node->safe_psql('postgres', 'SELECT cqrs_resume()');
				wait_for_state($node, 'publishing');
				return $result;
			},
			publishing => sub {
				my $result = pgbench('master', $seconds);
				wait_published($node);
				$session->sql('CHECKPOINT');
				return $result;
			});
		my @masters = $QUICK ? ('idle') : qw(idle publishing);
		my @rounds  = interleaved(
			"transactions, synchronous_commit $mode", $rounds,
			map { $_ => $side{$_} } 'plain',          @masters);
		my %tps;
		foreach my $side ('plain', @masters)
		{
			$tps{$side} = median(map { $_->{$side}{tps} } @rounds);
		}
		foreach my $side (@masters)
		{
			my @row = (
				"single-row transactions against the plain table, synchronous_commit $mode, publisher $side",
				median(map { $_->{$side}{tps} / $_->{plain}{tps} } @rounds),
				sprintf('%.0f against %.0f transactions/s',
					@tps{ $side, 'plain' }));
			if ($side eq 'idle')
			{
				goal($row[0], '>=', $mode eq 'on' ? 0.98 : 0.88,
					@row[ 1, 2 ]);
			}
			else
			{
				figure(@row);
			}
		}
		chart(
			"transactions_$mode",
			"single-row transactions, synchronous_commit $mode",
			'1/s',
			[ 'plain table', $tps{plain} ],
			map { [ "cqrs, publisher $_", $tps{$_} ] } @masters);
	}
	$node->safe_psql('postgres',
		'ALTER DATABASE postgres RESET synchronous_commit');
	empty($session, 'plain', 'master');
	return;
}

# ---- Draining

sub publisher_pid
{
	return $session->sql('SELECT pid FROM cqrs.lanes');
}

# Fills the outbox while publishing is paused, in transactions of at most 50,000.
sub fill
{
	my ($rows) = @_;

	pause();
	empty($session, 'master');
	for (my $first = 1; $first <= $rows; $first += 50_000)
	{
		my $last = $first + 49_999;
		$session->sql(
			insert('master', $first, $last > $rows ? $rows : $last));
	}
	$session->sql('CHECKPOINT');
	return;
}

# Messages per second from the connection to the last confirm.
sub drain
{
	my ($rows) = @_;
	my $pid    = publisher_pid();
	my $cpu    = cpu_s($pid);
	my $peak   = 0;

	my $seconds = $session->sql(
		q{SELECT cqrs_resume();
		SELECT cqrs_wait_published();
		SELECT extract(epoch FROM clock_timestamp() - connected_at)
			FROM cqrs.lanes},
		sub {
			my $kb = private_kb($pid);
			$peak = $kb if $kb > $peak;
		}) =~ s/.*\n//sr;
	return {
		rate => $rows / $seconds,
		cpu  => (cpu_s($pid) - $cpu) / $rows * 1e6,
		peak => $peak / 1024 };
}

sub bare
{
	my ($bodies, @rate) = @_;
	my $output;

	IPC::Run::run(
		[   $BARE,    '127.0.0.1', $broker->port, 'cqrs',
			'master', $WINDOW,     @rate ],
		'<', $bodies, '>',
		\$output) or die 'bare publisher failed';
	return $output;
}

sub bare_drain
{
	my ($messages, $seconds, $cpu) = split ' ', bare("$tmp/bodies");

	return {
		rate => $messages / $seconds,
		cpu  => $cpu / $messages * 1e6 };
}

# The bodies that the publisher would send.
sub write_bodies
{
	my ($rows) = @_;

	return if -e "$tmp/bodies";
	fill($rows);
	$session->sql("\\o $tmp/bodies\nSELECT body FROM cqrs.outbox;\n\\o");
	drain($rows);
	return;
}

sub bench_drain
{
	my ($what, $rows, $rounds, $limit) = @_;

	# A purge takes a second or two.
	my $purge = sub {
		my ($result) = @_;
		$broker->ctl('purge_queue', 'bench')
		  if $what =~ /^bound/ && !$QUICK;
		return $result;
	};
	write_bodies($rows);
	my @rounds = interleaved(
		"drain, $what", $rounds,
		bare => sub { return $purge->(bare_drain()) },
		cqrs => sub { fill($rows); return $purge->(drain($rows)) });
	my %median;
	foreach my $side (qw(bare cqrs))
	{
		foreach my $key (qw(rate cpu))
		{
			$median{"$side $key"} =
			  median(map { $_->{$side}{$key} } @rounds);
		}
	}
	goal(
		"draining, $what, against the bare loop",
		'>=',
		$limit,
		median(map { $_->{cqrs}{rate} / $_->{bare}{rate} } @rounds),
		sprintf '%.0f against %.0f messages/s',
		@median{ 'cqrs rate', 'bare rate' });
	goal(
		"publisher's processor time, $what, against the bare loop",
		'<=',
		1.2,
		median(map { $_->{cqrs}{cpu} / $_->{bare}{cpu} } @rounds),
		sprintf '%.2f against %.2f µs a message',
		@median{ 'cqrs cpu', 'bare cpu' });
	chart(
		'drain_' . ($what =~ /^(\w+)/)[0],
		"draining, $what",
		'messages/s',
		[ 'cqrs',                  $median{'cqrs rate'} ],
		[ 'bare librabbitmq loop', $median{'bare rate'} ]);
	return;
}

# ---- Draining to Redis

sub bare_redis
{
	my ($redis, $batch) = @_;
	my $output;

	IPC::Run::run(
		[   $ENV{CQRS_BARE_REDIS}, '127.0.0.1',
			$redis->port,          'bench',
			$WINDOW,               $batch ],
		'<',
		"$tmp/bodies",
		'>',
		\$output) or die 'bare publisher to Redis failed';
	my ($messages, $seconds, $cpu) = split ' ', $output;
	return {
		rate => $messages / $seconds,
		cpu  => $cpu / $messages * 1e6 };
}

# Publishes to a broker from now on.
sub use_broker
{
	my ($url) = @_;

	pause();
	$session->sql(
		"ALTER SYSTEM SET cqrs.url = '$url'; SELECT pg_reload_conf()");
	$node->poll_query_until('postgres',
		"SELECT current_setting('cqrs.url') = '$url'")
	  or die 'URL not set';
	return;
}

# Against the bare loop with as many messages a command as the publisher has, and
# with one.
sub compare_redis
{
	my ($what, @rounds) = @_;
	my $goals = sub {
		my ($key, $side, $name, $format, @goal) = @_;
		goal(
			$name, @goal,
			median(map { $_->{cqrs}{$key} / $_->{$side}{$key} } @rounds),
			sprintf $format,
			map {
				my $one = $_;
				median(map { $_->{$one}{$key} } @rounds)
			} 'cqrs',
			$side);
	};

	foreach my $pair ([ bare => 'the bare loop' ],
		[ single => 'the bare loop with one message a command' ])
	{
		my ($side, $loop) = @$pair;
		$goals->(
			'rate', $side,
			"draining to Redis, $what, against $loop",
			'%.0f against %.0f messages/s',
			'>=', 0.9);
		$goals->(
			'cpu',
			$side,
			"publisher's processor time, draining to Redis, $what, against $loop",
			'%.2f against %.2f µs a message',
			'<=',
			2);
	}
	return;
}

sub bench_redis
{
	my ($rows, $rounds) = @_;

	write_bodies($rows);
	foreach my $fsync (qw(everysec always))
	{
		my $redis =
		  Redis->new("bench_$fsync", config => "appendfsync $fsync");
		my $empty = sub { $redis->command('DEL', 'bench'); return $_[0] };

		$redis->start;
		$redis->bind_key('cqrs', 'bench', 'master');
		use_broker($redis->url);
		my @rounds = interleaved(
			"drain to Redis, $fsync", $rounds,
			single => sub { return $empty->(bare_redis($redis, 1)) },
			bare   => sub { return $empty->(bare_redis($redis, 200)) },
			cqrs   => sub { fill($rows); return $empty->(drain($rows)) });
		compare_redis("appendfsync $fsync", @rounds);
		use_broker($broker->url);
		$redis->stop;
	}
	return;
}

# ---- A large backlog, a held snapshot

sub bench_backlog
{
	my ($small, $large, $times) =
	  $QUICK ? (20_000, 100_000, 3) : (50_000, 1_000_000, 5);
	my @rounds = interleaved(
		'backlog',
		$QUICK ? 1 : 3,
		small => sub {
			my @rates;
			foreach (1 .. $times)
			{
				fill($small);
				push @rates, drain($small)->{rate};
			}
			return { rate => median(@rates) };
		},
		large => sub { fill($large); return drain($large) });

	goal(
		sprintf('draining a backlog of %d against one of %d', $large, $small),
		'>=', 0.97,
		median(map { $_->{large}{rate} / $_->{small}{rate} } @rounds),
		sprintf '%.0f against %.0f messages/s, nothing bound',
		map {
			my $side = $_;
			median(map { $_->{$side}{rate} } @rounds)
		} qw(large small));
	goal(
		"publisher's memory with that backlog, MB",
		'<=',
		64,
		percentile(100, map { $_->{large}{peak} } @rounds),
		'resident and not shared, highest seen every 5 ms');
	return;
}

# Two databases, because a snapshot holds back its own only.
sub bench_snapshot
{
	my %session;

	foreach my $dbname (qw(free held))
	{
		$node->safe_psql('postgres', "CREATE DATABASE $dbname");
		$session{$dbname} = Bench::Session->new($node, $dbname);
		$session{$dbname}->sql(
			"CREATE EXTENSION cqrs; CREATE TABLE master $columns;
			SELECT cqrs_register('master')");
		create_source($session{$dbname}, $ROWS);
		wait_for_state($node, 'publishing', $dbname);
	}
	my $holder = Bench::Session->new($node, 'held');
	$holder->sql(
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()');

	my %done    = (free => 0, held => 0);
	my $measure = sub {
		my ($dbname) = @_;
		my $session = $session{$dbname};

		$session->sql('CHECKPOINT');
		$session->sql(insert('master', 1, $ROWS, $done{$dbname}));
		$done{$dbname} += $ROWS;
		return {
			rate => $ROWS / $session->seconds('SELECT cqrs_wait_published()')
		};
	};
	my @rounds = interleaved(
		'snapshot', $ROUNDS,
		free => sub { return $measure->('free') },
		held => sub { return $measure->('held') });

	goal(
		'draining under a held snapshot',
		'>=', 0.95,
		median(map { $_->{held}{rate} / $_->{free}{rate} } @rounds),
		sprintf '%.0f against %.0f messages/s, nothing bound',
		map {
			my $side = $_;
			median(map { $_->{$side}{rate} } @rounds)
		} qw(held free));

	# Statistics come when a process is idle, at the latest when it ends.
	$session{held}->end;
	$node->poll_query_until(
		'held', "SELECT n_tup_ins = $done{held}
		FROM pg_stat_user_tables WHERE relid = 'master'::regclass"
	) or die 'no statistics';
	goal(
		'dead rows in the tables of cqrs after that',
		'<=', 0,
		$node->safe_psql(
			'held', q{SELECT sum(n_dead_tup) FROM pg_stat_all_tables
			WHERE schemaname = 'cqrs'}),
		'n_dead_tup of pg_stat_all_tables');
	$_->end foreach $holder, $session{free};
	foreach my $dbname (qw(free held))
	{
		$node->safe_psql('postgres', "DROP DATABASE $dbname WITH (FORCE)");
	}
	return;
}

# ---- Latency

sub start_timed_consumer
{
	my ($count, $file) = @_;

	declare_queue($broker, 'latency', 'master');
	return IPC::Run::start(
		[   $ENV{CQRS_CONSUME}, '--url',
			$broker->url,       '--queue',
			'latency',          '--format',
			'timed',            '--count',
			$count,             '--timeout-ms',
			60_000 ],
		'<',
		'/dev/null',
		'>', $file, '2>',
		"$tmp/consumer.log");
}

sub latency
{
	my ($arrived, $sent) = @_;
	my @ms = map { ($arrived->{$_} - $sent->{$_}) / 1000 } keys %$sent;

	return {
		median => median(@ms),
		p99    => percentile(99, @ms) };
}

# Times by the key of the row that a message is about.
sub arrivals
{
	my ($file) = @_;
	return slurp_file($file) =~ /^(\d+) .*"instance_pk":(\d+)/mg
	  ? { reverse slurp_file($file) =~ /^(\d+) .*"instance_pk":(\d+)/mg }
	  : {};
}

sub bench_latency
{
	my $count   = $QUICK ? 600 : 4000;
	my $clients = 4;
	my $rate    = 500;
	my $sides;

	append_to_file(
		"$tmp/latency.sql",
		"\\set n :n + 1\n"
		  . q{INSERT INTO master
		VALUES (:client_id * 1000000 + :n, 1, 'name', repeat('x', 120), 0.125,
			now(), true, '11111111-2222-3333-4444-555555555555');} . "\n");
	fill($count);
	$session->sql(
		"\\o $tmp/latency_bodies\nSELECT body FROM cqrs.outbox;\n\\o");
	drain($count);

	my @rounds = interleaved(
		'latency',
		$QUICK ? 1 : $ROUNDS,
		bare => sub {
			my $consumer = start_timed_consumer($count, "$tmp/latency_out");
			my @times    = split ' ', bare("$tmp/latency_bodies", $rate);
			$consumer->finish;
			return latency(arrivals("$tmp/latency_out"),
				{ map { $_ => $times[ $_ - 1 ] } 1 .. $count });
		},
		cqrs => sub {
			empty($session, 'master');
			unlink glob "$tmp/latency_log*";
			my $consumer = start_timed_consumer($count, "$tmp/latency_out");
			my ($output, $error);
			IPC::Run::run(
				[   'pgbench',          '-n',
					'-c',               $clients,
					'-j',               1,
					'-t',               $count / $clients,
					'-R',               $rate,
					'-f',               "$tmp/latency.sql",
					'-D',               'n=0',
					'-l',               '--log-prefix',
					"$tmp/latency_log", $node->connstr('postgres') ],
				'>',
				\$output,
				'2>',
				\$error) or die "pgbench failed: $error";
			$consumer->finish;
			my %sent;
			foreach my $line (map { split /\n/, slurp_file($_) }
				glob "$tmp/latency_log*")
			{
				my ($client, $n, undef, undef, $s, $us) = split ' ', $line;
				$sent{ $client * 1_000_000 + $n } = $s * 1_000_000 + $us;
			}
			return latency(arrivals("$tmp/latency_out"), \%sent);
		});
	$broker->ctl('delete_queue', 'latency');

	my %median;
	foreach my $side (qw(bare cqrs))
	{
		foreach my $key (qw(median p99))
		{
			$median{"$side $key"} =
			  median(map { $_->{$side}{$key} } @rounds);
		}
	}
	foreach my $key ([ 'median', 0.5 ], [ 'p99', 3 ])
	{
		my ($name, $limit) = @$key;
		goal(
			"commit to consumer at $rate/s, $name, beyond the bare loop, ms",
			'<=',
			$limit,
			median(map { $_->{cqrs}{$name} - $_->{bare}{$name} } @rounds),
			sprintf '%.2f against %.2f ms',
			@median{ "cqrs $name", "bare $name" });
	}
	chart(
		'latency',
		"from the commit to the consumer, $rate transactions/s",
		'ms',
		[ 'cqrs, median',      $median{'cqrs median'} ],
		[ 'bare loop, median', $median{'bare median'} ],
		[ 'cqrs, 99 %',        $median{'cqrs p99'} ],
		[ 'bare loop, 99 %',   $median{'bare p99'} ]);
	return;
}

# ---- Memory of a large transaction

# With hardly any shared buffers, which count as memory of each process that
# uses them.
sub bench_memory
{
	my $rows = $QUICK ? 200_000 : 2_000_000;
	my $small =
	  new_master('memory', undef, conf => "$conf\nshared_buffers = 8MB");
	my %kb;

	foreach my $side (qw(plain trigger master))
	{
		my $filler = Bench::Session->new($small, 'postgres');
		create_source($filler, $rows);
		$filler->sql(q{SELECT cqrs_register('source')})
		  if $side eq 'master';
		$filler->sql(
			q{CREATE TRIGGER t BEFORE UPDATE ON source FOR EACH ROW
			EXECUTE FUNCTION suppress_redundant_updates_trigger()}
		) if $side eq 'trigger';
		$filler->end;

		my $session = Bench::Session->new($small, 'postgres');
		$session->sql('UPDATE source SET a = a + 1');
		($kb{$side}) = slurp_file('/proc/' . $session->pid . '/status') =~
		  /^VmHWM:\s+(\d+)/m;
		$session->end;

		# A new table for each: one that was updated before has free space, and
		# the plain UPDATE of it takes several times the memory.
		$small->safe_psql('postgres',
			'SET cqrs.produce = off; DROP TABLE source');
	}
	$small->stop('immediate');

	goal(
		"memory of an UPDATE of $rows rows, bytes a row added",
		'<=',
		16,
		($kb{master} - $kb{plain}) * 1024 / $rows,
		sprintf 'backend %.0f MB, plain %.0f MB',
		$kb{master} / 1024,
		$kb{plain} / 1024);
	figure(
		"the same, above a table with PostgreSQL's own BEFORE UPDATE trigger",
		($kb{master} - $kb{trigger}) * 1024 / $rows,
		sprintf
		  'backend %.0f MB, with suppress_redundant_updates_trigger %.0f MB',
		$kb{master} / 1024,
		$kb{trigger} / 1024);
	return;
}

# ---- Dump

sub bench_dump
{
	pause();
	empty($session, 'master');
	$session->sql(insert('master', 1, $ROWS));
	discard_outbox($session);
	$session->sql('VACUUM ANALYZE master');

	# The results pass through a client, as users' do.
	my $measure = sub {
		my ($query) = @_;
		return {
			rate => $ROWS / $session->seconds("\\o /dev/null\n$query;\n\\o")
		};
	};
	my @rounds = interleaved(
		'dump', $ROUNDS,
		copy => sub {
			return $measure->(
				'COPY (SELECT row_to_json(t) FROM master t) TO STDOUT');
		},
		dump => sub {
			return $measure->(q{SELECT cqrs_bulk_dump('master')});
		},
		copied => sub {
			return $measure->(
				q{COPY (SELECT cqrs_bulk_dump('master')) TO STDOUT});
		},
		file => sub {
			return $measure->(
				qq{SELECT cqrs_bulk_dump('master', '$tmp/dump', true)});
		});

	my %rate;
	foreach my $side (qw(copy dump copied file))
	{
		$rate{$side} = median(map { $_->{$side}{rate} } @rounds);
	}
	goal(
		'cqrs_bulk_dump against COPY of row_to_json',
		'>=',
		0.9,
		median(map { $_->{dump}{rate} / $_->{copy}{rate} } @rounds),
		sprintf '%.0f against %.0f rows/s',
		@rate{qw(dump copy)});
	chart(
		'dump',
		'dump of a table',
		'rows/s',
		[ 'cqrs_bulk_dump',           $rate{dump} ],
		[ 'cqrs_bulk_dump in COPY',   $rate{copied} ],
		[ 'cqrs_bulk_dump to a file', $rate{file} ],
		[ 'COPY of row_to_json',      $rate{copy} ]);
	empty($session, 'master');
	return;
}

# ---- The real django-cqrs

sub bench_django
{
	my $rows    = 40_000;
	my @pythons = split ' ', $ENV{BENCH_DJANGO} // '';

	if (!@pythons)
	{
		note 'django-cqrs is not there: not measured';
		return;
	}
	$session->sql("CREATE TABLE django $columns");
	declare_queue($broker, 'bench', '#');
	my ($host, $port) = ($node->host, $node->port);
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($host, $port, 'postgres');
	$session->sql('SELECT cqrs_resume()');
	wait_published($node);

	my (@sides, %version);
	foreach my $python (@pythons)
	{
		my $version = django_cqrs_version($python);
		push @sides, $version => sub {
			my $output;
			IPC::Run::run(
				[   $python, dirname(__FILE__) . '/django_master.py',
					$broker->url, 'bench', 200, 1000 ],
				'>',
				\$output) or die 'django_master.py failed';
			my ($saves, $save_s, $syncs, $sync_s) = split ' ', $output;
			return { save => $saves / $save_s, sync => $syncs / $sync_s };
		};
		$version{$version} = 1;
	}
	my $end_to_end = sub {
		my ($sql) = @_;
		my $rate =
		  $rows / $session->seconds("$sql; SELECT cqrs_wait_published()");
		$broker->ctl('purge_queue', 'bench');
		return $rate;
	};
	my @rounds = interleaved(
		'django-cqrs',
		3, @sides,
		cqrs => sub {
			empty($session, 'master');
			return {
				save => $end_to_end->(insert('master', 1, $rows)),
				sync => $end_to_end->(q{SELECT cqrs_sync('master')}) };
		});

	foreach my $what ([ save => 80 ], [ sync => 10 ])
	{
		my ($key, $limit) = @$what;
		my %median;
		foreach my $side ('cqrs', keys %version)
		{
			$median{$side} = median(map { $_->{$side}{$key} } @rounds);
		}
		foreach my $version (sort keys %version)
		{
			goal(
				"\U$key\E end to end against django-cqrs $version",
				'>=', $limit,
				median(
					map { $_->{cqrs}{$key} / $_->{$version}{$key} } @rounds),
				sprintf '%.0f against %.0f messages/s',
				@median{ 'cqrs', $version });
		}
		chart(
			"django_$key",
			"\U$key\E end to end into a durable queue",
			'messages/s',
			map { [ $_ eq 'cqrs' ? $_ : "django-cqrs $_", $median{$_} ] }
			  'cqrs',
			sort keys %version);
	}
	return;
}

# Machine, versions and date.
sub about
{
	my ($model) = slurp_file('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)/m;
	my ($kb)    = slurp_file('/proc/meminfo') =~ /^MemTotal:\s+(\d+)/m;
	my $cores   = () = slurp_file('/proc/cpuinfo') =~ /^processor/mg;
	my ($load)  = split ' ', slurp_file('/proc/loadavg');
	my ($rabbitmq) =
	  map { /-([\d.]+)$/ } glob '/usr/lib/rabbitmq/lib/rabbitmq_server-*';

	return sprintf '%s, %s cqrs %s, PostgreSQL %s, RabbitMQ %s',
	  POSIX::strftime('%Y-%m-%d %H:%M', gmtime),
	  sprintf(
		'%d cores (%s), %.0f GB, load %s before;',
		$cores,
		$model // 'unknown',
		$kb / 1024**2, $load),
	  $ENV{BENCH_COMMIT} // '',
	  $session->sql('SHOW server_version'),
	  $rabbitmq // 'unknown';
}

my $about = about();
my %part  = (
	memory       => \&bench_memory,
	capture      => \&bench_capture,
	dump         => \&bench_dump,
	transactions => \&bench_transactions,
	drain        => sub {
		bench_drain('nothing bound', $ROWS, $ROUNDS, 0.85);
	},
	backlog  => \&bench_backlog,
	snapshot => \&bench_snapshot,
	latency  => \&bench_latency,
	bound    => sub {
		declare_queue($broker, 'bench', '#');
		bench_drain('bound durable queue', $ROWS, $QUICK ? 2 : 3, 0.97);
	},
	redis   => sub { bench_redis($ROWS, $ROUNDS) },
	replica => sub {
		bench_replica($broker, $columns, \&create_source, $ROWS, $ROUNDS,
			$QUICK);
	},
	django => \&bench_django);
foreach my $part (
	qw(memory capture dump transactions drain backlog snapshot latency bound
	redis replica django))
{
	next if %only && !$only{$part};
	begin_part($part);
	$part{$part}->();
	pass($part);
}
report($ENV{BENCH_RESULTS}, $about, %only ? $ENV{BENCH_PREVIOUS} : undef);
if ($QUICK)
{
	my @short = short_of_goal();
	is(scalar @short, 0, 'no ratio is more than a third short of its goal')
	  or diag map { "too far: $_\n" } @short;
}
$node->stop('immediate');
done_testing();
