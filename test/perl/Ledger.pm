
=pod

=head1 NAME

Ledger - writers and faults at random, and whether every change has arrived

=head1 SYNOPSIS

  use Ledger;
  run_ledger(duration_s => 60);

=head1 DESCRIPTION

Several sessions insert, update and delete rows in random transactions, some
of which are rolled back or prepared, while the broker, the publisher and the
server are stopped, killed and frozen in a random order, and their number changed.  Afterwards each
committed change must have arrived, nothing that was rolled back, and of each
row the first arrivals in the order of its changes.

The seed is CQRS_SEED, or a random one; it is shown.  It decides whether there
is one publisher or three, unless CQRS_LANES says how many.

=cut

package Ledger;

use strict;
use warnings;

use CqrsTest;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT    = qw(run_ledger);
our @EXPORT_OK = qw(start_writers stop_writers);

my $WRITERS = 4;

# Messages that have to be confirmed between two faults.
my $PROGRESS = 150;

my ($broker, $node, $lanes, %faults, $longest_stall_s);

my %fault = (
	'broker killed'    => sub { $broker->kill9; $broker->start },
	'broker restarted' => sub { $broker->restart },
	'broker frozen'    => sub {
		$broker->suspend;
		_wait_for_stall(2);
		$broker->resume;
	},
	'memory alarm' => sub {
		$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
		_wait_for_stall(1);
		$broker->ctl('set_vm_memory_high_watermark', '0.4');
	},
	'connections closed' =>
	  sub { $broker->ctl('close_all_connections', 'test') },
	'publisher terminated' => sub {
		try_query(
			$node,
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'cqrs publisher'});
	},
	'publisher killed' => sub {
		my $pid = _random_publisher();
		kill 'KILL', $pid if $pid;
	},
	'publisher frozen' => sub {
		my $pid = _random_publisher() or return;
		kill 'STOP', $pid;
		_wait_for_stall(2);
		kill 'CONT', $pid;
	},
	'lanes changed' => sub {
		$node->append_conf('postgresql.conf',
			'cqrs.publishers = ' . (1 + int(rand(2 * $lanes - 1))));
		$node->reload;
	},
	'server crashed'    => sub { $node->stop('immediate'); $node->start },
	'server restarted'  => sub { $node->restart },
	'settings reloaded' => sub { $node->reload });

sub _random_publisher
{
	return try_query($node,
		'SELECT pid FROM cqrs.lanes WHERE pid IS NOT NULL ORDER BY random() LIMIT 1'
	);
}

sub _wait_for_stall
{
	my ($seconds) = @_;

	RabbitMQ->poll_until(
		sub {
			my $age = try_query($node,
				"SELECT oldest_pending_age > interval '$seconds s' FROM cqrs.stats"
			);
			return defined $age && $age eq 't';
		},
		10);
	return;
}

# Waits until messages are confirmed again.
sub _wait_for_progress
{
	my $start = time;
	my $base;
	my $moved = RabbitMQ->poll_until(
		sub {
			my $confirmed =
			  try_query($node, 'SELECT confirmed FROM cqrs.stats');
			return 0 unless defined $confirmed && $confirmed ne '';

			# The counter begins anew with the server.
			$base = $confirmed if !defined $base || $confirmed < $base;
			return $confirmed - $base >= $PROGRESS;
		},
		120);
	BAIL_OUT('nothing is published any more: '
		  . (try_query($node, 'SELECT * FROM cqrs.stats') // ''))
	  unless $moved;
	my $stall = time - $start;
	$longest_stall_s = $stall if $stall > $longest_stall_s;
	return;
}

my $script = <<'END';
\set what random(1, 10)
\set end random(1, 10)
\set hot random(1, 50)
BEGIN;
SELECT CASE WHEN :end <= 8 THEN 'committed' ELSE 'rolled back' END AS data \gset
\if :what <= 4
INSERT INTO item (data) SELECT ':data' FROM generate_series(1, :what);
\elif :what <= 8
UPDATE item SET data = ':data' WHERE id = :hot;
SAVEPOINT s;
UPDATE item SET data = 'rolled back' WHERE id = :hot + 50;
INSERT INTO item (data) VALUES ('rolled back');
ROLLBACK TO s;
\else
WITH gone AS (DELETE FROM item WHERE id = (SELECT id FROM item
	WHERE id > 100 ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id)
INSERT INTO gone SELECT id FROM gone;
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

# What has arrived: [signal, key, revision, message id, data] of each message.
sub _arrived
{
	my ($stdout, $stderr);
	IPC::Run::run(
		[   $ENV{CQRS_CONSUME}, '--url',   $broker->url, '--queue',
			'replica',          '--drain', '--format',   'json' ],
		'>',
		\$stdout,
		'2>',
		\$stderr) or BAIL_OUT($stderr);
	my @messages;
	foreach my $line (split /\n/, $stdout)
	{
		my ($id)       = $line =~ /"message_id":"([^"]+)"/;
		my ($signal)   = $line =~ /\\"signal_type\\":\\"(\w+)\\"/;
		my ($key)      = $line =~ /\\"instance_pk\\":(\d+)/;
		my ($revision) = $line =~ /\\"cqrs_revision\\":(\d+)/;
		my ($data)     = $line =~ /\\"data\\":\\"([^"\\]*)\\"/;
		push @messages, [ $signal, $key, $revision, $id, $data // '' ];
	}
	return @messages;
}

