# Databases in which the launcher has found nothing, or has not looked, get their
# workers when a command makes them ready; and no worker is in the way of DROP
# DATABASE, or of a shutdown, whatever transactions are by default.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

# How long something may take that takes less than two seconds.
my $LIMIT_S = 25;

my $broker = RabbitMQ->new('found_late');
$broker->start;
my $node = new_master('found_late', $broker, conf => <<'END');
log_min_messages = debug1
autovacuum = off
max_logical_replication_workers = 0
max_worker_processes = 30
cqrs.max_databases = 12
cqrs.reconnect_delay_max = '500ms'
END
declare_queue($broker, 'all', 'item');

# All questions are asked in another database than the one that they are about,
# where a session could be what brings the workers.
sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub soon
{
	my ($condition, $what) = @_;
	return ok(RabbitMQ->poll_until($condition, $LIMIT_S), $what);
}

# What has arrived so far: the names of rows.
my %arrived;

sub arrives
{
	my ($name, $what) = @_;

	return soon(
		sub {
			$arrived{ $_->{body}{instance_data}{name} } = 1
			  foreach drain_queue($broker, 'all');
			return $arrived{$name};
		},
		$what);
}

sub workers
{
	my ($type, $database) = @_;
	return query(
		"SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'cqrs $type' AND datname = '$database'");
}

# Table and registration, and a row whose name is that of the database.
my $MASTER = q{
	CREATE TABLE item (name text PRIMARY KEY DEFAULT current_database());
	SELECT cqrs_register('item')};
my $ROW = 'INSERT INTO item DEFAULT VALUES';

# The extension comes with a prepared transaction, with a message or with a
# consumer.
query("CREATE DATABASE $_") foreach qw(prepared replica closed pattern);
$node->safe_psql('prepared',
	q{BEGIN; CREATE TABLE other (); PREPARE TRANSACTION 'other'});
$node->safe_psql('prepared',
	"BEGIN; CREATE EXTENSION cqrs; $MASTER; $ROW; PREPARE TRANSACTION 'master'"
);
$node->safe_psql(
	'replica', q{
	BEGIN;
	CREATE EXTENSION cqrs;
	CREATE TABLE item (name text PRIMARY KEY);
	SELECT cqrs_register_replica('item'), cqrs_consume('replica');
	PREPARE TRANSACTION 'replica'});

# Databases that nothing may be connected to, or that are templates, with a
# message that waits.
foreach my $database (qw(closed pattern))
{
	$node->safe_psql($database, "CREATE EXTENSION cqrs; $MASTER");
	wait_for_state($node, 'publishing', $database);
	$node->safe_psql($database, 'SELECT cqrs_pause()');
	wait_for_state($node, 'paused', $database);
	$node->safe_psql($database,
		"$ROW; UPDATE cqrs.publisher SET paused = false");
}
query('ALTER DATABASE closed ALLOW_CONNECTIONS false');
query('ALTER DATABASE pattern IS_TEMPLATE true');

# With new shared memory, the launcher looks into the other databases.
my $offset = -s $node->logfile;
$node->restart;
foreach my $database (qw(prepared replica))
{
	my $oid =
	  query("SELECT oid FROM pg_database WHERE datname = '$database'");

	RabbitMQ->poll_until(
		sub {
			slurp_file($node->logfile, $offset) =~
			  /ready to accept connections.*unregistering background worker "cqrs publisher for database $oid\b/s;
		},
		60) or BAIL_OUT("the launcher does not look into $database");
}
wait_for_state($node, 'publishing');
is( join(' ',
		map { workers('publisher', $_) } qw(prepared replica closed pattern)),
	'0 0 0 0',
	'the launcher knows of no work');

# The session has found no extension before.
$node->safe_psql('prepared',
	"COMMIT PREPARED 'other';\nCOMMIT PREPARED 'master';");
arrives('prepared', 'COMMIT PREPARED of CREATE EXTENSION brings a publisher');
$node->safe_psql('replica', q{COMMIT PREPARED 'replica'});
soon(
	sub { workers('consumer', 'replica') == 1 },
	'COMMIT PREPARED of CREATE EXTENSION and cqrs_consume brings a consumer');
soon(sub { defined $broker->queue_length('replica') }, 'which has a queue');

query('ALTER DATABASE closed ALLOW_CONNECTIONS true');
arrives('closed', 'ALLOW_CONNECTIONS true brings a publisher');
query('ALTER DATABASE pattern IS_TEMPLATE false');
arrives('pattern', 'IS_TEMPLATE false brings a publisher');
soon(
	sub {
		return $node->safe_psql('replica', 'SELECT count(*) FROM item') == 2;
	},
	'the consumer applies what they send');
query($MASTER);

