# cqrs_sync_all: batches, throttling, progress, interruption.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('syncall');
$broker->start;
my $node = new_master('syncall', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	INSERT INTO author SELECT i, 'x' FROM generate_series(1, 10000) i;
	ANALYZE author;
	SELECT cqrs_register('author')});
my $consumer = start_consumer($broker, 'replica', 'author');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Begins a call in the background.
sub start_call
{
	my ($call) = @_;
	my %session = (out => '');

	$session{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $call ],
		'<', '/dev/null', '>', \$session{out}, '2>&1');
	return \%session;
}

sub keys_of
{
	return join ',', sort { $a <=> $b } map { $_->{body}{instance_pk} } @_;
}

# All rows, each once; far more batches than may wait.
my ($result, $stdout, $stderr) =
  $node->psql('postgres', q{CALL cqrs_sync_all('author', batch_size => 700)});
is($result, 0, 'all rows are sent') or diag($stderr);
like(
	$stderr,
	qr{NOTICE:  master "author": 10000 rows in [\d.]+ s, \d+ rows/s$}m,
	'a notice at the end');
my @messages = wait_for_messages($consumer, 10000);
is(keys_of(@messages), join(',', 1 .. 10000), 'each row once');
is((grep { $_->{body}{signal_type} ne 'SYNC' } @messages), 0, 'as SYNC');

# While nothing is published, two batches wait and no more.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
my $call =
  start_call(q{CALL cqrs_sync_all('author', 'id > 1000', batch_size => 100)});
$node->poll_query_until(
	'postgres', q{SELECT phase = 'waiting for the publisher'
	AND rows_processed = 200 FROM cqrs.progress_sync}
) or BAIL_OUT('the call does not wait');
is(query('SELECT pending FROM cqrs.stats'), 200, 'two batches are pending');
is( query(
		q{SELECT command, relid::regclass, datname,
		rows_estimated BETWEEN 8000 AND 10000 FROM cqrs.progress_sync}),
	'sync|author|postgres|t',
	'progress');
is( query(
		q{SELECT backend_xmin IS NULL AND backend_xid IS NULL
		FROM pg_stat_activity JOIN cqrs.progress_sync USING (pid)}),
	't',
	'it waits without a snapshot');
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM cqrs.progress_sync})
  or BAIL_OUT('the call has ended');
$call->{run}->pump until $call->{out} =~ /\n/;
like(
	$call->{out},
	qr{^NOTICE:  master "author": 200 rows of about \d+ \(2 %\), \d+ s to go, \d+ rows/s, up to 1200, waiting for the publisher$}m,
	'a notice while it waits');

# Interrupted, it can go on from the key that it told.
query(q{SELECT pg_cancel_backend(pid) FROM cqrs.progress_sync});
$call->{run}->finish;
like($call->{out}, qr/canceling statement/, 'it can be cancelled');
is(query('SELECT count(*) FROM cqrs.progress_sync'),
	0, 'no progress is left behind');
query('SELECT cqrs_resume()');
query(
	q{CALL cqrs_sync_all('author', 'id > 1000', batch_size => 3000,
	after => '1200')});
@messages = wait_for_messages($consumer, 19000);
is( keys_of(@messages[ 10000 .. $#messages ]),
	join(',', 1001 .. 10000),
	'the rest is sent');

# What changes between two batches is seen by the next.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
$call = start_call(q{CALL cqrs_sync_all('author', batch_size => 2000)});
$node->poll_query_until('postgres',
	q{SELECT phase = 'waiting for the publisher' FROM cqrs.progress_sync})
  or BAIL_OUT('the call does not wait');
query(
	q{SELECT cqrs_unregister('author');
	ALTER TABLE author ALTER COLUMN id TYPE bigint;
	SELECT cqrs_register('author');
	SELECT cqrs_resume()});
$call->{run}->finish;
like(
	$call->{out},
	qr/ERROR:  primary key of table "author" has changed while its rows were sent/,
	'another key');

stop_consumer($consumer);
$node->stop;
done_testing();
