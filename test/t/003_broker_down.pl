# While the broker is away, transactions commit as ever (I15); once it is back,
# everything arrives without any further traffic.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $SESSIONS     = 4;
my $TRANSACTIONS = 250;    # of each session

my $broker = RabbitMQ->new('down');
$broker->start;
my $node =
  new_master('down', $broker, conf => "cqrs.reconnect_delay_max = '500ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE account (id bigserial PRIMARY KEY, counter int);
	SELECT cqrs_register('account')});
declare_queue($broker, 'replica', 'account');
wait_for_state($node, 'publishing');

my $script = "$PostgreSQL::Test::Utils::tmp_check/transaction.sql";
append_to_file($script, <<'END');
BEGIN;
INSERT INTO account (counter) VALUES (0) RETURNING id AS new \gset
END;
UPDATE account SET counter = counter + 1 WHERE id = :new;
END

$broker->stop;
wait_for_state($node, 'waiting');
my $start = time;
my ($report, $errors);
IPC::Run::run(
	[   'pgbench', '-n', '-f', $script, '-c', $SESSIONS, '-j', 2,
		'-t',      $TRANSACTIONS / 2,
		'-d',      $node->connstr('postgres') ],
	'>',
	\$report,
	'2>',
	\$errors) or BAIL_OUT($errors);
my $elapsed = time - $start;
note $report;

my $count = $SESSIONS * $TRANSACTIONS;
is($node->safe_psql('postgres', 'SELECT state, pending FROM cqrs.stats'),
	"waiting|$count", "$count transactions commit without a broker");
cmp_ok($elapsed, '<', 10, 'and are not held up');
my $age = $node->safe_psql('postgres',
	'SELECT oldest_pending_age BETWEEN interval $$0$$ AND interval $$30 s$$ FROM cqrs.stats'
);
is($age, 't', 'age of the oldest pending message');

# Nothing commits from here on: the publisher has to come back by itself.
$broker->start;
wait_published($node);
my @expected = map { [ 'account', split /\|/ ] } split /\n/,
  $node->safe_psql(
	'postgres',
	'SELECT id, revision FROM account,
		generate_series(0, cqrs_revision) revision');
is(scalar(@expected), $count, 'the ledger is complete');
my @messages = drain_queue($broker, 'replica');
is(scalar(@messages), $count, 'every message arrives once');
is(join("\n", ledger_errors(\@messages, \@expected)),
	'', 'and they are what was committed, in order');

# A restart of the broker while nothing happens, and one message afterwards.
my $reconnects =
  $node->safe_psql('postgres', 'SELECT reconnects FROM cqrs.stats');
is($reconnects, 1, 'reconnects');
$broker->restart;
$node->poll_query_until('postgres',
	q{SELECT state = 'publishing' AND reconnects = 2 FROM cqrs.stats})
  or BAIL_OUT('the publisher did not reconnect');
$node->safe_psql('postgres', 'UPDATE account SET counter = 7 WHERE id = 1');
wait_published($node);
@messages = drain_queue($broker, 'replica');
is(join(',', map { $_->{body}{instance_data}{counter} } @messages),
	'7', 'publishing goes on after a restart of the broker');
is( $node->safe_psql(
		'postgres',
		'SELECT confirmed = published AND errors > 0 AND last_error_at IS NOT NULL FROM cqrs.stats'
	),
	't',
	'counters after the failures');

$node->stop;
done_testing();
