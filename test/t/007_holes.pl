# Transactions that commit late, or never, after they have drawn their ids (I4).
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('holes');
$broker->start;
my $node = new_master('holes', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	CREATE TABLE failing (id int PRIMARY KEY, name text);
	CREATE FUNCTION fail_at_two(failing, text, jsonb, jsonb)
		RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
		BEGIN
			IF ($1).id = 2 THEN
				RAISE 'not this one';
			END IF;
			RETURN '{}';
		END $$;
	CREATE TABLE payload (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('author'), cqrs_register('payload'),
		cqrs_register('failing', meta => 'fail_at_two')});
my $consumer =
  start_consumer($broker, 'replica', 'author', 'failing', 'payload');
my $seen = 0;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Inserts an author and expects his message next, within a second or two.
sub publishes_at_once
{
	my ($id, $what) = @_;
	my $start = time;

	query("INSERT INTO author VALUES ($id, 'x')");
	my @messages = wait_for_messages($consumer, $seen + 1);
	is( join(' ',
			map { $_->{body}{instance_pk} } @messages[ $seen .. $#messages ]),
		$id,
		"published: $what");
	cmp_ok(time - $start, '<', 2, "at once: $what");
	$seen = @messages;
	return;
}

# The watermark, and the highest id that was ever given to a message.
sub watermark
{
	return query('SELECT cqrs.current_watermark()');
}

sub highest_id
{
	my @ids = map { (split /-/, $_->{properties}{message_id})[-1] }
	  messages($consumer);
	return (sort { $a <=> $b } @ids)[-1];
}

# An open transaction with a transaction id, that has drawn no ids yet.
my ($in, $out, $err) = ('', '', '');
my $idle = open_psql($node, \$in, \$out, \$err);
$in .= "BEGIN; INSERT INTO author VALUES (1, 'late'); SELECT 'open';\n";
$idle->pump until $out =~ /open/ or $err;
is($err, '', 'a transaction is open');
publishes_at_once(10, 'beside an open transaction');
wait_published($node);

# A prepared one has drawn its ids.
query(
	q{BEGIN; INSERT INTO author VALUES (2, 'prepared');
	PREPARE TRANSACTION 'p'});
publishes_at_once($_, 'beside a prepared transaction') foreach 11 .. 13;
my $before = watermark();
cmp_ok($before, '<', highest_id(),
	'the watermark waits for the prepared transaction');

# After a crash nobody remembers the hole.
$node->stop('immediate');
$in = '';
$idle->kill_kill;
$node->start;
query(q{INSERT INTO author VALUES (15, 'after the crash')});
RabbitMQ->poll_until(
	sub {
		grep { $_->{body}{instance_pk} == 15 } messages($consumer);
	},
	30) or BAIL_OUT('no message after the crash');
ok(!(grep { $_->{body}{instance_pk} == 2 } messages($consumer)),
	'the prepared transaction is not published');
query(q{COMMIT PREPARED 'p'});
RabbitMQ->poll_until(
	sub {
		grep { $_->{body}{instance_pk} == 2 } messages($consumer);
	},
	30);
my %id_of;
foreach my $message (messages($consumer))
{
	my $id = $message->{properties}{message_id};
	$id_of{$id}{ $message->{body}{instance_pk} } = 1;
}
is_deeply(
	[ sort { $a <=> $b } map { keys %$_ } values %id_of ],
	[ 2, 10 .. 13, 15 ],
	'it is after COMMIT PREPARED, and each message has one id of its own');
wait_published($node);
$seen = messages($consumer);
cmp_ok(watermark(), '>=', highest_id(), 'the watermark goes on');

# A transaction that fails after it has drawn its ids.
my $failed = $node->psql('postgres',
	q{INSERT INTO failing SELECT i, 'x' FROM generate_series(1, 3) i});
isnt($failed, 0, 'a transaction fails while it commits');
publishes_at_once(20, 'after a transaction that failed while committing');
$node->poll_query_until('postgres',
	'SELECT cqrs.current_watermark() >= ' . highest_id())
  or BAIL_OUT('the hole is not settled');
pass('the hole is settled');

# A transaction that is rolled back by PostgreSQL after it was prepared.
query(
	q{BEGIN; INSERT INTO author VALUES (3, 'never');
	PREPARE TRANSACTION 'q'});
publishes_at_once(21, 'beside another prepared transaction');
cmp_ok(watermark(), '<', highest_id(), 'the watermark waits');
query(q{ROLLBACK PREPARED 'q'});
$node->poll_query_until('postgres',
	'SELECT cqrs.current_watermark() >= ' . highest_id())
  or BAIL_OUT('the hole of ROLLBACK PREPARED is not settled');
pass('the hole of ROLLBACK PREPARED is settled');

# Two holes, each with more messages than the window has room for.
$node->append_conf('postgresql.conf', 'cqrs.confirm_window = 100');
$node->reload;
foreach my $hole (1, 2)
{
	query(
		qq{BEGIN; INSERT INTO author
			SELECT i, 'many' FROM generate_series(${hole}0001, ${hole}1000) i;
		PREPARE TRANSACTION 'hole$hole'});
}
publishes_at_once(22, 'beside two large holes');
query(qq{COMMIT PREPARED 'hole$_'}) foreach 1, 2;
wait_published($node);
my @keys = map { $_->{body}{instance_pk} }
  (wait_for_messages($consumer, $seen + 2000))[ $seen .. $seen + 1999 ];
foreach my $hole (1, 2)
{
	is( join(',', grep { /^${hole}/ } @keys),
		join(',', "${hole}0001" .. "${hole}1000"),
		"hole $hole: all its messages, once, in order");
}
$seen += 2000;
cmp_ok(watermark(), '>=', highest_id(), 'the watermark goes on');

# Many writers that commit in any order; every fifth rolls back, some of them
# after they have drawn ids.
my $script = "$PostgreSQL::Test::Utils::tmp_check/writer.sql";
append_to_file($script, <<'END');
\set last random(1, 5)
\set rows random(1, 4)
BEGIN;
INSERT INTO payload (data) SELECT 'row ' || i FROM generate_series(1, :rows) i;
\if :last = 1
INSERT INTO failing VALUES (1, 'x') ON CONFLICT DO NOTHING;
ROLLBACK;
\elif :last = 2
PREPARE TRANSACTION 'writer:client_id';
COMMIT PREPARED 'writer:client_id';
\elif :last = 3
PREPARE TRANSACTION 'writer:client_id';
ROLLBACK PREPARED 'writer:client_id';
\else
COMMIT;
\endif
END
my ($report, $errors);
IPC::Run::run(
	[   'pgbench', '-n', '-f', $script, '-c', 8, '-j', 2, '-t', 200, '-d',
		$node->connstr('postgres') ],
	'>',
	\$report,
	'2>',
	\$errors) or BAIL_OUT($errors);
wait_published($node);
my @committed = split /\n/, query('SELECT id FROM payload ORDER BY id');
wait_for_messages($consumer, $seen + @committed);
query(q{INSERT INTO author VALUES (99, 'end')});
wait_published($node);
RabbitMQ->poll_until(
	sub {
		my @messages = messages($consumer);
		return $messages[-1]{body}{instance_pk} == 99;
	},
	30) or BAIL_OUT('the last message did not arrive');
my @all = messages($consumer);
my @new = @all[ $seen .. $#all - 1 ];
is( join(',', sort { $a <=> $b } map { $_->{body}{instance_pk} } @new),
	join(',', @committed),
	'exactly what was committed has arrived, once: '
	  . scalar(@committed)
	  . ' messages');
my %ids = map { $_->{properties}{message_id} => 1 } @new;
is(scalar(keys %ids), scalar(@new), 'all message ids are different');

stop_consumer($consumer);
$node->stop;
done_testing();
