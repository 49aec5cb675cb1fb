# Several hosts in the URL are tried in turn; the URL can become another one.
use strict;
use warnings;

use CqrsTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $first  = RabbitMQ->new('first');
my $second = RabbitMQ->new('second');
$second->start;

# No name server is asked for a name like this.
my $unknown = 'x' x 64;

# Something that accepts connections and never says a word.
my $hole = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 5) or BAIL_OUT("could not listen: $!");
my $hosts = join ',', map { "127.0.0.1:$_" } $first->port, $hole->sockport,
  $second->port;
my $node = new_master('hosts', undef, conf => <<"END");
cqrs.url = 'amqp://guest:guest\@$unknown,$hosts/%2F'
cqrs.reconnect_delay_max = '300ms'
cqrs.connect_timeout = '2s'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register('item');
	INSERT INTO item VALUES (1)});
declare_queue($second, 'replica', 'item');
wait_for_state($node, 'publishing');
wait_published($node);
is(scalar(drain_queue($second, 'replica')),
	1, 'hosts that do not answer are passed over');
like(
	slurp_file($node->logfile),
	qr/could not resolve host "$unknown"/,
	'each is named where it fails');

# The one in use goes away, another one comes.
$first->start;
declare_queue($first, 'replica', 'item');
$second->stop;
$node->safe_psql('postgres', 'INSERT INTO item VALUES (2)');
wait_published($node);
my @messages = drain_queue($first, 'replica');
is($messages[-1]{body}{instance_pk}, 2, 'another host takes over');
is($node->safe_psql('postgres', 'SELECT parked FROM cqrs.stats'),
	0, 'nothing is parked');

# A vhost, whose name needs to be escaped, on a broker elsewhere: what waits for
# the old one is published there.
$node->safe_psql('postgres', 'SELECT cqrs_pause()');
wait_for_state($node, 'paused');
$node->safe_psql('postgres', 'INSERT INTO item VALUES (3)');
$first->stop;
$second->start;
$second->ctl('add_vhost',         'a/b c');
$second->ctl('set_permissions',   '-p', 'a/b c', 'guest', '.*', '.*', '.*');
$second->ctl('clear_permissions', '-p', '/',     'guest');
my $url = $second->url . '/a%2Fb%20c';
system_or_bail($ENV{CQRS_CONSUME}, '--url', $url, '--queue', 'moved',
	'--bind', 'item', '--declare-only');
$node->append_conf('postgresql.conf', "cqrs.url = '$url'");
$node->reload;
$node->safe_psql('postgres', 'SELECT cqrs_resume()');
wait_published($node);
like($second->ctl('list_queues', '-s', '-p', 'a/b c', 'name', 'messages'),
	qr/^moved\s+1$/m, 'the broker has moved, to another vhost');

# Each of them fails, in a way of its own, again and again.
my $offset = -s $node->logfile;
my $errors = $node->safe_psql('postgres', 'SELECT errors FROM cqrs.stats');
$node->append_conf('postgresql.conf',
	"cqrs.url = 'amqp://does-not-exist.invalid,127.0.0.1:1'");
$node->reload;
$node->poll_query_until('postgres',
	"SELECT errors >= $errors + 8 FROM cqrs.stats")
  or BAIL_OUT('no further attempts');
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~
		  /cqrs publisher has no connection/g),
	2,
	'each failure is logged once');

$node->stop;
done_testing();
