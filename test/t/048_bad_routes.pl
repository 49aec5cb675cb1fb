# Many masters whose exchange does not work: they cost other masters next to
# nothing, and their messages arrive, in order, when it does.  CQRS_BAD_MASTERS
# says how many they are.
use strict;
use warnings;

use CqrsTest;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $BAD    = $ENV{CQRS_BAD_MASTERS} // 500;
my $MENDED = 20;
my $ROWS   = 20_000;
my $RUNS   = 3;

my $broker = RabbitMQ->new('routes');
$broker->start;
my $node = new_master('routes', $broker, conf => <<'END');
cqrs.unroutable = 'keep'
cqrs.reconnect_delay_max = '2s'
max_locks_per_transaction = 1000
END
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE good (id int PRIMARY KEY, data text);
	SELECT cqrs_register('good');
	CREATE TABLE own (id int PRIMARY KEY, data text);
	SELECT cqrs_register('own', exchange => 'own')});
$node->safe_psql(
	'postgres', qq{
	DO \$\$
	BEGIN
		FOR i IN 1 .. $BAD LOOP
			EXECUTE format('CREATE TABLE bad_%s (id int PRIMARY KEY, data text)', i);
			PERFORM cqrs_register(format('bad_%s', i)::regclass,
				exchange => format('bad_%s', i));
		END LOOP;
	END \$\$});
declare_queue($broker, 'good', 'good');
bind_queue('own', 'own');
for_exchanges($BAD, 'declare(E, fanout, true, false, false, [], <<"test">>)');
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Calls a function of rabbit_exchange for the first exchanges of the bad ones.
sub for_exchanges
{
	my ($count, $call) = @_;

	$broker->ctl('eval',
			'lists:foreach(fun(I) -> E = rabbit_misc:r(<<"/">>, exchange, '
		  . 'list_to_binary("bad_" ++ integer_to_list(I))), '
		  . "rabbit_exchange:$call end, lists:seq(1, $count)).");
	return;
}

# Binds a queue to the exchange of a master that has its own.
sub bind_queue
{
	my ($queue, $master) = @_;

	system_or_bail(
		$ENV{CQRS_CONSUME}, '--url',
		$broker->url,       '--exchange',
		$master,            '--queue',
		$queue,             '--bind',
		$master,            '--declare-only');
	return;
}

# Seconds that messages of a good master take, at the best of some runs.
my $next = 0;

sub seconds_of_good
{
	my @seconds;

	foreach my $run (1 .. $RUNS)
	{
		my $first = $next + 1;
		my $last  = $next += $ROWS;
		my $want  = query('SELECT confirmed FROM cqrs.stats') + $ROWS;
		my $start = time;
		query(
			"INSERT INTO good SELECT i, 'x' FROM generate_series($first, $last) i"
		);
		wait_for_stats($node, "confirmed >= $want");
		push @seconds, time - $start;
	}
	return min(@seconds);
}

my $without = seconds_of_good();

# Each row is changed twice more.
sub change_bad
{
	query(
		qq{
		DO \$\$
		BEGIN
			FOR i IN 1 .. $BAD LOOP
				EXECUTE format('INSERT INTO bad_%s VALUES (1, ''x''), (2, ''x'')', i);
			END LOOP;
		END \$\$});
	foreach (1 .. 2)
	{
		query(
			qq{
			DO \$\$
			BEGIN
				FOR i IN 1 .. $BAD LOOP
					EXECUTE format('UPDATE bad_%s SET data = ''y''', i);
				END LOOP;
			END \$\$});
	}
	return;
}

my $connects = query('SELECT connects FROM cqrs.stats');
change_bad();
my $first_with = seconds_of_good();
wait_for_stats($node, "held = $BAD");
my $with = seconds_of_good();
diag(
	sprintf(
		'%d messages take %.2f s, with %d bad routes %.2f s at first, then %.2f s',
		$ROWS, $without, $BAD, $first_with, $with));
cmp_ok(
	$with, '<',
	2 * $without + 0.5,
	'bad routes cost others next to nothing');
is(query('SELECT connects FROM cqrs.stats'),
	$connects, 'nor does the connection end for them');
like(
	query('SELECT last_error FROM cqrs.stats'),
	qr/^master "bad_\d+": could not declare the exchange: broker closed the channel: 406/,
	'last_error says why they are held');
my @keys = arrived_keys($broker, 'good');
is("@keys", join(' ', 1 .. $next), 'each message of the good master, once');

# A master with an exchange of its own that works gets its turn among them.
query(
	"INSERT INTO own SELECT i, 'x' FROM generate_series(1, 100) i; UPDATE own SET data = 'y'"
);
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('own') >= 200 }, 60),
	'an exchange that works is found among those that do not');
my @own      = drain_queue($broker, 'own');
my @expected = map { [ 'own', $_, 0 ], [ 'own', $_, 1 ] } 1 .. 100;
is(join("\n", ledger_errors(\@own, \@expected)),
	'', 'its messages arrive in order');

# Some exchanges are mended.
for_exchanges($MENDED, 'delete(E, false, <<"test">>)');
bind_queue('bad', "bad_$_") foreach 1 .. $MENDED;
wait_for_stats($node, 'held = ' . ($BAD - $MENDED));
ok( RabbitMQ->poll_until(
		sub { return $broker->queue_length('bad') >= 6 * $MENDED }, 60),
	'messages arrive when their exchange works');
my @bad = drain_queue($broker, 'bad');
@expected = ();
foreach my $i (1 .. $MENDED)
{
	push @expected, map { [ "bad_$i", 1, $_ ], [ "bad_$i", 2, $_ ] } 0 .. 2;
}
is(join("\n", ledger_errors(\@bad, \@expected)), '', 'all, in order');
is(query('SELECT parked FROM cqrs.stats'), 0, 'none of this parks anything');

# Routing keys that are not permitted end the connection once.
$broker->ctl('set_topic_permissions', '-p', '/', 'guest', 'cqrs',
	'^(?!denied).*', '.*');
query(
	q{
	DO $$
	BEGIN
		FOR i IN 1 .. 50 LOOP
			EXECUTE format('CREATE TABLE denied_%s (id int PRIMARY KEY)', i);
			PERFORM cqrs_register(format('denied_%s', i)::regclass);
			EXECUTE format('INSERT INTO denied_%s VALUES (1)', i);
		END LOOP;
	END $$});
wait_for_stats($node, 'held = ' . ($BAD - $MENDED + 50));
cmp_ok(
	query('SELECT connects FROM cqrs.stats'),
	'<=',
	$connects + 1,
	'forbidden routing keys end one connection at most');
seconds_of_good();
@keys = arrived_keys($broker, 'good');
my %seen;
is( join(' ', grep { !$seen{$_}++ } @keys),
	join(' ', $next - $RUNS * $ROWS + 1 .. $next),
	'other masters flow on');

$node->stop;
done_testing();
