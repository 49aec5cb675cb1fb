# Many databases: fewer worker slots than publishers, commands that need a
# database for themselves, templates, databases that take no connections, roles
# without rights, and a library that is replaced under a running server.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use File::Copy;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $DATABASES = 20;
my $LOOPS     = 6;
my $LIMIT_S   = 5;    # of a command that makes a publisher leave

my $broker = RabbitMQ->new('databases');
$broker->start;
my $node = new_master('databases', $broker, conf => <<'END');
max_worker_processes = 8
max_parallel_workers = 0
cqrs.reconnect_delay_max = '500ms'
END
declare_queue($broker, 'replica', 'item');

my $offset = -s $node->logfile;
my $began  = time;
my $SETUP  = q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id serial PRIMARY KEY, data text);
	GRANT SELECT, INSERT, UPDATE, DELETE ON item TO public;
	GRANT USAGE ON SEQUENCE item_id_seq TO public;
	SELECT cqrs_register('item')};

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# The commands that end with a publisher must not leave errors behind.  One that
# was on its way into a database when that was dropped has to end so, and so has
# a session of a writer that was ended in the middle of a statement.  A restart may
# meet autovacuum, or a session that is about to end.
my $EXPECTED =
  qr/database \d+ does not exist|connection to client lost|terminating (?:autovacuum process|connection) due to administrator/;

sub no_errors
{
	my ($what) = @_;
	my @errors =
	  grep { !/$EXPECTED/ }
	  slurp_file($node->logfile, $offset) =~
	  /^(.* (?:ERROR|FATAL|PANIC): .*)$/mg;

	is(join("\n", @errors), '', "no errors in the log: $what");
	$offset = -s $node->logfile;
	return;
}

# Waits until a query is true.
sub wait_until
{
	my ($sql, $database) = @_;

	$node->poll_query_until($database // 'postgres', $sql)
	  or BAIL_OUT("not reached: $sql");
	return;
}

my $PUBLISHERS =
  q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs publisher'};

sub publishers
{
	return query($PUBLISHERS);
}

# Runs a command and expects it to succeed, and soon.
my $slowest = 0;

sub command
{
	my ($sql, $database) = @_;
	my $start = time;
	my ($status, undef, $stderr) = $node->psql($database // 'postgres', $sql);

	is($status, 0, $sql =~ s/\s+/ /gr) or diag($stderr);
	$slowest = time - $start if time - $start > $slowest;
	return;
}

# Expects a command to be refused.
sub refused
{
	my ($sql, $pattern, $what) = @_;

	$node->psql('postgres', $sql, stderr => \my $stderr);
	like($stderr, $pattern, $what);
	return;
}

# A template that has the extension, and databases made of it.
query('CREATE DATABASE pattern IS_TEMPLATE true');
query($SETUP, 'pattern');
my @names = map { "d$_" } 1 .. $DATABASES;
command("CREATE DATABASE $_ TEMPLATE pattern") foreach @names;

# One slot is the launcher's, another one that of logical replication.
wait_until("SELECT ($PUBLISHERS) = 6");
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /no background worker is free for a cqrs publisher/g),
	1,
	'the log says once that there are too few slots');
query(q{SELECT cqrs_resume(); INSERT INTO item (data) VALUES ('x')}, $_)
  foreach @names;
my (@with, @without);
foreach my $name (@names)
{
	push @{
		query('SELECT pid IS NULL FROM cqrs.stats', $name) eq 't'
		? \@without
		: \@with },
	  $name;
}
cmp_ok(scalar(@with),    '>=', 4,  'some databases have a publisher');
cmp_ok(scalar(@without), '>=', 14, 'others have none');
wait_published($node, $_) foreach @with;
is( query(
		q{SELECT status, detail, remedy FROM cqrs_check()
		WHERE item = 'publisher'},
		$without[0]),
	q{error|no publisher runs|look into the server's log; is max_worker_processes (8) large enough?},
	'cqrs_check says why');

# Each that goes makes room for another one.
command("DROP DATABASE $_") foreach @with;
while (@without)
{
	my @done;

	RabbitMQ->poll_until(
		sub {
			@done =
			  grep { query('SELECT pending = 0 FROM cqrs.stats', $_) eq 't' }
			  @without;
		},
		60) or BAIL_OUT("@without: no publisher");
	foreach my $name (@done)
	{
		query('DROP EXTENSION cqrs CASCADE', $name);
		@without = grep { $_ ne $name } @without;
	}
}
is(scalar(drain_queue($broker, 'replica')),
	$DATABASES, 'then what waited is published');
cmp_ok(
	scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /no background worker is free for a cqrs publisher/g),
	'<=',
	1 + int((time - $began) / 60),
	'the log says it once a minute at most, though some were started meanwhile'
);
command("DROP DATABASE $_")
  foreach split /\n/,
  query(q{SELECT datname FROM pg_database WHERE datname ~ '^d\d'});

