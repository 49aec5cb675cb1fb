# A database that is not in UTF-8 consumes: names of queues, and bodies, are
# converted.  Where memory is short, a body that is too large to be converted
# ends the process while it is read, and becomes a dead letter.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RawPublish;
use Test::More;

# The conversion takes four times that; the rest of what becomes of the message
# takes less than that.
my $LARGE_BYTES = 24 * 1024 * 1024;

my $broker = RabbitMQ->new('encoding');
$broker->start;
my $node = new_master('encoding', $broker);
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql(
	'latin', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author', only_direct_syncs => true);
	SELECT cqrs_consume(E'b\xfccher')});
wait_consumer($node, 'latin', 'consuming');

publish(
	$broker, 'cqrs', 'author',
	save_body('author', 1, "M\x{fc}ller"),
	save_body('author', 2, "\x{20ac}"),
	save_body('author', 3, "Maier"));
wait_consumer($node, 'latin', 'received = 3 AND buffered = 0');
is( $node->safe_psql(
		'latin',
		q{SELECT string_agg(encode(name::bytea, 'escape'), ' ' ORDER BY id) FROM author}
	),
	'M\374ller Maier',
	'bodies are converted');
like(
	$node->safe_psql('latin', 'SELECT error FROM cqrs.dead_letters'),
	qr/without equivalent in the encoding "LATIN1"/,
	'what cannot be converted is a dead letter');
$node->safe_psql('latin', 'SELECT cqrs_retry_failed()');
wait_consumer($node, 'latin', 'dead = 1 AND waiting = 0');
my $sync = save_body('author', 4, 'direct');
$sync->{signal_type} = 'SYNC';
publish($broker, 'cqrs', 'cqrs.b\x{c3}\x{bc}cher.author', $sync);
ok( $node->poll_query_until(
		'latin', 'SELECT EXISTS (SELECT FROM author WHERE id = 4)'),
	'a SYNC to this queue alone is taken for one');
like($broker->ctl('list_queues', '-s', 'name'),
	qr/^b\xc3\xbccher$/m, 'the name of the queue is in UTF-8');

# Memory for the large body, and not for its conversion: the process ends while it
# reads the message, which becomes a dead letter, unread.
sub limit_memory
{
	my ($limit) = @_;
	my ($postmaster) =
	  slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	foreach my $pid ($postmaster,
		$node->safe_psql('latin', 'SELECT pid FROM cqrs.consumer_stats'))
	{
		system_or_bail('prlimit', '--pid', $pid, "--as=$limit:");
	}
	return;
}

my $pid = $node->safe_psql('latin', 'SELECT pid FROM cqrs.consumer_stats');
my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
$node->safe_psql('latin', 'DELETE FROM cqrs.failed');

# Enough to store the message, which takes more on PostgreSQL 19 than before, and
# too little to read it.
limit_memory($kb * 1024 + int(4.5 * $LARGE_BYTES));
publish_raw(
	$broker,
	map {
		{   exchange    => 'cqrs',
			routing_key => 'author',
			body        =>
			  qq({"signal_type": "SAVE", "cqrs_id": "author", "instance_pk": $_->[0],
			"instance_data": {"id": $_->[0], "name": "x", "cqrs_revision": 0,
			"cqrs_updated": "2026-01-01T00:00:00Z"}, "more": "$_->[1]"}) }
	}[ 5, 'x' x $LARGE_BYTES ],
	[ 6, '' ]);
ok( $node->poll_query_until(
		'latin', 'SELECT EXISTS (SELECT FROM author WHERE id = 6)'),
	'the neighbour of a message that cannot be read is applied');
is( $node->safe_psql(
		'latin',
		'SELECT cqrs_id, length(body) > 1e7, error FROM cqrs.dead_letters'),
	'|t|the server or the consumer has ended twice while messages were applied, the last time while this message was processed',
	'what ends the process while it is read becomes a dead letter, unread');
my @ends = slurp_file($node->logfile) =~ /^.*ERROR:  out of memory$/mg;
is(scalar @ends, 2, 'the process has ended twice') or diag(@ends);
limit_memory('unlimited');
$node->safe_psql('latin', 'SELECT cqrs_retry_failed()');
ok( $node->poll_query_until(
		'latin', 'SELECT EXISTS (SELECT FROM author WHERE id = 5)'),
	'it can be tried again');
$node->stop;
done_testing();
