# What reaches the workers and what does not: settings of databases and roles,
# and commits of prepared transactions by an apply worker.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('workers');
$broker->start;
my $node = new_master('workers', $broker,
	conf => "cqrs.reconnect_delay_max = '500ms'\n");
declare_queue($broker, 'replica', 'item', 'applied');
$node->safe_psql('postgres',
	'CREATE DATABASE app; CREATE ROLE app_owner; CREATE ROLE other');
$node->safe_psql(
	'app', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register('item')});

# The session of the test is not to have what the database sets.
my $connstr = $node->connstr('app') . q{ options='-c role=none
	-c session_replication_role=origin -c statement_timeout=0 -c lock_timeout=0
	-c default_transaction_read_only=off -c idle_in_transaction_session_timeout=0 -c exit_on_error=off -c search_path=public
	-c client_min_messages=error'} =~ s/\s+/ /gr;

sub query
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('app', $sql, connstr => $connstr);

	is($stderr, '', "no errors: $sql") if $status != 0 || $stderr ne '';
	return $stdout;
}

# Restarts the server and expects that a row gets through.
my $key = 0;

sub publishes
{
	my ($what) = @_;
	my @messages;

	$node->restart;
	$key++;
	query("INSERT INTO item VALUES ($key)");
	RabbitMQ->poll_until(
		sub {
			push @messages, drain_queue($broker, 'replica');
			return @messages > 0;
		},
		15);
	is(join(' ', map { $_->{body}{instance_pk} } @messages), $key, $what);
	is(query('SELECT errors, last_error FROM cqrs.stats'),
		'0|', "without an error: $what");
	return;
}

my $superuser =
  $node->safe_psql('postgres', 'SELECT quote_ident(current_user)');
my @SETTINGS = (
	q{role = 'app_owner'},
	q{search_path = 'nowhere'},
	q{default_transaction_read_only = on},
	q{default_transaction_isolation = 'serializable'},
	q{default_transaction_deferrable = on},
	q{statement_timeout = '1ms'},
	q{lock_timeout = '1ms'},
	q{idle_in_transaction_session_timeout = '1ms'},
	q{session_replication_role = 'replica'},
	q{row_security = off},
	q{exit_on_error = on},
	q{log_statement = 'all'},
	q{log_min_messages = 'panic'},
	q{log_min_error_statement = 'panic'},
	q{client_encoding = 'LATIN1'},
	q{DateStyle = 'German'},
	q{bytea_output = 'escape'},
	q{TimeZone = 'Asia/Kathmandu'});

foreach my $target (
	'DATABASE app',
	"ROLE $superuser",
	"ROLE $superuser IN DATABASE app",
	'ROLE ALL')
{
	$node->safe_psql('app', join '; ',
		map { "ALTER $target SET $_" } @SETTINGS);
	publishes("ALTER $target SET ...");
	$node->safe_psql(
		'postgres',
		"ALTER $target RESET ALL",
		connstr => $connstr =~ s/dbname='app'/dbname='postgres'/r);
}

# A role that sessions of the database become, by name, and one that is gone.
$node->safe_psql('postgres',
	q{ALTER DATABASE app SET session_authorization = 'other'});
publishes('session_authorization of the database');
$node->safe_psql(
	'postgres', q{
	ALTER DATABASE app RESET ALL;
	ALTER DATABASE app SET role = 'other';
	DROP ROLE other});
publishes('a role that does not exist any more');
$node->safe_psql('postgres', 'ALTER DATABASE app RESET ALL');

# An apply worker commits a prepared transaction; nobody else commits anything.
my $origin =
  new_master('origin', undef, init => [ allows_streaming => 'logical' ]);
$_->safe_psql('postgres', 'CREATE TABLE applied (id int PRIMARY KEY)')
  foreach ($origin, $node);
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION IF NOT EXISTS cqrs;
	SELECT cqrs_register('applied', replication => 'replica')});
$origin->safe_psql('postgres',
	'CREATE PUBLICATION everything FOR TABLE applied');
my $address = $origin->connstr . ' dbname=postgres';
$node->safe_psql(
	'postgres', "CREATE SUBSCRIPTION everything CONNECTION '$address'
	PUBLICATION everything WITH (copy_data = false, two_phase = true)");
$node->poll_query_until('postgres',
	q{SELECT subtwophasestate = 'e' FROM pg_subscription});
$origin->safe_psql('postgres', 'INSERT INTO applied VALUES (1)');
wait_for_state($node, 'publishing');
RabbitMQ->poll_until(sub { drain_queue($broker, 'replica') > 0 }, 30)
  or BAIL_OUT('nothing is applied');

$origin->safe_psql('postgres',
	q{BEGIN; INSERT INTO applied VALUES (2); PREPARE TRANSACTION 'two'});
$node->poll_query_until('postgres',
	'SELECT count(*) = 1 FROM pg_prepared_xacts');
is(scalar(drain_queue($broker, 'replica')), 0, 'prepared: nothing yet');
$origin->safe_psql('postgres', q{COMMIT PREPARED 'two'});
my @messages;
ok( RabbitMQ->poll_until(
		sub {
			push @messages, drain_queue($broker, 'replica');
			return @messages > 0;
		},
		15),
	'COMMIT PREPARED by an apply worker is published at once');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
$origin->stop;
$node->stop;
done_testing();