# Databases come, are renamed, copied and dropped, while others write.  A writer may
# end in a deadlock with DROP EXTENSION, and tries again.
sub start_load
{
	my ($database) = @_;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/load_$database.sql";

	append_to_file($script, <<'END');
BEGIN;
INSERT INTO item (data) VALUES ('load');
UPDATE item SET data = 'load' WHERE id = (SELECT min(id) FROM item);
COMMIT;
END
	return IPC::Run::start(
		[   'pgbench', '-n', '-f', $script, '-c', 2, '-R', 150, '-T', 600,
			'--max-tries=10', '-d', $node->connstr($database) ],
		'<',
		'/dev/null',
		'>&',
		"$PostgreSQL::Test::Utils::log_path/load_$database.log");
}

sub stop_load
{
	my ($load, $database) = @_;

	$load->signal('TERM');
	$load->finish;
	wait_until(
		q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE application_name = 'pgbench'});
	unlike(
		slurp_file("$PostgreSQL::Test::Utils::log_path/load_$database.log"),
		qr/ERROR|FATAL/, "no writer in $database has failed");
	return;
}

query($SETUP =~ s/CREATE EXTENSION cqrs;//r);
no_errors('too few worker slots');
my $load = start_load('postgres');
wait_until(q{SELECT confirmed > 0 FROM cqrs.stats});
$slowest = 0;
foreach my $i (1 .. $LOOPS)
{
	command('CREATE DATABASE w');
	command($SETUP,                                  'w');
	command(q{INSERT INTO item (data) VALUES ('w')}, 'w');
	wait_published($node, 'w') if $i % 2;
	command('ALTER DATABASE w RENAME TO v');
	command('CREATE DATABASE u TEMPLATE v');
	command('DROP EXTENSION cqrs CASCADE', 'v');
	command('DROP DATABASE v');
	command('DROP EXTENSION cqrs CASCADE', 'u') if $i % 3;
	command('DROP DATABASE u');
}
cmp_ok($slowest, '<', $LIMIT_S, 'without delay');
note sprintf 'the slowest command: %.1f s', $slowest;
stop_load($load, 'postgres');
wait_published($node);
my %seen;
$seen{"$_->{body}{instance_pk} $_->{body}{instance_data}{cqrs_revision}"} = 1
  foreach grep { $_->{body}{instance_data}{data} eq 'load' }
  drain_queue($broker, 'replica');
my @lost = grep { !$seen{$_} } split /\n/, query(
	q{SELECT concat_ws(' ', id, revision)
	FROM item, generate_series(0, cqrs_revision) revision});
is(join(',', @lost), '', 'meanwhile nothing of the others is lost');
is( scalar(keys %seen),
	query('SELECT sum(cqrs_revision + 1) FROM item'),
	'or invented');

no_errors('databases come and go');

# The extension goes and comes under the writers of its database.
query('CREATE DATABASE busy');
query($SETUP, 'busy');
$load = start_load('busy');
foreach my $i (1 .. $LOOPS)
{
	wait_until(q{SELECT confirmed > 0 FROM cqrs.stats}, 'busy');
	command('DROP EXTENSION cqrs CASCADE',                          'busy');
	command(q{CREATE EXTENSION cqrs; SELECT cqrs_register('item')}, 'busy');
}
stop_load($load, 'busy');
wait_published($node, 'busy');
no_errors('the extension goes and comes');
query('DROP DATABASE busy');

# The default template with the extension.
query($SETUP, 'template1');
wait_until("SELECT EXISTS ($PUBLISHERS AND datname = 'template1')" =~
	  s/count\(\*\)/1/r);
foreach my $name (qw(t1 t2 t3))
{
	command("CREATE DATABASE $name");
	query(q{SELECT cqrs_resume(); INSERT INTO item (data) VALUES ('copy')},
		$name);
	wait_published($node, $name);
}
query(q{DROP EXTENSION cqrs CASCADE; DROP TABLE item}, 'template1');
drain_queue($broker, 'replica');
no_errors('the default template');

# Roles without rights.
query('CREATE ROLE nobody_special; CREATE ROLE creator CREATEDB');
my $pid = query('SELECT pid FROM cqrs.stats', 't1');
foreach my $command (
	'DROP DATABASE t1',
	'ALTER DATABASE t1 RENAME TO t0',
	'ALTER DATABASE t1 SET TABLESPACE pg_default',
	'CREATE DATABASE t0 TEMPLATE t1',
	'DROP EXTENSION cqrs CASCADE')
{
	my $role = $command =~ /^CREATE/ ? 'creator' : 'nobody_special';
	refused(
		"SET ROLE $role; $command",
		qr/permission denied|must be owner/,
		"$role may not: $command");
}
is(query('SELECT pid FROM cqrs.stats', 't1'),
	$pid, 'and does not disturb the publisher');
query('SET ROLE nobody_special; INSERT INTO item (data) VALUES (1)', 't1');
wait_published($node, 't1');
is(scalar(drain_queue($broker, 'replica')),
	1, 'the writes of a role without rights are published');
query('ALTER DATABASE t1 OWNER TO creator');
command('SET ROLE creator; ALTER DATABASE t1 RENAME TO t0');
command('SET ROLE creator; DROP DATABASE t0');

# A database that takes no connections: its publisher goes on, and is not
# started again.
$offset = -s $node->logfile;
command('ALTER DATABASE t2 ALLOW_CONNECTIONS false');
my $own = query('SELECT pid FROM cqrs.stats');
foreach my $name ('t2', 'postgres')
{
	query(
		qq{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = 'cqrs publisher' AND datname = '$name'});
}

# When the second one is back, the first one's time has been.
wait_until("SELECT state = 'publishing' AND pid <> $own FROM cqrs.stats");
query(q{INSERT INTO item (data) VALUES ('meanwhile')});
wait_published($node);
$node->restart;
wait_until("SELECT ($PUBLISHERS) >= 2");
no_errors('a database that takes no connections');
command('ALTER DATABASE t2 ALLOW_CONNECTIONS true');
query(q{INSERT INTO item (data) VALUES ('again')}, 't2');
wait_published($node, 't2');

# Another library is put in place, as packages do it: by a rename.
my $library = `pg_config --pkglibdir` =~ s/\n\z//r . '/cqrs.so';
SKIP:
{
	skip "$library cannot be replaced", 1 unless -w dirname($library);
	my $old     = "$library.old";
	my $content = slurp_file($library);

	# Of the same length, and to be seen in pg_stat_activity.
	my ($before, $after) = ('reading the outbox', 'READING THE OUTBOX');
	$content =~ s/$before/$after/
	  or BAIL_OUT('the library cannot be changed');
	copy($library, $old) or BAIL_OUT("could not keep the library: $!");
	append_to_file("$library.new", $content);
	rename "$library.new", $library or BAIL_OUT("not replaced: $!");

	my $load = start_load('postgres');
	query(
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type LIKE 'cqrs%'});
	wait_until(
		"SELECT state = 'publishing' AND confirmed > 0 FROM cqrs.stats");
	command('CREATE DATABASE t4 TEMPLATE template0');
	command($SETUP,                                   't4');
	command(q{INSERT INTO item (data) VALUES ('t4')}, 't4');
	wait_published($node, 't4');
	stop_load($load, 'postgres');
	wait_published($node);
	no_errors('the library is replaced');

	$node->restart;
	query(q{INSERT INTO item (data) VALUES ('new')}, 't4');
	wait_published($node, 't4');
	is( query(
			qq{SELECT DISTINCT query FROM pg_stat_activity
			WHERE backend_type = 'cqrs publisher' AND datname = 't4'}),
		$after,
		'a restart brings the new one');
	rename $old, $library or BAIL_OUT("the library is not back: $!");
}

$node->stop;
done_testing();