sub _compare
{
	my (@messages) = @_;
	my (%content, %highest, %arrived, @errors);
	my $duplicates = 0;

	foreach my $message (@messages)
	{
		my ($signal, $key, $revision, $id, $data) = @$message;
		my $content = "$signal $key $revision";

		push @errors, "$content: $data" if $data eq 'rolled back';
		push @errors, "$content: message id of $content{$id}"
		  if exists $content{$id} && $content{$id} ne $content;
		if (exists $content{$id})
		{
			$duplicates++;
			next;
		}
		$content{$id} = $content;
		$arrived{$content}++;
		push @errors, "$content: another message id"
		  if $arrived{$content} > 1;
		push @errors, "$content: after $highest{$key}"
		  if defined $highest{$key} && $revision <= $highest{$key};
		$highest{$key} = $revision;
	}
	foreach my $expected (
		split /\n/,
		$node->safe_psql(
			'postgres',
			q{SELECT concat_ws(' ', 'SAVE', id, revision)
			FROM item, generate_series(0, cqrs_revision) revision}))
	{
		push @errors, "$expected: lost" unless delete $arrived{$expected};
	}
	foreach my $gone (split /\n/, $node->safe_psql('postgres', 'TABLE gone'))
	{
		push @errors, map { "$_: lost" }
		  grep { !delete $arrived{$_} } "SAVE $gone 0", "DELETE $gone 1";
	}
	push @errors, map { "$_: invented" } keys %arrived;
	return ($duplicates, @errors);
}

=head1 FUNCTIONS

=over

=item start_writers($node, $script, $seed)

Starts sessions that run the script of pgbench until they are ended, whatever
happens to the server, and returns them.  The script names the transactions
that it prepares.

=cut

sub start_writers
{
	my ($node, $script, $seed) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/ledger.sql";

	append_to_file($file, $script);
	my $connection = $node->connstr('postgres');
	my $settle =
	  q{SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \gexec};
	return IPC::Run::start(
		[   'bash',
			'-c',
			q{trap 'kill $!; exit' TERM; }
			  . "while :; do pgbench -n -R 120 -T 20 -c $WRITERS --random-seed=$seed"
			  . " -f '$file' -d '$connection' & wait \$!;"
			  . " psql -XAtqc '' -d '$connection' && echo \"$settle\" | psql -XAtq -d '$connection';"
			  . ' done' ],
		'<',
		'/dev/null',
		'>&',
		"$PostgreSQL::Test::Utils::log_path/writers.log");
}

=item stop_writers($node, $writers)

Ends them, and commits what they have left prepared.

=cut

sub stop_writers
{
	my ($node, $writers) = @_;

	stop_pgbench($node, $writers);
	foreach my $gid (split /\n/,
		$node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'))
	{
		$node->safe_psql('postgres', "COMMIT PREPARED '$gid'");
	}
	return;
}

=item run_ledger(duration_s => $seconds)

Runs the whole, as tests.

=cut

sub run_ledger
{
	my (%params) = @_;
	my $seed = $ENV{CQRS_SEED} // int(rand(1_000_000));

	srand($seed);
	$lanes = $ENV{CQRS_LANES} // (rand() < 0.5 ? 1 : 3);
	diag("CQRS_SEED=$seed, lanes: $lanes");
	$longest_stall_s = 0;
	$broker          = RabbitMQ->new('ledger');
	$broker->start;
	$node = new_master('ledger', $broker, conf => <<"END");
cqrs.publishers = $lanes
cqrs.reconnect_delay_max = '1s'
cqrs.heartbeat = '5s'
restart_after_crash = on
END
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE item (id bigserial PRIMARY KEY, data text);
		CREATE TABLE gone (id bigint PRIMARY KEY);
		SELECT cqrs_register('item')});
	declare_queue($broker, 'replica', 'item');
	$node->safe_psql('postgres',
		q{INSERT INTO item (data) SELECT 'first' FROM generate_series(1, 100)}
	);

	my $writers = start_writers($node, $script, $seed);
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
	stop_writers($node, $writers);
	wait_published($node);

	my @messages = _arrived();
	my ($duplicates, @errors) = _compare(@messages);
	splice @errors, 20 if @errors > 20;
	is(join("\n", @errors), '', 'all that was committed arrives, in order');
	cmp_ok(scalar(@messages), '>', $PROGRESS, 'there were messages');
	is($node->safe_psql('postgres', 'SELECT parked FROM cqrs.stats'),
		0, 'nothing is parked');
	note scalar(@messages) - $duplicates,
	  " changes, $duplicates duplicates, ",
	  sprintf('longest stall %.1f s', $longest_stall_s);
	note "$_: $faults{$_}" foreach sort keys %faults;
	$node->stop;
	return;
}

=back

=cut

1;
