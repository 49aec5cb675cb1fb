# A segment that somebody reads when it could be emptied is emptied later
# (I14), though nothing more is written.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('recycle');
$broker->start;
my $node = new_master('recycle', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
wait_for_state($node, 'publishing');

my $size = q{SELECT sum(pg_relation_size(s)) FROM unnest(ARRAY[
	'cqrs.segment_0', 'cqrs.segment_1', 'cqrs.segment_2']::regclass[]) s};
my ($in, $out, $err) = ('', '', '');
my $reader = open_psql($node, \$in, \$out, \$err);
$in .= "BEGIN; SELECT count(*), 'read' FROM cqrs.outbox;\n";
$reader->pump until $out =~ /read/ || $err;
is($err, '', 'the outbox is being read');

$node->safe_psql(
	'postgres',
	q{INSERT INTO item SELECT i, (SELECT string_agg(md5(i || '.' || j), '')
		FROM generate_series(1, 16) j) FROM generate_series(1, 5000) i}
);

# Not wait_published(): it would read the outbox, too.
$node->poll_query_until(
	'postgres', q{
	SELECT confirmed = 5000 FROM cqrs.publisher_stats()}
) or BAIL_OUT('not confirmed');
my $saved = 'SELECT cqrs.current_watermark() > 0';
$node->poll_query_until('postgres', $saved) or BAIL_OUT('not saved');
my $saved_at = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->poll_query_until(
	'postgres', qq{
	SELECT query_start > '$saved_at' FROM pg_stat_activity
	WHERE backend_type = 'cqrs publisher'}
) or BAIL_OUT('the publisher has not tried');
cmp_ok(
	$node->safe_psql('postgres', $size),
	'>',
	1024 * 1024,
	'it is not emptied meanwhile');
$in .= "COMMIT;\n\\q\n";
$reader->finish;
$node->poll_query_until('postgres', "SELECT ($size) = 0")
  or BAIL_OUT('the segment is not emptied');
pass('it is emptied afterwards');

$node->stop;
done_testing();
