# ALTER EXTENSION UPDATE keeps masters, outbox and publisher working (I21).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

# There is no second release: the next version is made here, with what update
# scripts are for, and put into the private installation of this run.
my $NEXT      = '1.0.1test';
my $sharedir  = `pg_config --sharedir` =~ s/\n\z//r;
my $script    = "$sharedir/extension/cqrs--1.0.0--$NEXT.sql";
my $installed = open my $fh, '>', $script;
plan skip_all => "$script cannot be written: $!" unless $installed;
print $fh <<'END';
\echo Use "ALTER EXTENSION cqrs UPDATE" to load this file. \quit
ALTER TABLE cqrs.publisher ADD COLUMN note text;
CREATE FUNCTION @extschema@.cqrs_version() RETURNS text
	LANGUAGE sql IMMUTABLE AS 'SELECT ''1.0.1test''::text';
CREATE OR REPLACE FUNCTION cqrs.current_watermark() RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_sql_watermark' LANGUAGE C STABLE STRICT;
ALTER TABLE cqrs.master ALTER COLUMN produce SET DEFAULT true;
DROP TRIGGER loaded ON cqrs.master;
CREATE TRIGGER loaded AFTER INSERT ON cqrs.master
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_loaded();
END
close $fh or die "could not write $script: $!";

# And one that needs another library.
my $LATER = '1.0.2test';
my $other = "$sharedir/extension/cqrs--$NEXT--$LATER.sql";
append_to_file($other, "ALTER TABLE cqrs.master ADD COLUMN later text;\n");

# One more, and the way back.
my $MOVED = '1.0.3test';
my $there = "$sharedir/extension/cqrs--$NEXT--$MOVED.sql";
append_to_file($there, "ALTER TABLE cqrs.parked RENAME TO moved;\n");
my $back = "$sharedir/extension/cqrs--$MOVED--$NEXT.sql";
append_to_file($back, "ALTER TABLE cqrs.moved RENAME TO parked;\n");
END { unlink $script, $other, $there, $back if $installed }

my $broker = RabbitMQ->new('upgrade');
$broker->start;
my $node = new_master('upgrade', $broker, extension => 0);
$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA tools;
	CREATE EXTENSION cqrs SCHEMA tools VERSION '1.0.0';
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT tools.cqrs_register('author', tracked_fields => '{name}')});
my $consumer = start_consumer($broker, 'replica', 'author');
$node->safe_psql('postgres', q{INSERT INTO author VALUES (1, 'Ada')});
wait_published($node);

# A backlog, and a session that has masters in its cache.
$node->safe_psql('postgres', 'SELECT tools.cqrs_pause()');
wait_for_state($node, 'paused');
my $session = $node->background_psql('postgres');
$session->query_safe(q{UPDATE author SET name = 'Bob'});
my $pid     = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
my $masters = $node->safe_psql('postgres', 'TABLE cqrs.master');

# A failing update leaves the old version.
$node->psql(
	'postgres', qq{
	BEGIN;
	ALTER EXTENSION cqrs UPDATE TO '$NEXT';
	ALTER EXTENSION cqrs UPDATE TO 'nope';
	COMMIT},
	stderr => \my $stderr);
like($stderr, qr/no update path/, 'a version that does not exist');
is( $node->safe_psql(
		'postgres',
		q{SELECT extversion FROM pg_extension WHERE extname = 'cqrs'}),
	'1.0.0',
	'leaves the old version');

$node->safe_psql('postgres', "ALTER EXTENSION cqrs UPDATE TO '$NEXT'");
is($node->safe_psql('postgres', 'SELECT tools.cqrs_version()'),
	$NEXT, 'new objects are where CREATE EXTENSION put the others');
is($node->safe_psql('postgres', 'TABLE cqrs.master'),
	$masters, 'masters are kept');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.outbox'),
	1, 'the outbox is kept');
is($node->safe_psql('postgres', 'SELECT state, pid FROM cqrs.stats'),
	"paused|$pid", 'the publisher goes on, and is still paused');

$session->query_safe(q{UPDATE author SET name = 'Carl'});
$session->quit;
$node->safe_psql('postgres', q{UPDATE author SET name = 'Dora'});
$node->safe_psql('postgres', q{SELECT tools.cqrs_resume()});
wait_published($node);
my @messages = wait_for_messages($consumer, 4);
is_deeply(
	[ map { $_->{body}{instance_data}{name} } @messages ],
	[ 'Ada', 'Bob', 'Carl', 'Dora' ],
	'messages of before and after the update arrive, in order');
is_deeply(
	$messages[3]{body}{previous_data},
	{ name => 'Carl' },
	'with previous values');

# A publisher that starts with other objects fails; they become what it needs.
$node->safe_psql('postgres', "ALTER EXTENSION cqrs UPDATE TO '$MOVED'");
my $size = -s $node->logfile;
$node->restart;
ok( RabbitMQ->poll_until(
		sub {
			return slurp_file($node->logfile, $size) =~
			  /ready to accept connections.*do not match the loaded library/s;
		},
		60),
	'the publisher notices at its start');
$node->safe_psql('postgres', "ALTER EXTENSION cqrs UPDATE TO '$NEXT'");
wait_for_stats($node, 'pid IS NOT NULL');
pass('and starts when the objects have been updated');

# Objects of a version that the library is not made for.
$node->safe_psql('postgres', "ALTER EXTENSION cqrs UPDATE TO '$LATER'");
foreach my $command (
	q{UPDATE author SET name = 'Eve'},
	q{SELECT tools.cqrs_alter('author', '{}')},
	q{ALTER TABLE author ADD COLUMN note text})
{
	$node->psql('postgres', $command, stderr => \$stderr);
	like(
		$stderr,
		qr/"cqrs.master" has other columns.*HINT:  Use ALTER EXTENSION cqrs UPDATE/s,
		"refused: $command");
}
$node->safe_psql('postgres', 'DROP EXTENSION cqrs CASCADE');
$node->safe_psql('postgres',
	"CREATE EXTENSION cqrs SCHEMA tools VERSION '$NEXT'");
$node->safe_psql('postgres', q{SELECT tools.cqrs_register('author')});

# The new version after a restart, and masters are made and ended as before.
$node->restart;
$node->safe_psql(
	'postgres', q{
	CREATE TABLE book (id int PRIMARY KEY);
	SELECT tools.cqrs_register('book');
	SELECT tools.cqrs_unregister('author');
	INSERT INTO book VALUES (1)});
wait_published($node);
is( $node->safe_psql(
		'postgres',
		q{SELECT extversion FROM pg_extension WHERE extname = 'cqrs'}),
	$NEXT,
	'the new version stays');
stop_consumer($consumer);
$node->safe_psql('postgres', 'DROP EXTENSION cqrs CASCADE');
$node->stop;
done_testing();
