
=pod

=head1 NAME

CqrsTest - what the TAP tests of cqrs share

=head1 SYNOPSIS

  use CqrsTest;
  use RabbitMQ;

  my $broker = RabbitMQ->new('main');
  $broker->start;
  my $node = new_master('master', $broker);
  $node->safe_psql('postgres', q{SELECT cqrs_register('author')});

  declare_queue($broker, 'replica', 'author');
  my $consumer = start_consumer($broker, 'replica', 'author');
  $node->safe_psql('postgres', q{INSERT INTO author VALUES (1, 'Ada')});
  wait_published($node);
  my @messages = wait_for_messages($consumer, 1);
  is($messages[0]{routing_key}, 'author', 'routing key');
  is($messages[0]{body}{signal_type}, 'SAVE', 'signal');
  stop_consumer($consumer);

=head1 FUNCTIONS

=over

=cut

package CqrsTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RawPublish;
use Test::More;

our @EXPORT = qw(
  new_master
  wait_published
  wait_for_state
  wait_for_stats
  wait_consumer
  wait_applied
  row_arrives
  no_crash
  publish
  save_body
  $STUBBORN
  open_psql
  start_pgbench
  stop_pgbench
  try_query
  declare_queue
  start_consumer
  stop_consumer
  messages
  wait_for_messages
  drain_queue
  arrived_keys
  ledger_errors
);

my $CONSUME = $ENV{CQRS_CONSUME}
  // dirname(__FILE__) . '/../tools/cqrs_consume';
my $TIMEOUT_S = $PostgreSQL::Test::Utils::timeout_default // 180;
my $json      = JSON::PP->new->utf8->allow_bignum;

=item new_master($name, $broker, %params)

Returns a started PostgreSQL node that has the extension in its database
postgres and publishes to the broker; without one, messages stay in the
outbox.  C<conf>: more lines of postgresql.conf.  C<init>: a list of arguments
for the node's init.  C<extension>: false when the extension is not to be
created.  With CQRS_LANES in the environment, that many publishers share each
database; tests that count them or their connections fail then.

=cut

