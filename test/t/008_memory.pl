# Memory of the publisher, and disk space of the outbox, do not grow with what
# passes through them.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $BATCH    = 50_000;
my $BATCHES  = 4;
my $LIMIT_KB = 4 * 1024;

my $broker = RabbitMQ->new('memory');
$broker->start;
my $node = new_master('memory', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id serial PRIMARY KEY, name text, data text);
	SELECT cqrs_register('author')});
declare_queue($broker, 'replica', 'author');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Memory of the publisher itself, without what it shares with other processes:
# it touches more and more of the buffer cache.
sub private_kb
{
	my $pid    = query('SELECT pid FROM cqrs.stats');
	my $status = slurp_file("/proc/$pid/status");
	my ($anon) = $status =~ /^RssAnon:\s+(\d+) kB/m;
	note join ', ', $status =~ /^(Rss\w+:\s+\d+ kB)/mg;
	return $anon;
}

# A session that holds a snapshot all the time.
my ($in, $out, $err) = ('', '', '');
my $holder = open_psql($node, \$in, \$out, \$err);
$in .=
  "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) || ' held' FROM author;\n";
$holder->pump until $out =~ /held/ or $err;
is($err, '', 'a snapshot is held');

my @memory;
foreach my $batch (1 .. $BATCHES)
{
	query(
		qq{INSERT INTO author (name, data)
			SELECT 'name ' || i, repeat('x', 50)
			FROM generate_series(1, $BATCH) i});
	wait_published($node);
	push @memory, private_kb();
	$broker->ctl('purge_queue', 'replica');
}
is( query('SELECT confirmed FROM cqrs.stats'),
	$BATCH * $BATCHES,
	'everything was published');
cmp_ok($memory[-1] - $memory[0],
	'<', $LIMIT_KB,
	'the publisher does not grow: ' . join(' ', @memory) . ' kB');

# Dead rows are counted by sessions when they go idle or end.
is( query(
		q{SELECT coalesce(sum(pg_stat_get_dead_tuples(c.oid)), 0)
		FROM pg_class c WHERE relnamespace = 'cqrs'::regnamespace
			AND relkind IN ('r', 'S', 't')}),
	0,
	'no dead rows in the outbox under a held snapshot');

$in .= "COMMIT;\n\\q\n";
$holder->finish;

ok( $node->poll_query_until(
		'postgres', q{
		SELECT sum(pg_relation_size(oid)) < 1024 * 1024
		FROM pg_class WHERE relname ~ '^segment_[0-9]$'
			AND relnamespace = 'cqrs'::regnamespace}),
	'the segments of the outbox are emptied');

# As much memory for large messages as the setting allows, and a little.
$node->safe_psql('postgres',
	q{ALTER SYSTEM SET cqrs.confirm_window_size = '2MB'});
$node->reload;
$node->safe_psql(
	'postgres',
	q{INSERT INTO author (name, data)
		SELECT 'large', repeat('x', 100000) FROM generate_series(1, 500)});
wait_published($node);
cmp_ok(private_kb() - $memory[-1],
	'<', 8 * 1024, 'large messages are not all held in memory');

$node->stop;
done_testing();
