# cqrs_consume() counts after cqrs_stop_consuming(true), also while the queue is
# being dropped.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('again');
$broker->start;
my $node = new_master('again', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= "SELECT cqrs_stop_consuming(true);\nBEGIN;\n"
  . "SELECT cqrs_consume('shop');\nSELECT 'called';\n";
$session->pump until $out =~ /called/ || $err;
ok( RabbitMQ->poll_until(
		sub { return !defined $broker->queue_length('shop') }, 60),
	'the queue is dropped');
$in .= "COMMIT;\n\\q\n";
$session->finish;
ok( RabbitMQ->poll_until(
		sub { return defined $broker->queue_length('shop') }, 60),
	'and declared anew, because cqrs_consume() was called after that');
wait_consumer($node, 'postgres', 'consuming');
is($node->safe_psql('postgres', 'SELECT dropping FROM cqrs.consumer'),
	'f', 'this database consumes it');
$node->stop;
done_testing();
