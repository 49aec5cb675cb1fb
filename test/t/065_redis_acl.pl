# Redis: a publisher's user with what docs/brokers.md lists needs nothing else, by the
# script and by transactions, with a limit of queues and with replicas of the server.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Redis;
use Test::More;

my $broker = Redis->new('acl');
my $copy =
  Redis->new('acl_copy', config => 'replicaof 127.0.0.1 ' . $broker->port);
$broker->start;
$copy->start;
my ($user) =
  slurp_file(dirname(__FILE__) . '/../../docs/brokers.md') =~
  /^ACL SETUSER (shop on .*)$/m
  or BAIL_OUT('docs/brokers.md has no user for publishers');
$broker->command('ACL', 'SETUSER', split / /, $user);
my $url  = $broker->url =~ s{redis://}{redis://shop:secret\@}r;
my $node = new_master('acl', $broker, conf => <<"END");
cqrs.url = '$url'
cqrs.reconnect_delay_max = '300ms'
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# What the server has refused to any user, scripts included.
sub refused
{
	return join ', ',
	  map { my %entry = @$_; "$entry{context} $entry{object}" }
	  @{ $broker->command('ACL', 'LOG') };
}

# How often the server has executed a command.
sub calls
{
	my ($command) = @_;
	return $broker->command('INFO', 'commandstats') =~
	  /^cmdstat_$command:calls=(\d+)/m ? $1 : 0;
}

query(
	q{CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author');
	CREATE TABLE book (id int PRIMARY KEY);
	SELECT cqrs_register('book')});
$broker->bind('replica_a', 'author', 'book');
$broker->bind('replica_b', 'book');
query(
	q{INSERT INTO author SELECT i, 'a' FROM generate_series(1, 3000) i;
	INSERT INTO book SELECT i FROM generate_series(1, 3000) i});
wait_published($node);
is($broker->queue_length('replica_a'), 6000, 'messages to one queue');
is($broker->queue_length('replica_b'), 3000, 'messages to two queues');
cmp_ok(calls('ltrim'), '>', 0,
	'by the script, which finds what may be undone');
cmp_ok(calls('exec'), '>', 2, 'and by transactions');
is(refused(), '', 'no command and no key is missing');

# All features.
$node->append_conf('postgresql.conf', <<'END');
cqrs.queue_limit = 10000
cqrs.confirm_replicas = 1
END
$node->reload;
ok( RabbitMQ->poll_until(
		sub {
			return $broker->command('INFO', 'replication') =~ /state=online/;
		},
		60),
	'the copy follows');
query(q{INSERT INTO author SELECT i, 'a' FROM generate_series(3001, 5000) i});
wait_published($node);
is($copy->queue_length('replica_a'), 8000, 'replicas of the server');
query(q{INSERT INTO author SELECT i, 'a' FROM generate_series(5001, 8000) i});
wait_for_stats(
	$node,
	q{held = 1 AND last_error ~ 'queue_limit'},
	'the limit of a queue');
is($broker->queue_length('replica_a'), 10000, 'has its effect');
$broker->command('DEL', 'replica_a');
wait_for_stats($node, 'pending = 0', 'the queue takes messages again');
$broker->command('CONFIG', 'SET', 'appendfsync', 'no');
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query('SELECT cqrs_resume()');
wait_for_state($node, 'publishing');
like(
	query(q{SELECT detail FROM cqrs_check() WHERE item = 'broker settings'}),
	qr/appendfsync is no/,
	'settings of the server are read');
is(refused(), '', 'no command and no key is missing for that');

# And no more than that.
foreach my $command (
	['FLUSHALL'],
	[ 'KEYS',   '*' ],
	[ 'RPOP',   'replica_a' ],
	[ 'LPUSH',  'other', 'x' ],
	[ 'CONFIG', 'SET',   'appendfsync', 'always' ])
{
	my $refused = eval {
		$broker->commands([ 'AUTH', 'shop', 'secret' ], $command);
		1;
	} ? 'permitted' : $@;
	like($refused, qr/NOPERM/, "@$command is refused");
}
$broker->command('ACL', 'LOG', 'RESET');
$broker->bind('other', 'author');
query(q{INSERT INTO author VALUES (9000, 'o')});
wait_for_stats(
	$node,
	q{held = 1 AND last_error ~ 'could not publish'},
	'a master with a queue that is not among the keys is held');

done_testing();
