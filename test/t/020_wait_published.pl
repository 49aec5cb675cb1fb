# cqrs_wait_published: what a session has committed is confirmed.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('wait');
$broker->start;
my $node = new_master('wait', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')});
declare_queue($broker, 'replica', 'author');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

is( query(
		q{INSERT INTO author SELECT i, 'x' FROM generate_series(1, 5000) i;
		SELECT cqrs_wait_published('3 min')}),
	't',
	'all is confirmed');
is($broker->queue_length('replica'), 5000, 'all is in the queue');
is(query(q{SELECT cqrs_wait_published()}),
	't', 'a session without changes waits for nothing');

# Holes of others hold the watermark back, and do not matter.
query(
	q{BEGIN; INSERT INTO author VALUES (0, 'prepared');
	PREPARE TRANSACTION 'p'});
is( query(
		q{UPDATE author SET name = 'y' WHERE id <= 10;
		SELECT cqrs_wait_published('3 min')}),
	't',
	'beside a prepared transaction');
cmp_ok(query('SELECT pending FROM cqrs.stats'),
	'>', 0, 'the watermark is held back');
is( query(
		q{UPDATE author SET name = 'z' WHERE id = 1;
		SELECT cqrs_wait_published('3 min')}),
	't',
	'and again');
is(query(q{COMMIT PREPARED 'p'; SELECT cqrs_wait_published('3 min')}),
	't', 'COMMIT PREPARED counts as well');
is($broker->queue_length('replica'), 5012, 'all of it is in the queue');

# While nothing is published, only the timeout ends it.
query('SELECT cqrs_pause()');
wait_for_state($node, 'paused');
is( query(
		q{UPDATE author SET name = 'paused' WHERE id = 1;
		SELECT cqrs_wait_published('100 ms')}),
	'f',
	'not while publishing is paused');
my ($in, $out, $err) = ('', '', '');
my $waiter = open_psql($node, \$in, \$out, \$err);
$in .=
  "SET application_name = 'waiter'; UPDATE author SET name = 'w' WHERE id = 2;\n"
  . "SELECT cqrs_wait_published();\n";
$waiter->pump while length $in;
$node->poll_query_until(
	'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE application_name = 'waiter' AND wait_event_type = 'Extension'}
) or BAIL_OUT('the session does not wait');
is($out, '', 'without a timeout it goes on waiting');
query('SELECT cqrs_resume()');
$waiter->pump until $out =~ /\n/ or $err;
is($out, "t\n", 'until publishing is resumed');

# A broker that goes and comes.
$broker->kill9;
$out = '';
$in .= "UPDATE author SET name = 'v' WHERE id = 2;\n"
  . "SELECT cqrs_wait_published('200 ms');\nSELECT cqrs_wait_published();\n";
$waiter->pump until $out =~ /\n/ or $err;
is($out, "f\n", 'not while the broker is down');
$broker->start;
query('SELECT pg_reload_conf()');
$waiter->pump until $out =~ /\n.*\n/ or $err;
is($out, "f\nt\n", 'once it is back');

# A publisher that starts anew.
my $pid = query('SELECT pid FROM cqrs.stats');
query("SELECT pg_terminate_backend($pid)");
$out = '';
$in .= "UPDATE author SET name = 'u' WHERE id = 2;\n"
  . "SELECT cqrs_wait_published();\n";
$waiter->pump until $out =~ /\n/ or $err;
is($out, "t\n", 'by another publisher');
$in .= "\\q\n";
$waiter->finish;
is($err, '', 'no errors');

$node->stop;
done_testing();
