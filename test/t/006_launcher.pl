# Publishers come and go with their databases, and come back when they end.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('launcher');
$broker->start;
my $node = new_master('launcher', $broker, init => [ allows_streaming => 1 ]);

my $SETUP = q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')};

# Runs a query of the database postgres.
sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub pid_of
{
	my ($type, $database) = @_;
	return query(
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'cqrs $type'"
		  . ($database ? " AND datname = '$database'" : ''));
}

# Waits until so many publishers run in a database.
sub wait_for_publishers
{
	my ($database, $count) = @_;

	$node->poll_query_until(
		'postgres',
		"SELECT count(*) = $count FROM pg_stat_activity
		WHERE backend_type = 'cqrs publisher' AND datname = '$database'"
	) or BAIL_OUT("not $count publishers in database $database");
	return;
}

# Writes a row and returns what arrives.
my $key = 0;

sub publish
{
	my ($database) = @_;

	$key++;
	$node->safe_psql($database,
		"INSERT INTO author VALUES ($key, '$database')");
	wait_published($node, $database);
	return join ' ',
	  map { $_->{body}{instance_data}{name} } drain_queue($broker, 'replica');
}

query($SETUP);
declare_queue($broker, 'replica', 'author');
is(publish('postgres'), 'postgres', 'publishes');

# Processes that are terminated.
foreach my $type ('publisher', 'launcher')
{
	my $pid   = pid_of($type);
	my $start = time;

	query("SELECT pg_terminate_backend($pid)");
	$node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs $type' AND pid <> $pid"
	) or BAIL_OUT("the $type did not come back");
	cmp_ok(time - $start, '<', 5, "the $type comes back");
	is(publish('postgres'), 'postgres', 'publishing goes on');
}
my $pid = pid_of('publisher');
query("SELECT pg_terminate_backend($pid)");
wait_for_publishers('postgres', 1);
isnt(pid_of('publisher'), $pid, 'a new launcher looks after publishers, too');

# The extension goes and comes.
query('DROP EXTENSION cqrs CASCADE; DROP TABLE author');
wait_for_publishers('postgres', 0);
query('CREATE EXTENSION cqrs');
wait_for_publishers('postgres', 1);
query($SETUP);
is(publish('postgres'), 'postgres', 'DROP and CREATE EXTENSION');

# A transaction that drops it and changes its mind.
query('BEGIN; DROP EXTENSION cqrs CASCADE; ROLLBACK');
is(publish('postgres'), 'postgres', 'DROP EXTENSION rolled back');

# A second database.
query('CREATE DATABASE x');
$node->safe_psql('x', 'CREATE EXTENSION cqrs');
$node->safe_psql('x', $SETUP);
wait_for_publishers('x', 1);
is(publish('x'),        'x',        'a second database');
is(publish('postgres'), 'postgres', 'and the first');

# As a template: the copy has the extension, and a publisher of its own, which
# is held back at first (046_restored.pl).
my ($status, undef, $stderr) =
  $node->psql('postgres', 'CREATE DATABASE y TEMPLATE x');
is($status, 0, 'CREATE DATABASE with a template that has a publisher')
  or diag $stderr;
wait_for_publishers('y', 1);
$node->safe_psql('y', 'SELECT cqrs_resume(); DELETE FROM author');
wait_published($node, 'y');
drain_queue($broker, 'replica');
is(publish('y'), 'y', 'the copy publishes');

# Renaming and dropping.
($status, undef, $stderr) =
  $node->psql('postgres', 'ALTER DATABASE y RENAME TO z');
is($status, 0, 'ALTER DATABASE RENAME with a publisher') or diag $stderr;
wait_for_publishers('z', 1);
is(publish('z'), 'z', 'the renamed database publishes');

my $slowest = 0;
foreach my $i (1 .. 5)
{
	query('CREATE DATABASE w');
	$node->safe_psql('w', 'CREATE EXTENSION cqrs');
	$node->safe_psql('w', $SETUP);
	wait_for_publishers('w', 1);
	publish('w');
	my $start = time;
	($status, undef, $stderr) = $node->psql('postgres', 'DROP DATABASE w');
	is($status, 0, 'DROP DATABASE with a publisher') or diag $stderr;
	$slowest = time - $start if time - $start > $slowest;
}
cmp_ok($slowest, '<', 3, 'without delay');
query("DROP DATABASE $_") foreach qw(x z);
is( query(
		q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'cqrs publisher'}),
	1,
	'no publisher is left over');

# A backlog is drained after a restart without any traffic.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query(
	q{INSERT INTO author SELECT i, 'backlog'
	FROM generate_series(1001, 1500) i});
query('UPDATE cqrs.publisher SET paused = false');
$node->restart;
wait_published($node);
is(scalar(drain_queue($broker, 'replica')),
	500, 'a restart drains the backlog');

# A publisher fails before it knows whether there is an extension.
my $size = -s $node->logfile;
query(q{BEGIN; LOCK TABLE pg_depend; PREPARE TRANSACTION 'locked'});
$node->restart;
ok( RabbitMQ->poll_until(
		sub {
			slurp_file($node->logfile, $size) =~
			  /ready to accept connections.*canceling statement due to lock timeout/s;
		},
		60),
	'a publisher cannot find out whether there is an extension');
query(q{ROLLBACK PREPARED 'locked'});
wait_for_publishers('postgres', 1);
pass('another one does');

# The process for it cannot be started, in a database that has the extension
# from its template.
query('CREATE DATABASE u');
$node->safe_psql('u', 'CREATE EXTENSION cqrs');
wait_for_publishers('u', 1);
my $session = $node->background_psql('postgres');
my ($postmaster) =
  slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
