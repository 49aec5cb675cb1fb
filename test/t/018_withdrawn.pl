# A message that is under way when its master is held, and that the broker then
# refuses for itself: no other message is parked for it (I10), and it is in the
# end.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker =
  RabbitMQ->new('withdrawn', config => "max_message_size = 500000\n");
$broker->start;
my $node = new_master('withdrawn', $broker,
	conf => "cqrs.unroutable = 'keep'\ncqrs.reconnect_delay_max = '500ms'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
wait_for_state($node, 'publishing');

# Nothing is bound for "item": the first message is returned and confirmed, as a
# rule while the second one, too large for the broker, is still being sent.
$node->safe_psql('postgres',
	q{INSERT INTO item VALUES (1, 'small'), (2, repeat('x', 40000000))});
$node->poll_query_until('postgres', 'SELECT held = 1 FROM cqrs.stats')
  or BAIL_OUT('the master was not held');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.parked'),
	0, 'nothing is parked while the master is held');

declare_queue($broker, 'replica', 'item');
$node->poll_query_until('postgres',
	'SELECT parked = 1 AND held = 0 AND pending = 0 FROM cqrs.stats')
  or BAIL_OUT('the outbox did not drain');
is($node->safe_psql('postgres', 'SELECT instance_pk FROM cqrs.parked'),
	2, 'the one that was refused is parked');
is( join(
		',', map { $_->{body}{instance_pk} } drain_queue($broker, 'replica')),
	1,
	'the other one has arrived');
unlike(
	slurp_file($node->logfile),
	qr/terminated by signal/,
	'no process has crashed');

$node->stop;
done_testing();
