# Settings of databases: they take effect without a restart and a reload, those
# of roles and sessions never do.  Two databases that publish the same notice it.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('databases');
$broker->start;
$broker->ctl('add_vhost', 'other');
$broker->ctl('set_permissions', '-p', 'other', 'guest', '.*', '.*', '.*');
my $passwords = "$PostgreSQL::Test::Utils::tmp_check/passwords";
append_to_file($passwords, "*:*:other:guest:guest\n");
chmod oct('0600'), $passwords;
my $node = new_master(
	'databases', $broker,
	extension => 0,
	conf      => "cqrs.password_file = '$passwords'\n");
my $address = '127.0.0.1:' . $broker->port;
declare_queue($broker, 'replica', 'author');
$broker->ctl(
	'eval', q{
	rabbit_exchange:declare(rabbit_misc:r(<<"/">>, exchange, <<"second">>),
		topic, true, false, false, [], <<"test">>),
	rabbit_binding:add({binding, rabbit_misc:r(<<"/">>, exchange, <<"second">>),
		<<"author">>, rabbit_misc:r(<<"/">>, queue, <<"replica">>), []}, <<"test">>).}
);

# Returns what is written to standard error.
sub errors_of
{
	my ($dbname, $sql,  %params) = @_;
	my (undef,   undef, $stderr) = $node->psql($dbname, $sql, %params);
	return $stderr;
}

sub query
{
	my ($dbname, $sql) = @_;
	return $node->safe_psql($dbname, $sql);
}

# Inserts a row, and returns where its message goes and whether it expires.
my $key = 0;

sub message_of
{
	my ($dbname) = @_;
	my @messages;

	$key++;
	query($dbname, "INSERT INTO author VALUES ($key)");
	RabbitMQ->poll_until(
		sub {
			push @messages, drain_queue($broker, 'replica');
			return @messages > 0;
		},
		30) or BAIL_OUT("no message of $dbname");
	return join ' ', map {
		my $body = $_->{body};
		"$_->{exchange} $body->{instance_pk} "
		  . (defined $body->{expires} ? 'expires' : 'for ever')
	} @messages;
}

# The publisher's process, once it is another one than $old and is connected.
sub publisher
{
	my ($dbname, $old) = @_;

	$node->poll_query_until($dbname,
			"SELECT state = 'publishing' AND pid <> "
		  . ($old // 0)
		  . ' FROM cqrs.stats')
	  or BAIL_OUT("no publisher in $dbname");
	return query($dbname, 'SELECT pid FROM cqrs.stats');
}

sub check
{
	my ($dbname, $item) = @_;
	return query($dbname,
		"SELECT status, detail FROM cqrs_check() WHERE item = '$item'");
}
query('postgres', "CREATE DATABASE $_") foreach ('one', 'two');
my $REGISTER = q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY);
	SELECT cqrs_register('author')};

# The same in two databases.
is(errors_of('one', $REGISTER), '', 'the first one is alone');
publisher('one');
message_of('one');
like(
	errors_of('two', $REGISTER),
	qr/WARNING:  database "one" publishes with cqrs_id "author" to the same exchange, too/,
	'the second one is warned');
my $pid = publisher('two');
like(
	check('one', 'master author'),
	qr/^warning\|.*database "two" of this server/,
	'so is the first one');
like(
	errors_of('one', q{SELECT cqrs_alter('author', '{"message_ttl": null}')}),
	qr/database "two" publishes with cqrs_id "author"/,
	'when it changes its master, too');

# An exchange of one's own.
query('two', q{ALTER DATABASE two SET cqrs.exchange = 'second'});
$pid = publisher('two', $pid);
is(message_of('two'), "second $key expires", 'an exchange of the database');
is(message_of('one'), "cqrs $key expires", 'the other database has its own');
is( check($_, 'master author'),
	'ok|table public.author',
	"$_: nothing is mixed up any more") foreach ('one', 'two');
is( errors_of(
		'two', q{
		CREATE ROLE owner; ALTER TABLE author OWNER TO owner; SET ROLE owner;
		SELECT cqrs_alter('author', '{"exchange": "second"}');
		SELECT cqrs_alter('author', '{"exchange": null}')}),
	'',
	'owners may use it');

# ALTER ROLE ALL is another name of the same.
query('postgres', q{ALTER ROLE ALL IN DATABASE two SET cqrs.message_ttl = 0});
$pid = publisher('two', $pid);
is(message_of('two'), "second $key for ever", 'a time to live');

# Another broker, without a password.
my $error = errors_of('postgres',
	"ALTER DATABASE two SET cqrs.url = 'amqp://guest:s3cret\@$address/other'"
);
like(
	$error,
	qr/ERROR:  invalid value for parameter "cqrs.url"\nDETAIL:  .* must have no password.*\nHINT:  .*"cqrs.password_file"/,
	'a password of a database is refused');