$size = -s $node->logfile;
chomp(my $processes =
	  qx(prlimit --pid=$postmaster --nproc -o SOFT --noheadings));
system_or_bail('prlimit', "--pid=$postmaster", '--nproc=1:');
$session->query_safe('CREATE DATABASE v TEMPLATE u');
ok( RabbitMQ->poll_until(
		sub {
			slurp_file($node->logfile, $size) =~
			  /could not fork (background )?worker process/;
		},
		60),
	'a publisher cannot be started');
system_or_bail('prlimit', "--pid=$postmaster", "--nproc=$processes:");
$session->quit;
wait_for_publishers($_, 1) foreach qw(v u);
pass('another one is');
query("DROP DATABASE $_") foreach qw(v u);

# No room for a worker.  PostgreSQL's own launchers take one of them.
my $offset = -s $node->logfile;
query('ALTER SYSTEM SET max_worker_processes = 2');
$node->restart;
ok( RabbitMQ->poll_until(
		sub {
			slurp_file($node->logfile, $offset) =~
			  /WARNING:  no background worker is free for a cqrs publisher/;
		},
		30),
	'a warning when there is no room for a publisher');
query(q{INSERT INTO author VALUES (2000, 'waits')});
is(query('SELECT state, pending FROM cqrs.stats'),
	'stopped|1', 'changes commit and wait');

# Room for the publisher, and for nothing that the database does not need.
$offset = -s $node->logfile;
query('ALTER SYSTEM SET max_worker_processes = 3');
$node->restart;
wait_published($node);
is(scalar(drain_queue($broker, 'replica')), 1, 'and are published later');
unlike(
	slurp_file($node->logfile, $offset),
	qr/no background worker is free for a cqrs consumer/,
	'no consumer is started where nothing is consumed');
query('ALTER SYSTEM RESET max_worker_processes');
$node->restart;

# Counters outlast a shutdown in order.  The last error does not: it would be
# taken for what is wrong now.
my $file = $node->data_dir . '/pg_stat/cqrs.stat';

sub counters
{
	return split /\|/, query(
		'SELECT stats_since, published, confirmed, errors, connects,
		last_error IS NULL FROM cqrs.stats');
}

wait_for_state($node, 'publishing');
my $before = (counters())[4];
$broker->ctl('close_all_connections', 'test');
wait_for_stats($node,
	"state = 'publishing' AND connects > $before AND errors > 0");
my ($since, $published, $confirmed, $errors, $connects) = counters();
cmp_ok($confirmed, '>=', 501, 'counters go on over restarts');
ok(!-e $file, 'the file is not there while the server runs');
$node->stop('fast');
ok(-e $file, 'it is there afterwards');
$node->start;
wait_for_state($node, 'publishing');
is( join('|', counters()),
	join('|', $since, $published, $confirmed, $errors, $connects + 1, 't'),
	'counters outlast a shutdown in order');
publish('postgres');
is( join('|', (counters())[ 0 .. 2 ]),
	join('|', $since, $published + 1, $confirmed + 1),
	'and count on');

# They begin at zero after an immediate shutdown, and if the file is not as it
# was written.
sub starts_at_zero
{
	my ($what) = @_;

	$node->start;
	is(query('SELECT published, confirmed FROM cqrs.stats'),
		'0|0', "counters begin at zero: $what");
	isnt((counters())[0], $since, "stats_since says so: $what");
	publish('postgres');
	return;
}

$node->stop('immediate');
ok(!-e $file, 'no file after an immediate shutdown');
starts_at_zero('an immediate shutdown');
my %damage = (
	'empty'       => [ qr/too short/,        sub { return '' } ],
	'garbage'     => [ qr/another version/i, sub { return 'x' x 1000 } ],
	'truncated'   => [ qr/damaged/, sub { return substr $_[0], 0, -1 } ],
	'half a file' =>
	  [ qr/damaged/, sub { return substr $_[0], 0, length($_[0]) / 2 } ],
	'a bit is set' => [
		qr/damaged/,
		sub {
			return
				substr($_[0], 0, 40)
			  . chr(ord(substr $_[0], 40, 1) ^ 1)
			  . substr($_[0], 41);
		}
	],
	'a directory' => [ qr/not a regular file/, undef ]);
foreach my $what (sort keys %damage)
{
	my ($reason, $change) = @{ $damage{$what} };

	$node->stop('fast');
	my $content = slurp_file($file);
	unlink $file or die $!;
	append_to_file($file, $change->($content)) if $change;
	mkdir $file or die $!                      if !$change;
	my $start = -s $node->logfile;
	starts_at_zero($what);
	like(
		slurp_file($node->logfile, $start),
		qr/LOG:  counters of cqrs begin at zero, because file "pg_stat\/cqrs.stat" cannot be used\n.*DETAIL:  .*$reason/,
		"the log says so: $what");
	rmdir $file or die $! if !$change;
}

# A standby does not publish; it does after its promotion.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query(q{INSERT INTO author VALUES (3000, 'replicated')});
query('UPDATE cqrs.publisher SET paused = false');
$node->wait_for_catchup($standby, 'replay',
	query('SELECT pg_current_wal_insert_lsn()'));
is( $standby->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type LIKE 'cqrs%'}),
	0,
	'nothing publishes on a standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM cqrs.outbox'),
	1, 'the outbox is replicated');
$node->stop('immediate');
$standby->promote;
wait_published($standby);
is( join(' ',
		map { $_->{body}{instance_data}{name} }
		  drain_queue($broker, 'replica')),
	'replicated',
	'the promoted standby publishes what was pending');
$standby->stop;

done_testing();
