# Of several copies of a database one publishes (I13); the others stand by until
# it is gone, or until cqrs_adopt() gives them an identity of their own.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('lease');
$broker->start;
my $node = new_master(
	'original', $broker,
	init => [ allows_streaming => 1 ],
	conf => "cqrs.heartbeat = '2s'\ncqrs.reconnect_delay_max = '500ms'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');
wait_for_state($node, 'publishing');

# A copy of the running server; it has what is pending now.
$node->safe_psql('postgres',
	q{SELECT cqrs_pause(); INSERT INTO item VALUES (1, 'pending')});
$node->backup('copy');
$node->safe_psql('postgres', 'SELECT cqrs_resume()');
wait_published($node);
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($node, 'copy');
$clone->start;
$clone->safe_psql('postgres', 'SELECT cqrs_resume()');
$clone->poll_query_until(
	'postgres',
	q{SELECT state = 'standing by' AND last_error ~ 'lease: .*(405 RESOURCE_LOCKED|another connection)'
	FROM cqrs.stats}) or BAIL_OUT('the clone does not stand by');
pass('a clone stands by');
$clone->safe_psql('postgres', q{INSERT INTO item VALUES (100, 'clone')});
$node->safe_psql('postgres', q{INSERT INTO item VALUES (2, 'original')});
wait_published($node);
my @messages = drain_queue($broker, 'replica');
is(join(',', map { $_->{body}{instance_pk} } @messages),
	'1,2', 'the original publishes, the clone does not');
is($clone->safe_psql('postgres', 'SELECT pending FROM cqrs.stats'),
	2, 'its messages wait');
is(scalar(() = slurp_file($clone->logfile) =~ /cqrs publisher stands by/g),
	1, 'it is logged once');

# The original goes.
my $start = time;
$node->stop('fast');
wait_published($clone);
cmp_ok(time - $start, '<', 15, 'the clone takes over when the original goes');
@messages = drain_queue($broker, 'replica');
is(join(',', map { $_->{body}{instance_pk} } @messages),
	'1,100', 'with what was pending there');

# The original comes back, and has to wait in its turn; an identity of its own
# lets it publish.
$node->start;
$node->poll_query_until('postgres',
	q{SELECT state = 'standing by' FROM cqrs.stats})
  or BAIL_OUT('the original does not stand by');
my $identity = $node->safe_psql('postgres', 'SELECT cqrs_adopt()');
like($identity, qr/^[0-9a-f]{12}$/, 'cqrs_adopt gives an identity');
wait_for_state($node, 'publishing');
$_->safe_psql('postgres', q{INSERT INTO item VALUES (200, 'both')})
  foreach $node, $clone;
wait_published($_) foreach $node, $clone;
@messages = drain_queue($broker, 'replica');
is(scalar(@messages), 2, 'both publish');
my ($adopted) =
  grep { $_->{properties}{message_id} =~ /-$identity-\d+$/ } @messages;
ok($adopted, 'and the identity is part of the message id');
$node->restart;
wait_for_state($node, 'publishing');
pass('it lasts');

# A restart of the rightful publisher is not held up.
$start = time;
$clone->stop('immediate');
$clone->start;
wait_for_state($clone, 'publishing');
note sprintf 'publishing after a crash: %.1f s', time - $start;
$clone->safe_psql('postgres', q{INSERT INTO item VALUES (300, 'x')});
wait_published($clone);
cmp_ok(time - $start, '<', 15, 'a crash does not make it wait for itself');

# A connection that is dead without the broker having been told: the heartbeat
# bounds the wait.
my $pid    = $clone->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
my $second = PostgreSQL::Test::Cluster->new('second');
kill 'STOP', $pid;
$second->init_from_backup($node, 'copy');
$second->start;
$second->safe_psql('postgres', 'SELECT cqrs_resume()');
$start = time;
wait_for_state($second, 'publishing');
cmp_ok(time - $start, '<', 20, 'a dead connection loses the lease');
kill 'CONT', $pid;
wait_for_state($clone, 'standing by');
pass('when it wakes up it finds the lease taken');

$_->stop foreach $node, $clone, $second;
done_testing();
