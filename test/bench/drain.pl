# Drain rate against a bare librabbitmq loop with the same bodies and window,
# and what capture adds to a large INSERT: interleaved runs, medians.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $ROWS   = $ENV{BENCH_ROWS} // 100_000;
my $RUNS   = $ENV{BENCH_RUNS} // 3;
my $WINDOW = 2000;
my $BARE   = $ENV{CQRS_BARE_PUBLISHER}
  or die 'CQRS_BARE_PUBLISHER is not set; use "make bench"';

my $broker = RabbitMQ->new('bench', schedulers => 2);
$broker->start;
my $node = new_master('bench', $broker);
declare_queue($broker, 'bench', '#');

my $columns = q{id int PRIMARY KEY, a int, b text, c text, d numeric,
	e timestamptz, f boolean, g uuid,
	cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now()};
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE plain ($columns);
	CREATE TABLE master ($columns);
	SELECT cqrs_register('master');
	SELECT cqrs_pause()});

my %seconds;
my %rate;
my $bodies = "$PostgreSQL::Test::Utils::tmp_check/bodies";
foreach my $run (0 .. $RUNS)
{
	foreach my $table (qw(plain master))
	{
		$node->safe_psql('postgres', "CHECKPOINT");
		my $start = time;
		$node->safe_psql(
			'postgres',
			qq{INSERT INTO $table SELECT i, i * 2, 'name ' || i, repeat('x', 120),
				i / 7.0, now(), true, '11111111-2222-3333-4444-555555555555'
				FROM generate_series(1, $ROWS) i});
		push @{ $seconds{$table} }, time - $start if $run > 0;
	}
	append_to_file($bodies,
		$node->safe_psql('postgres', 'SELECT body FROM cqrs.outbox') . "\n")
	  if $run == 0;

	my $bare = '';
	IPC::Run::run(
		[ $BARE, '127.0.0.1', $broker->port, 'cqrs', 'master', $WINDOW ],
		'<', $bodies, '>', \$bare)
	  or die "bare publisher failed";
	push @{ $rate{bare} }, (split ' ', $bare)[2] if $run > 0;
	$broker->ctl('purge_queue', 'bench');

	my $start = time;
	$node->safe_psql('postgres', 'SELECT cqrs_resume()');
	wait_published($node);
	push @{ $rate{cqrs} }, $ROWS / (time - $start) if $run > 0;
	$broker->ctl('purge_queue', 'bench');

	$node->safe_psql(
		'postgres', q{
		SET cqrs.produce = off;
		DELETE FROM plain;
		DELETE FROM master});
	$node->safe_psql('postgres', 'VACUUM plain, master');
	$node->safe_psql('postgres', 'SELECT cqrs_pause()');
}

my %median = map { $_ => median(@{ $seconds{$_} // $rate{$_} }) }
  qw(plain master bare cqrs);
note sprintf('%d rows, %d runs, medians', $ROWS, $RUNS);
note sprintf('INSERT: plain %.2f s, master %.2f s, %.2f us a row added',
	$median{plain}, $median{master},
	($median{master} - $median{plain}) / $ROWS * 1e6);
note
  sprintf(
	'drain into a bound durable queue: %.0f messages/s, bare loop %.0f, ratio %.2f',
	$median{cqrs}, $median{bare}, $median{cqrs} / $median{bare});
note sprintf(
	'  runs: cqrs %s; bare %s',
	join(' ', map { int } @{ $rate{cqrs} }),
	join(' ', map { int } @{ $rate{bare} }));

is($node->safe_psql('postgres', 'SELECT pending FROM cqrs.stats'),
	'0', 'everything was published');
$node->stop;
done_testing();

sub median
{
	my @sorted = sort { $a <=> $b } @_;

	return $sorted[ $#sorted / 2 ];
}