sub new_master
{
	my ($name, $broker, %params) = @_;

	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(@{ $params{init} // [] });
	$node->append_conf('postgresql.conf', <<'END');
shared_preload_libraries = 'cqrs'
max_prepared_transactions = 10
END
	$node->append_conf('postgresql.conf', "cqrs.url = '" . $broker->url . "'")
	  if $broker;
	$node->append_conf('postgresql.conf',
		"cqrs.publishers = $ENV{CQRS_LANES}")
	  if $ENV{CQRS_LANES};
	$node->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION cqrs')
	  if $params{extension} // 1;
	@CqrsTest::Node::ISA = (ref $node);
	return bless $node, 'CqrsTest::Node';
}

# Its own poll_query_until() writes the query to psql, which has ended by then
# when it cannot connect, because the server starts anew after a crash; IPC::Run
# dies of that.
sub CqrsTest::Node::poll_query_until
{
	my ($node, $dbname, $sql, $expected) = @_;

	return RabbitMQ->poll_until(
		sub {
			my $result = try_query($node, $sql, $dbname);
			return defined $result && $result eq ($expected // 't');
		},
		$TIMEOUT_S);
}

=item try_query($node, $sql, $dbname)

The result of a query, undef when it fails, because the server is starting for
instance, or takes more than 20 seconds.

=cut

sub try_query
{
	my ($node, $sql, $dbname) = @_;
	my ($result, $errors);
	my $done = eval {
		IPC::Run::run(
			[   'psql', '-XAtq', '-d', $node->connstr($dbname // 'postgres'),
				'-c',   $sql ],
			'<',
			'/dev/null',
			'>',
			\$result,
			'2>',
			\$errors,
			IPC::Run::timeout(20));
	};

	return undef unless $done;
	chomp $result;
	return $result;
}

=item wait_published($node, $dbname)

Waits until nothing is pending in the outbox: all that was committed before is
confirmed by the broker, or parked.

=cut

sub wait_published
{
	my ($node, $dbname) = @_;

	$node->poll_query_until($dbname // 'postgres',
		'SELECT pending = 0 FROM cqrs.stats')
	  or BAIL_OUT('the outbox did not drain');
	return;
}

=item wait_for_state($node, $state, $dbname)

Waits until the publisher of the database is in a state, by its name in
cqrs.stats.

=cut

sub wait_for_state
{
	my ($node, $state, $dbname) = @_;

	$node->poll_query_until($dbname // 'postgres',
		"SELECT state = '$state' FROM cqrs.stats")
	  or BAIL_OUT("the publisher did not get into state \"$state\"");
	return;
}

=item wait_for_stats($node, $condition, $what)

Waits until a condition on the columns of cqrs.stats holds.  With $what, that is a
test of this name.

=cut

sub wait_for_stats
{
	my ($node, $condition, $what) = @_;

	$node->poll_query_until('postgres',
		"SELECT coalesce($condition, false) FROM cqrs.stats")
	  or BAIL_OUT("not reached: $condition; "
		  . $node->safe_psql('postgres', 'SELECT * FROM cqrs.stats'));
	pass($what) if defined $what;
	return;
}

=item wait_consumer($node, $dbname, $condition)

Waits until the consumer of a database is in a state, by its name in
cqrs.consumer_stats, or until a condition about that view holds.

=cut

sub wait_consumer
{
	my ($node, $dbname, $condition) = @_;

	$condition = "state = '$condition'" if $condition =~ /^[a-z ]+$/;
	$node->poll_query_until($dbname,
		"SELECT coalesce($condition, false) FROM cqrs.consumer_stats")
	  or BAIL_OUT("the consumer did not reach: $condition; "
		  . $node->safe_psql($dbname, 'SELECT * FROM cqrs.consumer_stats'));
	return;
}

=item wait_applied($broker, $node, $dbname, $queue)

Waits until everything that was committed at the master in the database
postgres has been published, the queue is empty, and no failed message waits.

=cut

sub wait_applied
{
	my ($broker, $node, $dbname, $queue) = @_;

	wait_published($node);
	RabbitMQ->poll_until(
		sub { return ($broker->queue_length($queue) // -1) == 0 }, $TIMEOUT_S)
	  or BAIL_OUT("queue \"$queue\" is not drained: "
		  . $node->safe_psql($dbname, 'SELECT * FROM cqrs.consumer_stats'));
	wait_consumer($node, $dbname, 'waiting = 0');
	return;
}

=item no_crash($node)

Tests that the log of a server shows no crash, failed assertion or report of a
sanitizer.

=cut

sub no_crash
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return unlike(
		slurp_file($node->logfile),
		qr/because of crash|was terminated by signal|PANIC|AddressSanitizer|runtime error|TRAP/,
		'no crash is in the log');
}

=item row_arrives($master, $replica, $what)

Tests that a new row of the master's table item comes to the replica's.  Its column
id has the next number, from 1 in sequence, which is returned.

=cut

my $next_row = 1;

sub row_arrives
{
	my ($master, $replica, $what) = @_;
	my $id = $next_row++;

	$master->safe_psql('postgres', "INSERT INTO item (id) VALUES ($id)");
	ok( $replica->poll_query_until(
			'postgres', "SELECT count(*) = 1 FROM item WHERE id = $id"),
		$what);
	return $id;
}

=item publish($broker, $exchange, $routing_key, @bodies)

Publishes messages in this order, as masters in Python do.  A body that is a
hash is encoded as JSON; a list of a message id and a body is a message with
that id.

=cut

sub publish
{
	my ($broker, $exchange, $routing_key, @bodies) = @_;

	my @messages;
	foreach my $message (@bodies)
	{
		my ($id, $body) =
		  ref $message eq 'ARRAY' ? @$message : (undef, $message);
		push @messages,
		  { exchange    => $exchange,
			routing_key => $routing_key,
			properties  => '{delivery_mode, 2}'
			  . (defined $id ? qq(, {message_id, <<"$id">>}) : ''),
			body => ref $body ? $json->encode($body) : $body };
	}
	publish_raw($broker, @messages);
	return;
}

=item save_body($cqrs_id, $pk, $name, $revision)

The body of a SAVE with a name, for publish(); of revision 0 unless given.

=cut

sub save_body
{
	my ($cqrs_id, $pk, $name, $revision) = @_;

	return {
		signal_type   => 'SAVE',
		cqrs_id       => $cqrs_id,
		instance_pk   => $pk,
		previous_data => undef,
		instance_data => {
			id            => $pk,
			name          => $name,
			cqrs_revision => $revision // 0,
			cqrs_updated  => '2026-01-01T00:00:00+00:00' } };
}

=item $STUBBORN

A block of PL/pgSQL that never ends, whatever cancels it.

=cut

our $STUBBORN = q{
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_sleep(1000);
			EXCEPTION WHEN query_canceled THEN NULL;
			END;
		END LOOP;
	END};

=item open_psql($node, \$in, \$out, \$err)

Begins a session of psql that lasts, as IPC::Run does: what is appended to $in
is run when the caller pumps.  An error ends it.  (PostgreSQL's own
background_psql has other arguments in each version.)

=cut

sub open_psql
{
	my ($node, $in, $out, $err) = @_;

	return IPC::Run::start(
		[   'psql', '-XAtq',
			'-v',   'ON_ERROR_STOP=1',
			'-d',   $node->connstr('postgres') ],
		'<', $in, '>', $out, '2>', $err);
}

=item start_pgbench($node, $dbname, $sql, @options)

Runs a script of pgbench in the background, for as long as nobody ends it.

=item stop_pgbench($node, $pgbench)

Ends it, and waits until its sessions are gone.

=cut

my $scripts = 0;

sub start_pgbench
{
	my ($node, $dbname, $sql, @options) = @_;
	my $name   = 'pgbench_' . $scripts++;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";

	append_to_file($script, $sql);
	return IPC::Run::start(
		[   'pgbench', '-n', '-f', $script, '-T', 600, @options,
			'-d',      $node->connstr($dbname) ],
		'<',
		'/dev/null',
		'>&',
		"$PostgreSQL::Test::Utils::log_path/$name.log");
}

sub stop_pgbench
{
	my ($node, $pgbench) = @_;

	$pgbench->signal('TERM');
	$pgbench->finish;
	$node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE application_name = 'pgbench'}) or BAIL_OUT('pgbench does not end');
	return;
}

=item declare_queue($broker, $queue, @cqrs_ids)

Declares a queue, and the exchange, and binds it to the ids and to the syncs of
these ids to this queue, as a replica of that name does.

=cut

sub declare_queue
{
	my ($broker, $queue, @cqrs_ids) = @_;

	_run_consume(_consume($broker, $queue, @cqrs_ids), '--declare-only');
	return;
}

# Runs the consumer to its end and returns what it wrote.
sub _run_consume
{
	my @command = @_;
	my ($stdout, $stderr);

	IPC::Run::run(\@command, '>', \$stdout, '2>', \$stderr)
	  or BAIL_OUT("@command: $stderr");
	return $stdout;
}

sub _consume
{
	my ($broker, $queue, @cqrs_ids) = @_;

	return (
		$CONSUME,
		'--url',
		$broker->url,
		'--queue',
		$queue,
		($broker->queue_type ? ('--queue-type', $broker->queue_type) : ()),
		map { ('--bind', $_, '--bind', "cqrs.$queue.$_") } @cqrs_ids);
}

=item start_consumer($broker, $queue, @cqrs_ids)

Starts a consumer in the background that declares and binds the queue as
declare_queue does, connects again whenever the broker has gone, and writes
what it gets to a file.  When this function returns it is consuming, provided
that the broker is up.  Each queue can have one consumer of a test.

=cut

sub start_consumer
{
	my ($broker, $queue, @cqrs_ids) = @_;

	my $file = "$PostgreSQL::Test::Utils::tmp_check/messages_$queue.jsonl";
	my $log  = "$PostgreSQL::Test::Utils::log_path/consumer_$queue.log";
	my $consumer = {
		queue    => $queue,
		file     => $file,
		log      => $log,
		offset   => 0,
		partial  => '',
		messages => [] };

	declare_queue($broker, $queue, @cqrs_ids) if $broker->is_ready;
	unlink $file;
	$consumer->{run} = IPC::Run::start(
		[   _consume($broker, $queue, @cqrs_ids), '--reconnect',
			'--format',                           'json' ],
		'<',
		'/dev/null',
		'>', $file, '2>', $log);
	return $consumer;
}

=item stop_consumer($consumer)

Ends a consumer in order and returns all its messages.

=cut

sub stop_consumer
{
	my ($consumer) = @_;

	$consumer->{run}->signal('TERM');
	$consumer->{run}->finish;
	return messages($consumer);
}

=item messages($consumer)

Returns what has arrived, in order: hashes with exchange, routing_key,
redelivered, properties, raw - the body as text - and body, the decoded one.

=cut

sub messages
{
	my ($consumer) = @_;

	open my $fh, '<:raw', $consumer->{file}
	  or BAIL_OUT("could not open $consumer->{file}: $!");
	seek $fh, $consumer->{offset}, 0;
	my $text = do { local $/; <$fh> }
	  // '';
	close $fh;

	$consumer->{offset} += length $text;
	$text = $consumer->{partial} . $text;
	$consumer->{partial} = $text =~ s/([^\n]*)\z// ? $1 : '';
	push @{ $consumer->{messages} }, map { _decode($_) } split /\n/, $text;
	return @{ $consumer->{messages} };
}

sub _decode
{
	my ($line) = @_;

	my $message = $json->decode($line);
	$message->{raw} = $message->{body};
	utf8::encode(my $bytes = $message->{raw});
	$message->{body} = eval { $json->decode($bytes) };
	return $message;
}

=item wait_for_messages($consumer, $count)

Waits until at least so many have arrived and returns all.

=cut

sub wait_for_messages
{
	my ($consumer, $count) = @_;

	my $enough =
	  RabbitMQ->poll_until(sub { return messages($consumer) >= $count },
		$TIMEOUT_S);
	my @messages = messages($consumer);
	BAIL_OUT("queue \"$consumer->{queue}\": "
		  . scalar(@messages)
		  . " messages instead of $count")
	  unless $enough;
	return @messages;
}

=item drain_queue($broker, $queue)

Reads what waits in a queue that no consumer reads, and returns it as messages
does.

=cut

sub drain_queue
{
	my ($broker, $queue) = @_;

	my $output =
	  _run_consume(_consume($broker, $queue), '--drain', '--format', 'json');
	return map { _decode($_) } split /\n/, $output;
}

=item arrived_keys($broker, $queue)

Reads what waits in a queue that no consumer reads, and returns only the keys
of the messages, in order: decoding takes its time with large or many ones.

=cut

sub arrived_keys
{
	my ($broker, $queue) = @_;

	return _run_consume(_consume($broker, $queue), '--drain') =~
	  /"instance_pk":(\d+),/g;
}

=item ledger_errors(\@messages, \@expected)

Compares what arrived with what was committed, and returns a list of what is
wrong, empty when nothing is.  Expected is a list of [cqrs_id, pk, revision]
of SAVE messages, any of which must have arrived at least once; and of each
row the first arrivals must have ascending revisions, up to a DELETE, after
which they may begin anew.  Repetitions are allowed: the promise is at least
once, and a repetition has the message_id of the first.

=cut

sub ledger_errors
{
	my ($messages, $expected) = @_;
	my (%seen, %highest, %arrived, @errors);

	foreach my $message (@$messages)
	{
		my $body     = $message->{body};
		my $row      = "$body->{cqrs_id} $body->{instance_pk}";
		my $revision = $body->{instance_data}{cqrs_revision};
		my $id       = $message->{properties}{message_id};

		if (!defined $id)
		{
			push @errors, "$row: no message_id";
			next;
		}
		$arrived{"$row $revision"} = 1 if $body->{signal_type} eq 'SAVE';
		next                           if $seen{$id}++;
		next                           if $body->{signal_type} eq 'SYNC';

		push @errors,
		  "$row: $body->{signal_type} with revision $revision after $highest{$row}"
		  if defined $highest{$row} && $revision <= $highest{$row};
		$highest{$row} = $revision;
		delete $highest{$row} if $body->{signal_type} eq 'DELETE';
	}
	foreach my $save (@$expected)
	{
		push @errors, "@$save: lost" unless $arrived{"@$save"};
	}
	return @errors;
}

=back

=cut

1;