# DROP DATABASE while a publisher is just starting there, in a database that has
# the extension from its template.  A lock holds the publisher while it connects,
# and then for no longer than a second, until DROP DATABASE waits for it.
query(q{ALTER SYSTEM SET cqrs.publishers = 2});
$node->reload;
query('CREATE DATABASE tpl IS_TEMPLATE true');
$node->safe_psql('tpl', "CREATE EXTENSION cqrs; $MASTER");
$node->safe_psql(
	'tpl',
	q{CREATE TABLE copy (id int PRIMARY KEY);
	SELECT cqrs_register_replica('copy'), cqrs_consume('tpl')});
soon(
	sub {
		workers('publisher', 'tpl') == 2 && workers('consumer', 'tpl') == 1;
	},
	'the template has workers');

# A session that runs statements while the other one waits.
sub session
{
	my %session = (in => '', out => '', err => '');
	$session{psql} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<',
		\$session{in},
		'>',
		\$session{out},
		'2>',
		\$session{err},
		IPC::Run::timer(180));
	return \%session;
}

sub send_sql
{
	my ($session, $sql) = @_;

	$session->{out} = '';
	$session->{in} .= "$sql;\n\\echo done\n";
	$session->{psql}->pump_nb;
	return;
}

sub result
{
	my ($session) = @_;

	$session->{psql}->pump until $session->{out} =~ s/^done\n//m;
	return $session->{out};
}

sub run_sql
{
	send_sql(@_);
	return result($_[0]);
}

my ($holder, $owner) = (session(), session());
run_sql($owner,  'SELECT 1');
run_sql($holder, 'BEGIN; LOCK TABLE pg_db_role_setting');
run_sql($owner,  'CREATE DATABASE q TEMPLATE tpl');
my $held = RabbitMQ->poll_until(
	sub {
		return run_sql($holder,
			q{SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_db_role_setting'::regclass}
		) > 0;
	},
	$LIMIT_S);
send_sql($owner, 'DROP DATABASE q');
my $waits = RabbitMQ->poll_until(
	sub {
		$owner->{psql}->pump_nb;
		return run_sql(
			$holder, q{
			SELECT count(*) FROM pg_locks
			WHERE locktype = 'object' AND classid = 'pg_database'::regclass
			AND mode = 'AccessExclusiveLock'}) > 0;
	},
	$LIMIT_S);
run_sql($holder, 'COMMIT');
result($owner);
is($owner->{err}, '', 'DROP DATABASE while a publisher connects');
ok($held && $waits, 'a publisher connected meanwhile');
foreach my $session ($holder, $owner)
{
	$session->{in} .= "\\q\n";
	$session->{psql}->finish;
}
query('DROP DATABASE IF EXISTS q');

# The same at any time of its start.
my ($status, undef, $stderr) = $node->psql('postgres',
	"CREATE DATABASE q TEMPLATE tpl;\nDROP DATABASE q;\n" x 20);
is($status, 0, 'CREATE DATABASE and DROP DATABASE, again and again')
  or diag $stderr;
query('DROP DATABASE IF EXISTS q');

# They have left room for another database.
query('CREATE DATABASE last');
$node->safe_psql('last', "CREATE EXTENSION cqrs; $MASTER; $ROW");
arrives('last', 'another database gets a publisher');

# Transactions are serializable, and wait for a safe snapshot, unless a session
# sets something else, as this one does from now on.  None is safe beside a
# prepared transaction.
query('ALTER SYSTEM RESET cqrs.publishers');
$node->append_conf('postgresql.conf', <<'END');
default_transaction_isolation = serializable
default_transaction_read_only = on
default_transaction_deferrable = on
END
$node->restart;
$ENV{PGOPTIONS} = join ' ',
  '-c default_transaction_isolation=read\ committed',
  '-c default_transaction_read_only=off',
  '-c default_transaction_deferrable=off';
wait_for_state($node, 'publishing');
query(
	q{BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE;
	INSERT INTO item VALUES ('serializable');
	PREPARE TRANSACTION 'serializable'});
my $pid = query('SELECT pid FROM cqrs.stats');
query("SELECT pg_terminate_backend($pid)");
soon(
	sub {
		return query(
			"SELECT count(*) FROM pg_stat_activity WHERE pid <> $pid
			AND backend_type = 'cqrs publisher' AND datname = 'postgres'") == 1;
	},
	'a publisher comes back beside a serializable transaction');
my $stopped = do
{
	local $ENV{PGCTLTIMEOUT} = $LIMIT_S;
	$node->stop('fast', fail_ok => 1);
};
ok($stopped, 'the server stops beside it');
$node->stop('immediate') unless $stopped;
$node->start;
soon(
	sub { workers('publisher', 'postgres') == 1 },
	'and has a publisher when it starts');
query(q{COMMIT PREPARED 'serializable'});
arrives('serializable', 'the transaction is published');
$node->stop;
done_testing();
