# VACUUM freezes messages of a transaction whose commit is not on the disk yet: then
# nothing says which transaction it was.  What is sent survives a crash all the
# same (I5).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

# Nobody but the publisher is to bring WAL to the disk: the process that writes
# what commits do not wait for is frozen, and nothing writes a page.
my $broker = RabbitMQ->new('frozen_rows');
$broker->start;
my $node = new_master('frozen_rows', $broker, conf => <<'END');
autovacuum = off
bgwriter_lru_maxpages = 0
checkpoint_timeout = '1h'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');
wait_published($node);
$node->safe_psql('postgres', 'SELECT cqrs_pause()');
wait_for_state($node, 'paused');
$node->safe_psql('postgres', 'CHECKPOINT');

my $writer = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
is(kill('STOP', $writer), 1, 'WAL writer frozen');

$ENV{PGOPTIONS} = '-c synchronous_commit=off';
my $xid =
  $node->safe_psql('postgres', q{INSERT INTO item VALUES (1) RETURNING xmin});
my $committed =
  $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->safe_psql('postgres', "VACUUM (FREEZE) cqrs.segment_$_")
  foreach 0 .. 2;
is( $node->safe_psql(
		'postgres', qq{
		SELECT bool_and(relfrozenxid::text::bigint > $xid),
			pg_current_wal_flush_lsn() < '$committed'
		FROM pg_class
		WHERE oid IN ('cqrs.segment_0'::regclass, 'cqrs.segment_1'::regclass,
			'cqrs.segment_2'::regclass)}),
	't|t',
	'the message is frozen, and its commit is not on the disk');

$node->safe_psql('postgres', 'SELECT cqrs_resume()');
my @messages;
RabbitMQ->poll_until(
	sub {
		push @messages, drain_queue($broker, 'replica');
		return @messages > 0;
	},
	60);
is(scalar(@messages), 1, 'the message is sent');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT id FROM item'),
	1, 'the row of the message is there after a crash');
$node->stop;
done_testing();
