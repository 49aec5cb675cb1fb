# Committed changes arrive at the broker: properties, bodies, order, counters.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

my $broker = RabbitMQ->new('publish');
$broker->start;
my $node = new_master('publish', $broker,
	init => [ extra => [ '--encoding=UTF8', '--locale=C' ] ]);

ok( $node->poll_query_until(
		'postgres',
		q{SELECT array_agg(DISTINCT backend_type ORDER BY backend_type) =
			'{cqrs launcher,cqrs publisher}'
		FROM pg_stat_activity WHERE backend_type LIKE 'cqrs%'}),
	'CREATE EXTENSION starts the publisher');
wait_for_state($node, 'publishing');

$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE book (isbn text PRIMARY KEY, title text);
	SELECT cqrs_register('author');
	SELECT cqrs_register('book', cqrs_id => 'tome',
		tracked_fields => '{title}')});
my $consumer = start_consumer($broker, 'replica', 'author', 'tome');

# Messages as they are, field by field.
my $seen = 0;
my $psql_before;

# Runs SQL and returns the messages that it has to cause, so many.
sub published
{
	my ($count, $sql) = @_;

	$psql_before = time;
	$node->safe_psql('postgres', $sql);
	my @all = wait_for_messages($consumer, $seen + $count);
	my @new = @all[ $seen .. $#all ];
	is(scalar(@new), $count, "$count messages");
	$seen = @all;
	return @new;
}

my $updated = qr/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{6})?\+00:00/;
my $expires = qr/(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\+00:00/;

my ($save) = published(
	1, q{
	BEGIN;
	SET LOCAL cqrs.correlation_id = 'request 1';
	INSERT INTO author VALUES (1, U&'Ada "the first" \0141');
	COMMIT});
is($save->{exchange},    'cqrs',   'exchange');
is($save->{routing_key}, 'author', 'routing key is the cqrs_id');
is_deeply(
	[ sort keys %{ $save->{properties} } ],
	[qw(content_type correlation_id delivery_mode message_id timestamp)],
	'which properties are set');
is($save->{properties}{content_type},   'text/plain', 'content type');
is($save->{properties}{delivery_mode},  2,            'persistent');
is($save->{properties}{correlation_id}, 'request 1',  'correlation id');
cmp_ok($save->{properties}{timestamp},
	'>=', int($psql_before), 'timestamp is not too early');
cmp_ok($save->{properties}{timestamp}, '<=', time, 'timestamp is past');
like(
	$save->{raw},
	qr/^\{"signal_type":"SAVE","cqrs_id":"author","instance_data":\{"id":1,"name":"Ada \\"the first\\" \x{141}","cqrs_revision":0,"cqrs_updated":"$updated"\},"previous_data":null,"instance_pk":1,"correlation_id":"request 1","retries":0,"expires":"$expires","meta":\{\}\}$/,
	'body of a SAVE, with its keys in order');
my @expires = $save->{body}{expires} =~ $expires;
my $published_at =
  timegm(@expires[ 5, 4, 3, 2 ], $expires[1] - 1, $expires[0]) - 86400;
cmp_ok($published_at, '>=', int($psql_before),
	'expires a day after publishing');
cmp_ok($published_at, '<=', time, 'expires not later than that');

my ($update) = published(1, q{UPDATE author SET name = 'Grace' WHERE id = 1});
is($update->{body}{signal_type},                  'SAVE',  'signal');
is($update->{body}{instance_data}{cqrs_revision}, 1,       'revision');
is($update->{body}{instance_data}{name},          'Grace', 'new value');
is($update->{body}{correlation_id}, undef, 'no correlation id in the body');
ok(!exists $update->{properties}{correlation_id},
	'and none in the properties');

my ($tracked) = published(1, q{INSERT INTO book VALUES ('x1', 'Notes')});
is($tracked->{routing_key},       'tome', 'routing key of a named master');
is($tracked->{body}{instance_pk}, 'x1',   'text as a key');
is_deeply(
	$tracked->{body}{previous_data},
	{ title => undef },
	'previous data of an insert');
($tracked) = published(1, q{UPDATE book SET title = 'More'});
is_deeply(
	$tracked->{body}{previous_data},
	{ title => 'Notes' },
	'previous data of an update');

my ($broadcast, $direct) = published(
	2, q{
	SELECT cqrs_sync('author');
	SELECT cqrs_sync('author', 'id = 1', 'replica')});
is($broadcast->{routing_key}, 'author', 'routing key of a broadcast SYNC');
is($direct->{routing_key},
	'cqrs.replica.author', 'routing key of a SYNC to one queue');
foreach my $sync ($broadcast, $direct)
{
	is($sync->{body}{signal_type}, 'SYNC', 'signal of a SYNC');
	is_deeply(
		$sync->{body}{instance_data},
		$update->{body}{instance_data},
		'a SYNC has the row as it is');
}

my ($delete) = published(1, q{DELETE FROM author WHERE id = 1});
is($delete->{routing_key}, 'author', 'routing key of a DELETE');
like(
	$delete->{raw},
	qr/^\{"signal_type":"DELETE","cqrs_id":"author","instance_data":\{"id":1,"cqrs_revision":2,"cqrs_updated":"$updated"\},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"$expires","meta":\{\}\}$/,
	'body of a DELETE');

# What is rolled back is not sent; the insert at the end marks the place up to
# which nothing else may arrive.
my ($mark) = published(
	1, q{
	BEGIN; INSERT INTO author VALUES (2, 'rolled back'); ROLLBACK;
	BEGIN;
	INSERT INTO author VALUES (3, 'mark');
	SAVEPOINT s;
	INSERT INTO author VALUES (4, 'rolled back');
	UPDATE author SET name = 'rolled back';
	ROLLBACK TO s;
	COMMIT});
is($mark->{body}{instance_data}{name},
	'mark', 'only what was committed is sent');

# Messages of one transaction in the order of the changes.
my @ordered = published(
	10, q{
	INSERT INTO author SELECT i, 'x' FROM generate_series(20, 11, -1) i});
is_deeply(
	[ map { $_->{body}{instance_pk} } @ordered ],
	[ reverse 11 .. 20 ],
	'messages of a transaction are in the order of its changes');

# A commit wakes the publisher.
my @delays;
foreach my $i (1 .. 20)
{
	my $start = time;
	$node->safe_psql('postgres', "INSERT INTO book VALUES ('fast $i', 'x')");
	wait_for_messages($consumer, $seen + $i);
	push @delays, time - $start;
}
my $median = (sort { $a <=> $b } @delays)[10];
cmp_ok($median, '<', 0.5, 'commits one at a time arrive at once');
$seen += 20;

# Counters.
wait_published($node);
is( $node->safe_psql(
		'postgres', q{
		SELECT datname, state, published, confirmed, returned, nacked, pending,
			connects, reconnects, errors, last_error,
			oldest_pending_age IS NULL, connected_at > started_at,
			pid = (SELECT pid FROM pg_stat_activity
				WHERE backend_type = 'cqrs publisher')
		FROM cqrs.stats}),
	"postgres|publishing|$seen|$seen|0|0|0|1|0|0||t|t|t",
	'cqrs.stats');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.outbox'),
	0, 'the outbox is empty');

