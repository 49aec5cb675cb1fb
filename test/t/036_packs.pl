# Messages lie together in packs: the publisher begins anywhere in them, also
# behind the end of a batch of ids, and misses nothing.  And a publisher that
# does not listen to commits hears of prepared cqrs_pause and cqrs_resume.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('packs');
$broker->start;
my $node = new_master('packs', $broker, conf => 'cqrs.confirm_window = 70');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# One transaction, of more than a batch, in packs of varying size.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
query(
	q{INSERT INTO item SELECT i, repeat('x', i % 90)
	FROM generate_series(1, 103000) i});

# As if all up to there, a little behind the end of the first batch, had been
# confirmed already.
my $watermark =
  query('SELECT min(id) / 100000 * 100000 + 100007 FROM cqrs.segment_0');
my @expected =
  split /\n/,
  query(
	"SELECT instance_pk FROM cqrs.outbox WHERE id > $watermark ORDER BY id");
cmp_ok(scalar(@expected), '>', 2000, 'there is more than one batch');
my $pid = query('SELECT pid FROM cqrs.stats');
query(
	"SELECT setval('cqrs.watermark', $watermark), pg_terminate_backend($pid)"
);
query('SELECT cqrs_resume()');
wait_published($node);
is_deeply([ arrived_keys($broker, 'replica') ],
	\@expected, 'all behind the watermark arrives, in order');

# cqrs_pause and cqrs_resume in prepared transactions.
foreach my $call (qw(pause resume))
{
	query("BEGIN; SELECT cqrs_$call(); PREPARE TRANSACTION '$call'");
	query("COMMIT PREPARED '$call'");
	wait_for_state($node, $call eq 'pause' ? 'paused' : 'publishing');
	pass("cqrs_$call, prepared");
}

$node->stop;
done_testing();
