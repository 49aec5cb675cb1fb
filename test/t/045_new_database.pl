# A database that is created and written to while the launcher reads which ones
# there are keeps its place in shared memory.  A debugger holds the launcher at
# that moment, where there is one that may.
use strict;
use warnings;

use CqrsTest;
use Fcntl;
use IPC::Run;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

plan skip_all => 'gdb is missing' if `gdb --version 2>&1` !~ /GNU gdb/;

my $broker = RabbitMQ->new('new_database');
$broker->start;
my $node = new_master('new_database', $broker);
declare_queue($broker, 'replica', 'item');
$node->safe_psql('postgres', 'CREATE DATABASE pattern IS_TEMPLATE true');
$node->safe_psql(
	'pattern', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id serial PRIMARY KEY);
	SELECT cqrs_register('item')});
wait_for_state($node, 'publishing');

# Where the launcher is held: pipes that the debugger reads from meanwhile, and
# files that show how far the debugger is.
my $dir = $PostgreSQL::Test::Utils::tmp_check;

sub hold
{
	my ($function, $name) = @_;

	mkfifo("$dir/$name.gate", 0600) or BAIL_OUT("no pipe $name: $!");
	return (
		'-ex', "break $function",
		'-ex', "shell touch $dir/$name.set",
		'-ex', 'continue',
		'-ex', "shell touch $dir/$name; cat $dir/$name.gate",
		'-ex', 'delete');
}

my $pid = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'cqrs launcher'});
my $log = "$PostgreSQL::Test::Utils::log_path/gdb.log";
my $gdb = IPC::Run::start(
	[   'gdb',
		'-q',
		'-batch',
		'-nx',
		'-p',
		$pid,
		'-ex',
		'handle SIGURG SIGUSR1 SIGUSR2 SIGHUP nostop noprint pass',
		hold('CommitTransactionCommand',        'databases_read'),
		hold('RegisterDynamicBackgroundWorker', 'slots_freed'),
		'-ex',
		'detach' ],
	'<',
	'/dev/null',
	'>&', $log);
RabbitMQ->poll_until(
	sub { return -e "$dir/databases_read.set" || !$gdb->pumpable }, 60);
if (!-e "$dir/databases_read.set"
	|| slurp_file($log) =~ /Operation not permitted/)
{
	let_go($_) foreach qw(databases_read slots_freed);
	$gdb->finish;
	$node->stop;
	plan skip_all => 'gdb may not attach';
}

# Lets the launcher go on: the debugger reads the end of the pipe.
sub let_go
{
	my ($name) = @_;

	RabbitMQ->poll_until(
		sub {
			return 1 unless $gdb->pumpable;
			return sysopen my $gate, "$dir/$name.gate", O_WRONLY | O_NONBLOCK;
		},
		60) or BAIL_OUT("the launcher is not let go: $name");
	return;
}

# Waits until the launcher is held there.
sub wait_for_hold
{
	my ($name) = @_;

	RabbitMQ->poll_until(sub { return -e "$dir/$name" }, 60)
	  or BAIL_OUT("the launcher is not held: $name");
	return;
}

# Opens a session of a database, which writes a row for each call.
sub open_writer
{
	my ($database) = @_;
	my ($in, $out) = ('', '');
	my $psql =
	  IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($database) ],
		'<', \$in, '>', \$out);

	return sub {
		my ($key) = @_;

		$out = '';
		$in =
		  defined $key
		  ? "INSERT INTO item VALUES ($key); SELECT 'written';\n"
		  : "\\q\n";
		return $psql->finish unless defined $key;
		$psql->pump until $out =~ /written/;
		return;
	};
}

# While the launcher knows which databases there are, two others are made.
$node->safe_psql('postgres', 'CREATE DATABASE other');
wait_for_hold('databases_read');
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE pattern")
  foreach qw(late later);
my $late = open_writer('late');
$late->(1);
let_go('databases_read');
wait_for_hold('slots_freed');
my $later = open_writer('later');
$later->(101);
let_go('slots_freed');
$gdb->finish;
$node->safe_psql($_, 'SELECT cqrs_resume()') foreach qw(late later);
wait_published($node, $_) foreach qw(late later);

# Both write on.
$late->(2);
$later->(102);
my %keys;
RabbitMQ->poll_until(
	sub {
		$keys{ $_->{body}{instance_pk} } = 1
		  foreach drain_queue($broker, 'replica');
		return keys %keys == 4;
	},
	20);
is(join(' ', sort keys %keys), '1 101 102 2', 'all rows are published');
$_->() foreach ($late, $later);
$node->stop;
done_testing();
