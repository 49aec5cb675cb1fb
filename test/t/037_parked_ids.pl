# A message that is put aside when it is made has an id, and none in the outbox
# knows it after a restart: no other message may get the same id (I11).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('parked_ids');
$broker->start;
my $node = new_master('parked_ids', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, divisor int);
	CREATE FUNCTION item_json(i item) RETURNS json STABLE LANGUAGE sql
		AS $$SELECT json_build_object('id', i.id, 'share', 1 / i.divisor)$$;
	SELECT cqrs_register('item', serializer => 'public.item_json',
		on_error => 'park')});
declare_queue($broker, 'replica', 'item');
wait_for_state($node, 'publishing');

$node->safe_psql('postgres', 'INSERT INTO item VALUES (1, 0)');
is($node->safe_psql('postgres', 'SELECT parked FROM cqrs.stats'),
	1, 'a message is parked');

foreach my $mode ('fast', 'immediate')
{
	my $pk = $mode eq 'fast' ? 2 : 4;

	$node->restart if $mode eq 'fast';
	if ($mode eq 'immediate')
	{
		$node->stop('immediate');
		$node->start;
	}
	wait_for_state($node, 'publishing');
	$node->safe_psql('postgres', "INSERT INTO item VALUES ($pk, 1)");
	wait_published($node);
	is( join(',',
			map { $_->{body}{instance_pk} } drain_queue($broker, 'replica')),
		$pk,
		"after a restart ($mode) the next one arrives");
	$node->safe_psql('postgres', "INSERT INTO item VALUES ($pk + 1, 0)");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.parked'),
	3, 'and others can be parked');

$node->stop;
done_testing();
