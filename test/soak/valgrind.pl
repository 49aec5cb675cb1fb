# Memory of the publisher under valgrind: 100,000 messages over several
# connections that are lost in different ways lose not a byte, and nothing is
# read or written that is not ours.
#
# PostgreSQL is not built with USE_VALGRIND here, so valgrind does not know its
# memory contexts: what it reports counts only where the extension, or one of
# the libraries that it calls, is on the stack.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $MESSAGES = 100_000;
my $ROUNDS   = 10;
my $TMP      = $PostgreSQL::Test::Utils::tmp_check;

plan skip_all => 'valgrind is not installed'
  if system('valgrind --version >/dev/null 2>&1') != 0;

my $broker = RabbitMQ->new('valgrind');
$broker->start;
my $node = new_master('valgrind', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '500ms'
log_statement = none
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');
wait_for_state($node, 'publishing');
$node->stop;

# All processes are forked from the one that valgrind starts.
my $postgres = `pg_config --bindir` =~ s/\n\z//r . '/postgres';
my $server   = IPC::Run::start(
	[   'valgrind',                    '--leak-check=full',
		'--show-leak-kinds=definite',  '--num-callers=40',
		"--log-file=$TMP/valgrind.%p", '-q',
		$postgres,                     '-D',
		$node->data_dir ],
	'<',
	'/dev/null',
	'>&',
	"$PostgreSQL::Test::Utils::log_path/valgrind_server.log");
RabbitMQ->poll_until(
	sub {
		return
		  system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) ==
		  0;
	},
	120) or BAIL_OUT('the server does not start');

my @loss = (
	sub { $broker->ctl('close_all_connections', 'test') },
	sub { $broker->kill9; $broker->start },
	sub { $broker->restart; },
	sub {
		$node->safe_psql('postgres', 'SELECT cqrs_pause()');
		wait_for_state($node, 'paused');
		$node->safe_psql('postgres', 'SELECT cqrs_resume()');
	},
	sub { $node->safe_psql('postgres', 'SELECT pg_reload_conf()') });
wait_for_state($node, 'publishing');
my $pid = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
foreach my $round (1 .. $ROUNDS)
{
	$node->safe_psql('postgres',
		"INSERT INTO item (data) SELECT repeat('x', 100) FROM generate_series(1, $MESSAGES / $ROUNDS)"
	);
	$node->poll_query_until('postgres',
		'SELECT published > 0 FROM cqrs.publisher_stats()');
	$loss[ $round % @loss ]->();
	wait_published($node);
	$broker->ctl('purge_queue', 'replica');
}
is($node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats'),
	$pid, 'one process has published all of it');
note $node->safe_psql('postgres',
	q{SELECT format('%s confirmed, %s published, %s connections', confirmed, published, connects) FROM cqrs.stats}
);
cmp_ok($node->safe_psql('postgres', 'SELECT connects FROM cqrs.stats'),
	'>', 4, 'over several connections');
$server->signal('INT');
$server->finish;

# Whether a report is about us: of its frames in the server, the extension or
# the libraries that we call, the innermost one is not the server's.
my %sources =
  map { basename($_) => 1 } glob dirname(__FILE__) . '/../../src/{,*/}*.c';

sub is_ours
{
	my ($report) = @_;

	foreach my $frame ($report =~ /(?:at|by) 0x\w+: (.*)$/mg)
	{
		return 1 if $frame =~ /\((\w+\.c):\d+\)$/ && $sources{$1};
		return 1
		  if $frame =~ /\(in \S*(?:cqrs\.so|librabbitmq|libssl|libcrypto)/;
		return 0 if $frame =~ /\(in \S*\/postgres\)$/;
	}
	return 0;
}

# Reports are separated by lines without text.
my @bad;
my $reports = 0;
foreach my $file (glob "$TMP/valgrind.*")
{
	my @reports = grep { /\S/ } split /^==\d+== $/m, slurp_file($file);

	$reports += @reports;
	push @bad, map { "$file: $_" } grep { is_ours($_) } @reports;
}
ok(-e "$TMP/valgrind.$pid", 'the publisher was watched');
is(join("\n", @bad), '', 'nothing is lost or touched that is not ours');
note scalar(@bad), " of $reports reports are ours";
done_testing();
