# The memory of a publisher to Redis, and of a connection that consumes from it,
# does not grow with what passes through them.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Redis;
use Test::More;
use TransportTest;

my $BATCH    = 50_000;
my $BATCHES  = 6;
my $LIMIT_KB = 4 * 1024;

my $broker = Redis->new('memory', config => 'appendfsync no');
$broker->start;
my $node  = new_master('memory', $broker);
my $plain = start_node($broker->url);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id serial PRIMARY KEY, name text, data text);
	SELECT cqrs_register('author')});
$broker->bind('replica', 'author');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Memory of a process itself, without what it shares with others.
sub private_kb
{
	my ($pid)  = @_;
	my ($anon) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return $anon;
}

# The session of the reader, whose connection lasts.
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($plain, \$in, \$out, \$err);

sub ask
{
	my ($sql) = @_;

	$out = '';
	$in .= "$sql;\n\\echo the end\n";
	$session->pump until $out =~ s/^the end\n//m or $err ne '';
	is($err, '', 'no error')                     or BAIL_OUT($err);
	chomp $out;
	return $out;
}

my $reader = ask('SELECT pg_backend_pid()');
ask('SET client_min_messages = warning; ' . join(
		'; ',
		map {
			my ($name, @arguments) = split / \| /;
			"SELECT t_$name(" . join(', ', @arguments) . ')'
		} consumer(0),
		q{subscribe | 0 | 'replica' | 1000}));

my (@publisher_kb, @reader_kb);
foreach my $batch (1 .. $BATCHES)
{
	query(
		qq{INSERT INTO author (name, data)
			SELECT 'name ' || i, repeat('x', 50)
			FROM generate_series(1, $BATCH) i});
	wait_published($node);
	ask(qq{DO \$\$
		DECLARE
			event text;
			last int := ($batch - 1) * $BATCH;
		BEGIN
			WHILE last < $batch * $BATCH LOOP
				event := t_next(0, $WAIT);
				CONTINUE WHEN event = 'subscribed';
				IF event !~ format('^delivery %s ', last + 1) THEN
					RAISE 'not the next one: %', event;
				END IF;
				last := last + 1;
				IF last % 100 = 0 THEN
					PERFORM t_acknowledge(0, last);
				END IF;
			END LOOP;
		END \$\$});
	push @publisher_kb, private_kb(query('SELECT pid FROM cqrs.stats'));
	push @reader_kb,    private_kb($reader);
}
is( query('SELECT confirmed FROM cqrs.stats'),
	$BATCH * $BATCHES,
	'everything was published');
cmp_ok($publisher_kb[-1] - $publisher_kb[0],
	'<', $LIMIT_KB,
	'the publisher does not grow: ' . join(' ', @publisher_kb) . ' kB');
cmp_ok($reader_kb[-1] - $reader_kb[0],
	'<', $LIMIT_KB,
	'the reader does not grow: ' . join(' ', @reader_kb) . ' kB');
ask(q{SELECT t_close(0, true)});
cmp_ok(ask('SELECT t_memory()'), '<', 10_000, 'no delivery is left');
is($broker->queue_length('replica'), 0, 'everything is acknowledged');

$in .= "\\q\n";
$session->finish;
done_testing();
