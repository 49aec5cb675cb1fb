# Redis: messages that replicas of the server have to have.
use strict;
use warnings;

use CqrsTest;
use RabbitMQ;
use Redis;
use Test::More;

my $broker = Redis->new('primary');
my $copy =
  Redis->new('copy', config => 'replicaof 127.0.0.1 ' . $broker->port);
$broker->start;
$copy->start;
my $node = new_master('replicas', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '300ms'
cqrs.heartbeat = '2s'
cqrs.confirm_replicas = 1
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub replicates
{
	return RabbitMQ->poll_until(
		sub {
			return $broker->command('INFO', 'replication') =~ /state=online/;
		},
		60);
}

query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	CREATE TABLE book (id int PRIMARY KEY);
	SELECT cqrs_register('book', exchange => 'library')});
$broker->bind('queue', 'author');
$broker->bind_key('library', 'shelf', 'book');
ok(replicates(), 'the copy follows');

# Ordinary work.
query(
	q{INSERT INTO author SELECT i, 'a' FROM generate_series(1, 5000) i;
	INSERT INTO book VALUES (0)});
wait_published($node);
is($copy->queue_length('queue'), 5000, 'the copy has what is confirmed');

# The copy is gone: nothing is confirmed, and nothing is sent twice.  Messages of
# two exchanges in turns, each one a batch, leave a place for those that count
# again: the publisher finds them all at once.
my $connected = query('SELECT connected_at FROM cqrs.stats');
my $pid       = query('SELECT pid FROM cqrs.stats');
kill 'STOP', $pid;
query(
	join "\n",
	map {
		"INSERT INTO book VALUES ($_); UPDATE author SET name = 'b' WHERE id = $_;"
	} 1 .. 20);
query(q{UPDATE author SET name = 'b' WHERE id > 20});
$copy->stop;
kill 'CONT', $pid;
wait_for_state($node, 'blocked');
wait_for_stats(
	$node,
	'pending = 5020',
	'nothing is confirmed without the copy');
ok( !RabbitMQ->poll_until(
		sub { return query('SELECT confirmed > 5001 FROM cqrs.stats') eq 't' }
		,
		6),
	'for longer than the lease lasts without being renewed');
$copy->start;
wait_published($node);
is(query('SELECT connected_at FROM cqrs.stats'), $connected,
	'one connection');
my @messages = $broker->drain('queue');
my @expected = map { ([ 'author', $_, 0 ], [ 'author', $_, 1 ]) } 1 .. 5000;
is(scalar(@messages), 10_000, 'nothing came twice');
is(join("\n", ledger_errors(\@messages, \@expected)), '', 'in order');
is_deeply(
	[ map { $_->{body}{instance_pk} } $broker->drain('shelf') ],
	[ 0 .. 20 ],
	'also of the other exchange');

# The server fails, and the copy takes over.
query(q{INSERT INTO author SELECT i, 'c' FROM generate_series(5001, 9000) i});
$node->poll_query_until('postgres',
	'SELECT confirmed > 10221 FROM cqrs.stats')
  or BAIL_OUT('nothing is confirmed');
$broker->kill9;
$copy->command('REPLICAOF', 'NO', 'ONE');
$node->append_conf('postgresql.conf',
	"cqrs.url = '@{[ $copy->url ]}'\ncqrs.confirm_replicas = 0");
$node->reload;
wait_published($node);
@expected = map { [ 'author', $_, 0 ] } 5001 .. 9000;
is(join("\n", ledger_errors([ $copy->drain('queue') ], \@expected)),
	'', 'what was confirmed has survived the server');

# Without the setting to begin with, more replicas than there are.
$node->append_conf('postgresql.conf', 'cqrs.confirm_replicas = 3');
$node->reload;
query(q{INSERT INTO author VALUES (9001, 'd')});
wait_for_state($node, 'blocked');
$node->append_conf('postgresql.conf', 'cqrs.confirm_replicas = 0');
$node->reload;
wait_published($node);
is($copy->queue_length('queue') >= 1, 1, 'published without replicas');

done_testing();