unlike($error =~ s/^LINE \d.*//mgr, qr/s3cret/, 'and not shown');
query('postgres',
	"ALTER DATABASE two SET cqrs.url = 'amqp://guest\@$address/other'");
$pid = publisher('two', $pid);
like($broker->ctl('list_exchanges', '-p', 'other', 'name'),
	qr/^second$/m, 'the vhost of the database');
is(message_of('one'), "cqrs $key expires", 'the other database stays');

# Nothing has changed: the process stays.
foreach my $case (
	q{BEGIN; ALTER DATABASE two SET cqrs.exchange = 'third'; ROLLBACK},
	q{ALTER DATABASE two SET work_mem = '5MB'},
	q{ALTER DATABASE one SET cqrs.produce = on},
	q{CREATE ROLE nobody; SET ROLE nobody;
		DO $$BEGIN ALTER DATABASE two SET cqrs.exchange = 'stolen';
			EXCEPTION WHEN insufficient_privilege THEN NULL; END$$})
{
	errors_of('one', $case);
	query('two', 'SELECT cqrs.wake_publisher()');
	wait_published($node, 'two');
	is(publisher('two'), $pid, "no restart: $case");
}

# The values of the server again, and what has changed of these meanwhile.
$node->append_conf('postgresql.conf', "cqrs.message_ttl = 0");
$node->reload;
query('postgres', 'ALTER DATABASE two RESET ALL');
$pid = publisher('two', $pid);
is(message_of('two'), "cqrs $key for ever", 'RESET');

# A value that got into the catalog while the library was not loaded: nothing goes
# to the broker or the exchange of the server instead.
foreach my $invalid ('cqrs.url=ftp://nowhere', 'cqrs.exchange=amq.fanout')
{
	query(
		'postgres', qq{
		SET allow_system_table_mods = on;
		INSERT INTO pg_db_role_setting
			SELECT oid, 0, ARRAY['$invalid'] FROM pg_database WHERE datname = 'two'});
	kill 'TERM', $pid;
	ok( $node->poll_query_until(
			'two', "SELECT state = 'unconfigured' FROM cqrs.stats"),
		"$invalid: nothing is published");
	like(
		check('two', 'url'),
		qr/^error\|.* set for this database is invalid/,
		'cqrs_check says so');
	query('two',      'INSERT INTO author VALUES (' . ++$key . ')');
	query('postgres', 'ALTER DATABASE two RESET ALL');
	$pid = publisher('two', $pid);
	wait_published($node, 'two');
	is(scalar(drain_queue($broker, 'replica')), 1, 'it waits until then');
}

# Settings of another database change all the time: a worker that starts does not
# start again because of that.
sub time_starts
{
	my $begin = time;

	foreach (1 .. 4)
	{
		kill 'TERM', $pid;
		$pid = publisher('two', $pid);
	}
	return time - $begin;
}

my $quiet_s = time_starts();
my $writer =
  start_pgbench($node, 'postgres', "ALTER DATABASE postgres RESET ALL;\n");
my $busy_s = time_starts();
stop_pgbench($node, $writer);
cmp_ok($busy_s, '<', 2 * $quiet_s, 'starts among many changes');
is(message_of('two'), "cqrs $key for ever", 'a message after them');

# Roles and sessions.
my $superuser = query('postgres', 'SELECT quote_ident(current_user)');
query('postgres', "ALTER $_ SET cqrs.exchange = 'astray'")
  foreach ("ROLE $superuser", "ROLE $superuser IN DATABASE two", 'ROLE ALL');
kill 'TERM', $pid;
$pid = publisher('two', $pid);
is( message_of('two'),
	"cqrs $key for ever",
	'settings of roles are not for workers');
like(
	errors_of('two', 'SELECT 1'),
	qr/WARNING:  invalid value for parameter "cqrs.exchange": "astray"\nDETAIL:  .*roles and sessions/,
	'whoever has set them is told');
is(query('two', 'SHOW cqrs.exchange'), 'cqrs', 'nor for sessions');
query('postgres', "ALTER $_ RESET ALL")
  foreach ("ROLE $superuser", "ROLE $superuser IN DATABASE two", 'ROLE ALL');

foreach my $setting (
	q{cqrs.exchange = 'x'},
	q{cqrs.url = 'amqp://h'},
	q{cqrs.heartbeat = 5},
	q{cqrs.unroutable = keep},
	q{cqrs.ssl_verify = off},
	q{cqrs.ssl_ca_file = 'x'})
{
	like(
		errors_of('two', "\\set VERBOSITY verbose\nSET $setting"),
		qr/ERROR:  55P02: invalid value/,
		"SET $setting");
	like(
		errors_of(
			'two',
			"SELECT 1",
			connstr => $node->connstr('two')
			  . " options='-c "
			  . ($setting =~ s/[' ]//gr) . q{'}),
		qr/FATAL:  invalid value/,
		"options: $setting");
}
like(
	errors_of('postgres', 'ALTER DATABASE two SET cqrs.publishers = 2'),
	qr/"cqrs.publishers" cannot be changed now/,
	'the number of publishers is that of the server');

# A consumer.
query(
	'two', q{
	CREATE TABLE copy (id int PRIMARY KEY);
	SELECT cqrs_register_replica('copy', 'author');
	SELECT cqrs_consume('replica')});
wait_consumer($node, 'two', 'consuming');
query('two',
	q{ALTER DATABASE two SET cqrs.consumer_url = 'amqp://127.0.0.1:1'});
wait_consumer($node, 'two',
	q{state = 'waiting' AND last_error LIKE '%refused%'});
query('two', q{ALTER DATABASE two RESET cqrs.consumer_url});
wait_consumer($node, 'two', 'consuming');
query('one', 'INSERT INTO author VALUES (1000)');
$node->poll_query_until('two',
	'SELECT count(*) = 1 FROM copy WHERE id = 1000')
  or BAIL_OUT('nothing is consumed');
pass('a broker of the consumer of a database');

$node->stop;
done_testing();
