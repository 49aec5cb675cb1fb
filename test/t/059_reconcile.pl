# A replica on another server than its master is loaded and compared: the
# pipelines of docs/replicas.md, a load while messages are applied, and rows
# that failed messages would bring back (I27).
use strict;
use warnings;

use Cwd qw(abs_path);
use CqrsTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $ROWS = 20000;

my $broker = RabbitMQ->new('reconcile');
$broker->start;
my $master  = new_master('reconcile_master',  $broker);
my $replica = new_master('reconcile_replica', $broker);
$master->safe_psql(
	'postgres', qq{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	INSERT INTO author SELECT i, 'näme "\\' || i FROM generate_series(1, $ROWS) i}
);
wait_published($master);

# What is set back is noted.
$replica->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	CREATE TABLE backwards (id int);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.cqrs_revision < OLD.cqrs_revision THEN
			INSERT INTO public.backwards VALUES (NEW.id);
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER note BEFORE UPDATE ON author FOR EACH ROW EXECUTE FUNCTION note();
	SELECT cqrs_consume('shop')});
wait_consumer($replica, 'postgres', 'consuming');

# A script of the shell, with both servers as the documentation calls them.
sub run_shell
{
	my ($script) = @_;
	my ($out, $err);
	my $master_at  = $master->connstr('postgres');
	my $replica_at = $replica->connstr('postgres');
	my $dir        = PostgreSQL::Test::Utils::tempdir();

	$script = <<"END_SCRIPT" . $script;
cd $dir
psql() {
	local at="$master_at"
	if [ "\$1" = replica ]; then at="$replica_at"; fi
	shift
	command psql -X -v ON_ERROR_STOP=1 -d "\$at" "\$@"
}
END_SCRIPT
	IPC::Run::run([ 'bash', '-e', '-u', '-o', 'pipefail' ],
		'<', \$script, '>', \$out, '2>', \$err)
	  or BAIL_OUT("script failed: $err");
	return $out;
}

# The scripts of the documentation, in their order.
my $document =
  slurp_file(abs_path(dirname(__FILE__) . '/../../docs/replicas.md'));
my ($section) =
  $document =~ /^## First load and comparison\n(.*?)(?=^## |\z)/ms
  or BAIL_OUT('the section is gone');
my ($first_load, $compare) = $section =~ /^```sh norun\n(.*?)^```/msg;

# All rows of both, with their revisions.
sub rows
{
	return $_[0]->safe_psql('postgres',
		q{SELECT md5(string_agg(format('%s %s %s', id, name, cqrs_revision), ',' ORDER BY id)) || ' ' || count(*) FROM author}
	);
}

# The first load, while the master writes and the consumer applies: rows are
# newer than the dump, and older ones come after them.
my $dump =
  run_shell(
	"psql master -Atc \"SELECT cqrs_bulk_dump('author')\" > dump; pwd");
chomp $dump;
my $script = PostgreSQL::Test::Utils::tempdir() . '/writes.sql';
append_to_file($script, <<"END_SCRIPT");
\\set id random(1, $ROWS)
UPDATE author SET name = name || 'x' WHERE id = :id;
END_SCRIPT

sub start_writers
{
	return IPC::Run::start(
		[   'pgbench', '-n', '-c', 4, '-T', 600, '-f', $script,
			$master->connstr('postgres') ],
		'>',
		\my $out,
		'2>',
		\my $err);
}

# No more writes, and the consumer has applied all.
sub settle
{
	my ($writers) = @_;

	$writers->signal('TERM');
	$writers->finish;
	wait_published($master);
	$broker->poll_until(sub { $broker->queue_length('shop') == 0 }, 120)
	  or BAIL_OUT('the queue is not empty');
	wait_consumer($replica, 'postgres', 'waiting = 0 AND dead = 0');
	return;
}

my $writers = start_writers();
wait_consumer($replica, 'postgres', 'inserted > 1000');
is( $replica->safe_psql('postgres',
		"CALL cqrs_bulk_load('$dump/dump', batch => 1000)") =~
	  s/^(\d+)\|(\d+)\|/$1 + $2 . '|'/er,
	"$ROWS|0|",
	'all lines are loaded or found to be there');
