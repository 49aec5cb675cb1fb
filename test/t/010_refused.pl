# A message that the broker refuses for itself, or that cannot be sent at all,
# is parked with the reason (I10); all others arrive, in order.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker =
  RabbitMQ->new('refused', config => "max_message_size = 500000\n");
$broker->start;
my $node = new_master('refused', $broker,
	conf => "cqrs.reconnect_delay_max = '500ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	CREATE TABLE other (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item'), cqrs_register('other')});
declare_queue($broker, 'replica', 'item', 'other');
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# One too large among 10,000.
query(
	q{INSERT INTO item SELECT i, CASE WHEN i = 5000 THEN repeat('x', 600000)
		ELSE 'small' END FROM generate_series(1, 10000) i});
wait_published($node);
is(query('SELECT parked, held, state FROM cqrs.stats'),
	'1|0|publishing', 'the message that is too large is parked');
like(
	query(
		q{SELECT concat_ws('|', reason, cqrs_id, instance_pk, error)
		FROM cqrs.parked}),
	qr/^refused\|item\|5000\|.*channel: 406 PRECONDITION_FAILED.*size 6\d\d\d\d\d/,
	'with the words of the broker');
my %seen = map { $_ => 1 } arrived_keys($broker, 'replica');
is(scalar(keys %seen), 9999, 'its neighbours arrive');
ok(!$seen{5000}, 'it does not');

# Several of them, between small ones of the same rows.
query(
	q{INSERT INTO other SELECT i, repeat('x', 600000) FROM generate_series(1, 3) i;
	UPDATE other SET data = 'small'; UPDATE item SET data = 'y' WHERE id <= 10});
wait_published($node);
is(query('SELECT parked FROM cqrs.stats'), 4, 'three more are parked');
my @expected = map { [ 'other', $_, 1 ] } 1 .. 3;
push @expected, map { [ 'item', $_, 1 ] } 1 .. 10;
my @messages = drain_queue($broker, 'replica');
is(join("\n", ledger_errors(\@messages, \@expected)),
	'', 'later messages of the same rows arrive, in order');

# The watermark cannot pass; the server crashes after the parking.
query(
	q{BEGIN; INSERT INTO item VALUES (20001, 'x'); PREPARE TRANSACTION 'p'});
query(q{INSERT INTO item VALUES (20002, repeat('x', 600000))});
query(q{INSERT INTO item VALUES (20003, 'x')});
$node->poll_query_until('postgres', 'SELECT parked = 5 FROM cqrs.stats')
  or BAIL_OUT('not parked');
$node->stop('immediate');
$node->start;
is(query('SELECT count(*) FROM cqrs.parked'), 5, 'a crash does not lose it');
query(q{COMMIT PREPARED 'p'});
wait_published($node);
is(query('SELECT count(*), sum(errors) FROM cqrs.parked, cqrs.stats'),
	'5|0', 'and it is not met again');
%seen =
  map { $_->{body}{instance_pk} => 1 } drain_queue($broker, 'replica');
is(join(',', sort keys %seen), '20001,20003', 'the others arrive');

# A master that is held is read again from an earlier message on, when a
# transaction that was prepared before commits.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE late (id int PRIMARY KEY, data text);
	SELECT cqrs_register('late')});
$node->append_conf('postgresql.conf', "cqrs.unroutable = 'keep'\n");
$node->reload;
query(q{BEGIN; INSERT INTO late VALUES (1, 'x'); PREPARE TRANSACTION 'p'});
query(q{INSERT INTO late VALUES (2, repeat('x', 600000))});
$node->poll_query_until('postgres', 'SELECT parked = 6 FROM cqrs.stats')
  or BAIL_OUT('not parked');
query(q{INSERT INTO late VALUES (3, 'x')});
$node->poll_query_until('postgres', 'SELECT held = 1 FROM cqrs.stats')
  or BAIL_OUT('not held');
query(q{COMMIT PREPARED 'p'});
declare_queue($broker, 'late', 'late');
wait_published($node);
is(join(',', map { $_->{body}{instance_pk} } drain_queue($broker, 'late')),
	'1,3', 'messages of a held master are read again');
is(query('SELECT count(*) FROM cqrs.parked'), 6, 'but those that are parked');
unlike(
	slurp_file($node->logfile),
	qr/duplicate key/,
	'which are not parked twice');

# Characters that UTF-8 does not have.
query(
	q{CREATE DATABASE western TEMPLATE template0 ENCODING 'WIN1252'
		LOCALE 'C'});
$node->safe_psql(
	'western', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item');
	INSERT INTO item VALUES (1, chr(233)), (2, chr(129)), (3, chr(128))});
wait_published($node, 'western');
like(
	$node->safe_psql('western', 'SELECT instance_pk, error FROM cqrs.parked'),
	qr/^2\|character with byte sequence 0x81 .* has no equivalent/,
	'a character that cannot be converted');
@messages = drain_queue($broker, 'replica');
is(join(',', map { $_->{body}{instance_data}{data} } @messages),
	"\x{e9},\x{20ac}", 'its neighbours arrive');


# Nobody knows what characters a database of no encoding has.
query(
	q{CREATE DATABASE nameless TEMPLATE template0 ENCODING 'SQL_ASCII'
		LOCALE 'C'});
my ($ret, $out, $err) = $node->psql(
	'nameless', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register('item')});
like($err, qr/The encoding of the database is SQL_ASCII/, 'which is refused');

# A transport that fails is not the message's fault, however often.
query(q{INSERT INTO item VALUES (30001, repeat('x', 400000))});
wait_published($node);
$broker->kill9;
query(
	q{INSERT INTO item SELECT i, repeat('x', 400000)
	FROM generate_series(30002, 30010) i});
wait_for_state($node, 'waiting');
$node->poll_query_until('postgres',
	q{SELECT errors >= 6 AND state <> 'publishing' FROM cqrs.stats})
  or BAIL_OUT('no further attempts');
$broker->start;
wait_published($node);
is(query('SELECT parked FROM cqrs.stats'), 6, 'an outage parks nothing');

$node->stop;
done_testing();
