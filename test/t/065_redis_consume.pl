# The consumer with Redis as its broker: a user with what docs/brokers.md lists,
# nothing lost when the consumer is killed, one database at a time, and queue and
# bindings that go away.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use Redis;
use Test::More;

my $broker = Redis->new('consume');
$broker->start;
my ($user) =
  slurp_file(dirname(__FILE__) . '/../../docs/brokers.md') =~
  /^ACL SETUSER (shop_replica .*)$/m
  or BAIL_OUT('docs/brokers.md has no user for consumers');
$broker->command('ACL', 'SETUSER', split / /, $user);
my $url = $broker->url =~ s{redis://}{redis://shop_replica:secret\@}r;

my $conf = <<"END";
cqrs.consumer_url = '$url'
cqrs.heartbeat = '2s'
cqrs.reconnect_delay_max = '300ms'
restart_after_crash = on
END
my $node  = new_master('consume', $broker, conf => $conf);
my $other = new_master('other',   $broker, conf => $conf);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop',     'CREATE EXTENSION cqrs');
foreach my $replica ([ $node, 'shop' ], [ $other, 'postgres' ])
{
	$replica->[0]->safe_psql(
		$replica->[1], q{
		CREATE TABLE item (id int PRIMARY KEY, data text);
		SELECT cqrs_register_replica('item', only_direct_syncs => true)});
}

sub master
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub replica
{
	my ($sql) = @_;
	return $node->safe_psql('shop', $sql);
}

sub same_rows
{
	my ($what) = @_;
	my $sql =
	  q{SELECT count(*), md5(string_agg(id || data || cqrs_revision, ',' ORDER BY id)) FROM item};

	wait_applied($broker, $node, 'shop', 'shop');
	is(replica($sql), master($sql), $what);
	return;
}

# Before consuming begins, messages gather in the queue.
replica(q{SELECT cqrs_consume('shop', paused => true)});
wait_consumer($node, 'shop', 'paused');
master(q{INSERT INTO item SELECT i, 'a' FROM generate_series(1, 3000) i});
wait_published($node);
is($broker->queue_length('shop'), 3000, 'a paused consumer has a queue');
replica('SELECT cqrs_resume_consumer()');
wait_consumer($node, 'shop', 'consuming');
master(
	q{UPDATE item SET data = 'b' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0}
);
same_rows('rows arrive');
is(replica('SELECT errors, redelivered FROM cqrs.consumer_stats'),
	'0|0', 'the documented commands and keys suffice');

# SYNCs: only those to this queue are applied.
replica(q{UPDATE item SET data = 'changed' WHERE id < 3});
master(q{SELECT cqrs_sync('item', 'id = 1')});
master(q{SELECT cqrs_sync('item', 'id = 2', 'shop')});
$node->poll_query_until('shop', q{SELECT data = 'a' FROM item WHERE id = 2})
  or BAIL_OUT('no SYNC has arrived');
is(replica('SELECT data FROM item WHERE id = 1'),
	'changed',
	'a SYNC to all queues is ignored, and one to this queue is not');
master(q{UPDATE item SET data = 'c' WHERE id < 3});
same_rows('later changes are applied');

# A killed consumer: what it had not acknowledged is still in the queue.
master(q{UPDATE item SET data = data || 'x'});
$node->poll_query_until('shop',
	q{SELECT EXISTS (SELECT FROM item WHERE data ~ 'x')})
  or BAIL_OUT('no change has arrived');
kill 'KILL', replica('SELECT pid FROM cqrs.consumer_stats');
$node->poll_query_until('shop', 'SELECT true');
same_rows('nothing is lost when the consumer is killed');

# One database at a time, of this server and of others.
$node->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'standing by');
master(q{UPDATE item SET data = 'd' WHERE id = 1});
same_rows('another database of the server does not take over');
$node->safe_psql('postgres', 'SELECT cqrs_stop_consuming()');
$other->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
wait_consumer($other, 'postgres', 'standing by');
master(q{DELETE FROM item WHERE id > 100});
same_rows('the first one goes on');
is( $other->safe_psql('postgres', 'SELECT received FROM cqrs.consumer_stats'),
	0,
	'another one gets nothing');
replica('SELECT cqrs_stop_consuming()');
wait_consumer($other, 'postgres', 'consuming');
master(q{SELECT cqrs_sync('item', NULL, 'shop')});
ok( $other->poll_query_until(
		'postgres',
		'SELECT count(*) = '
		  . master('SELECT count(*) FROM item')
		  . ' FROM item'),
	'and everything once the first one has ended');

# Queue and bindings go away.
$other->safe_psql('postgres', 'SELECT cqrs_stop_consuming(true)');
$other->poll_query_until('postgres',
	'SELECT NOT EXISTS (SELECT FROM cqrs.consumer)')
  or BAIL_OUT('the queue is not dropped');
is(scalar($broker->command('EXISTS', '_kombu.binding.cqrs')),
	0, 'no bindings are left');
master(q{UPDATE item SET data = 'last'});
wait_published($node);
is($broker->queue_length('shop'), 0, 'no message gets into the queue');

unlike(slurp_file($node->logfile), qr/secret/, 'no password in the log');
$_->stop foreach $node, $other, $broker;
done_testing();
