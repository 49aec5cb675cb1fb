# Messages of a queue become rows: from a master in one database to a replica
# in another one, with what can be lost, misordered or applied twice first.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('consume');
$broker->start;
my $node = new_master('consume', $broker, conf => <<'END');
cqrs.heartbeat = '2s'
cqrs.reconnect_delay_max = '500ms'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register('author')});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');

$node->safe_psql('postgres',
	q{INSERT INTO author SELECT i, 'name ' || i FROM generate_series(1, 5000) i}
);
$node->safe_psql('postgres',
	q{UPDATE author SET name = 'new' WHERE id <= 10});
$node->safe_psql('postgres', q{DELETE FROM author WHERE id > 4990});
wait_applied($broker, $node, 'shop', 'shop');
is( $node->safe_psql(
		'shop', q{
		SELECT count(*), count(*) FILTER (WHERE name = 'new'), max(id) FROM author}
	),
	'4990|10|4990',
	'rows arrive, change and go');
is($broker->queue_length('shop'), 0, 'all is acknowledged');

# A new column comes without loss while the master is written to, whichever side
# has it first, and where "fields" lists the columns: the steps of
# docs/replicas.md.
sub master
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub replica
{
	my ($sql) = @_;
	return $node->safe_psql('shop', $sql);
}

# The writers set these columns from now on.
sub write_columns
{
	my $set = join ', ', map { "$_ = random()" } @_;
	master(
		qq{CREATE OR REPLACE FUNCTION change(n int) RETURNS void LANGUAGE plpgsql
		AS \$\$BEGIN UPDATE author SET $set WHERE id = n; END\$\$});
	return;
}

# Waits until so many more messages have been applied.
sub go_on
{
	my $updated = replica('SELECT updated FROM cqrs.consumer_stats');
	wait_consumer($node, 'shop', "updated > $updated + 50");
	return;
}

my $script = PostgreSQL::Test::Utils::tempdir() . '/writes.sql';
append_to_file($script, "\\set id random(1, 4990)\nSELECT change(:id);\n");
write_columns('name');
my $writers = IPC::Run::start(
	[   'pgbench', '-n', '-c', 2, '-T', 600, '-R', 300, '-f', $script,
		$node->connstr('postgres') ],
	'>',
	\my $out,
	'2>',
	\my $err);
go_on();

replica('ALTER TABLE author ADD COLUMN mail text');
go_on();
master(q{ALTER TABLE author ADD COLUMN mail text DEFAULT 'none'});
write_columns(qw(name mail));
go_on();
master(q{SELECT cqrs_sync('author', queue => 'shop')});
is(replica('SELECT unknown_keys FROM cqrs.consumer_stats'),
	0, 'no key is ignored if the replica has the column first');

master('ALTER TABLE author ADD COLUMN phone text');
write_columns(qw(name mail phone));
wait_consumer($node, 'shop', 'unknown_keys > 50');
pass('keys are ignored while only the master has the column');
replica('ALTER TABLE author ADD COLUMN phone text');
go_on();
master(q{SELECT cqrs_sync('author', queue => 'shop')});

replica(
	q{SELECT cqrs_alter_replica('author', '{"fields": ["id", "name", "mail", "phone"]}');
	ALTER TABLE author ADD COLUMN fax text});
go_on();
master('ALTER TABLE author ADD COLUMN fax text');
write_columns(qw(name mail phone fax));
my $revision = master(
	q{UPDATE author SET name = 'x' WHERE id = 1 RETURNING cqrs_revision});
is(replica("CALL cqrs_wait_applied('author', '1', $revision, '60 s')"),
	'applied|', 'messages from before the column are applied');
replica(
	q{SELECT cqrs_alter_replica('author', '{"fields": ["id", "name", "mail", "phone", "fax"]}')}
);
go_on();
master(q{SELECT cqrs_sync('author', queue => 'shop')});

# The column goes.
replica(
	q{SELECT cqrs_alter_replica('author', '{"fields": ["id", "name", "mail", "phone"]}')}
);
write_columns(qw(name mail phone));
master(
	q{SELECT cqrs_alter('author', '{"fields": ["id", "name", "mail", "phone"]}');
	ALTER TABLE author DROP COLUMN fax;
	SELECT cqrs_alter('author', '{"fields": null}')});
go_on();
replica('ALTER TABLE author DROP COLUMN fax');
go_on();
$writers->signal('TERM');
$writers->finish;
wait_applied($broker, $node, 'shop', 'shop');
my $ROWS =
  q{SELECT count(*), md5(string_agg(concat_ws(',', id, name, mail, phone, cqrs_revision), ';' ORDER BY id)),
	count(*) FILTER (WHERE mail = 'none') > 0, count(phone) > 0 FROM author};
my $rows = master($ROWS);
like($rows, qr/^4990\|.*\|t\|t$/, 'rows of all kinds');
is(replica($ROWS), $rows, 'the replica has what the master has');
is(replica('SELECT failures, gaps FROM cqrs.consumer_stats'),
	'0|0', 'no message has failed, and none is missing');

$node->stop;
done_testing();