my %ids;
$ids{ $_->{properties}{message_id} }++ foreach messages($consumer);
is(scalar(keys %ids), $seen, 'each message has an id of its own');

# No queue is bound for this one.
my $offset = -s $node->logfile;
$node->safe_psql(
	'postgres', q{
	CREATE TABLE nobody (id int PRIMARY KEY);
	SELECT cqrs_register('nobody');
	INSERT INTO nobody SELECT generate_series(1, 3)});
wait_published($node);
is( $node->safe_psql(
		'postgres', 'SELECT returned, published - confirmed FROM cqrs.stats'),
	'3|0',
	'messages without a queue are counted as returned');
my $log = slurp_file($node->logfile, $offset);
is( scalar(
		() =
		  $log =~ /no queue is bound for messages with routing key "nobody"/g
	),
	1,
	'and logged once');

# Pausing.
$node->safe_psql('postgres', 'SELECT cqrs_pause()');
wait_for_state($node, 'paused');
$node->safe_psql('postgres', q{INSERT INTO book VALUES ('paused', 'x')});
is($node->safe_psql('postgres', 'SELECT state, pending FROM cqrs.stats'),
	'paused|1', 'while paused, messages wait');
is( $node->safe_psql(
		'postgres',
		q{SELECT cqrs_id, signal_type, instance_pk FROM cqrs.outbox}),
	'tome|SAVE|"paused"',
	'and can be seen in cqrs.outbox');
my ($paused) = published(1, 'SELECT cqrs_resume()');
is($paused->{body}{instance_pk}, 'paused', 'they are sent after cqrs_resume');

# COMMIT PREPARED, by another session than the one that made the changes.
$node->safe_psql(
	'postgres', q{
	BEGIN;
	INSERT INTO book VALUES ('prepared', 'x');
	PREPARE TRANSACTION 'p'});
wait_published($node);
my $start = time;
my ($prepared) = published(1, q{COMMIT PREPARED 'p'});
is($prepared->{body}{instance_pk},
	'prepared', 'COMMIT PREPARED wakes the publisher');
cmp_ok(time - $start, '<', 5, 'without delay');

stop_consumer($consumer);
$node->stop;

# Without the preload nothing could be published, and that is said.
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->start;
my ($status, undef, $stderr) =
  $plain->psql('postgres', 'CREATE EXTENSION cqrs');
isnt($status, 0, 'CREATE EXTENSION fails without the preload');
like(
	$stderr,
	qr/ERROR:.*shared_preload_libraries/s,
	'and says what to preload');
$plain->stop;

done_testing();