my $loaded = $replica->safe_psql('postgres',
	'SELECT inserted + updated FROM cqrs.consumer_stats');
wait_consumer($replica, 'postgres', "inserted + updated > $loaded");
settle($writers);
is(rows($replica), rows($master), 'the load has set nothing back');
is($replica->safe_psql('postgres', 'SELECT count(*) FROM backwards'),
	'0', 'not even for a moment');
cmp_ok(
	$replica->safe_psql(
		'postgres', 'SELECT inserted FROM cqrs.consumer_stats'),
	'>', 1000,
	'the consumer has inserted rows before the load did');

# Differences, mended by the pipelines.
$replica->safe_psql(
	'postgres', q{
	DELETE FROM author WHERE id IN (1, 2);
	UPDATE author SET name = 'wrong', cqrs_revision = 1000 WHERE id BETWEEN 10 AND 20;
	UPDATE author SET name = 'old', cqrs_revision = -1 WHERE id BETWEEN 30 AND 40;
	INSERT INTO author SELECT i, 'gone', 0, '2026-11-01' FROM generate_series(100001, 112000) i;
	TRUNCATE backwards});
isnt(rows($replica), rows($master), 'rows differ');
is(run_shell($compare), "24\n12000\n", 'both pipelines');
wait_published($master);
$broker->poll_until(sub { $broker->queue_length('shop') == 0 }, 120)
  or BAIL_OUT('the queue is not empty');
is(rows($replica), rows($master), 'then they are alike');
like(run_shell($compare), qr/^0\n0?\n?$/, 'nothing differs any more');

# SAVEs fail and wait, and the DELETEs are lost: of a row that the replica has,
# and of one that it never had.
$replica->safe_psql('postgres',
	q{ALTER TABLE author ADD CONSTRAINT good CHECK (name <> 'bad')});
$master->safe_psql('postgres',
	q{UPDATE author SET name = 'bad' WHERE id = 77; INSERT INTO author VALUES (200000, 'bad')}
);
wait_consumer($replica, 'postgres', 'waiting = 2');
$replica->safe_psql('postgres', 'SELECT cqrs_pause_consumer()');
wait_consumer($replica, 'postgres', 'paused');
$master->safe_psql('postgres', 'DELETE FROM author WHERE id IN (77, 200000)');
wait_published($master);
$broker->ctl('purge_queue', 'shop');
$replica->safe_psql('postgres', 'SELECT cqrs_resume_consumer()');
wait_consumer($replica, 'postgres', 'consuming');
is(run_shell($compare), "0\n1\n", 'a row that has a failed message');
is( $replica->safe_psql(
		'postgres',
		q{SELECT cqrs_deleted_sync_replica(ARRAY['author,' || now(), '[200000]'])}
	),
	'0',
	'a failed message without a row');
$replica->safe_psql('postgres',
	'ALTER TABLE author DROP CONSTRAINT good; SELECT cqrs_retry_failed()');
wait_consumer($replica, 'postgres', 'waiting = 0 AND dead = 0');
is(rows($replica), rows($master), 'no retry brings the rows back');

# From the start, by the documentation's script, while the master writes: the
# queue is bound before the dump, though nothing is consumed yet.
$replica->safe_psql('postgres', 'SELECT cqrs_stop_consuming(true)');
$replica->poll_query_until('postgres',
	'SELECT NOT EXISTS (SELECT FROM cqrs.consumer)')
  or BAIL_OUT('the queue is not dropped');
$replica->safe_psql('postgres', 'DELETE FROM author');
my ($bind, $load) =
  $first_load =~
  /^(.*?)^# when cqrs.consumer_stats has the state "paused".*?\n(.*)/ms
  or BAIL_OUT('the script does not wait');
$writers = start_writers();
run_shell($bind);
wait_consumer($replica, 'postgres', 'paused');
run_shell($load);
wait_consumer($replica, 'postgres', 'consuming');
settle($writers);
is(rows($replica), rows($master), 'first load by the script');

$replica->stop;
$master->stop;
$broker->stop;
done_testing();
