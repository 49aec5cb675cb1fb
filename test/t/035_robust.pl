# Faults that must not hurt the server: a broker that talks nonsense at any
# moment, a session of very many transactions, a schema "cqrs" of somebody else.
use strict;
use warnings;

use CqrsTest;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $TRANSACTIONS = 100_000;
my $WARM_UP      = 10_000;
my $GROWTH       = 1024;      # kB, at most, after the warming up

# After so many frames of the broker: in its handshake, which has many for the
# leases; and at its end and among confirms, where each fault takes every second.
my @EARLY = (0 .. 6, 12);
my @LATE  = (18 .. 26);

# What the proxy makes of a frame of the broker: type, channel, size, payload,
# end.  It closes the connection after that.
my %FAULTS = (
	'nothing'       => sub { return '' },
	'random bytes'  => sub { return random_bytes(2000) },
	'half a frame'  => sub { return substr($_[0], 0, length($_[0]) / 2) },
	'huge frame'    => sub { return pack('CnN', 1, 0, 0xfffffff0) . $_[0] },
	'large frame'   => sub { return pack('CnN', 1, 1, 1 << 30) . $_[0] },
	'wrong end'     => sub { return substr($_[0], 0, -1) . "\0" },
	'wrong type'    => sub { return "\x2a" . substr($_[0], 1) },
	'wrong channel' => sub {
		return substr($_[0], 0, 1) . pack('n', 77) . substr($_[0], 3);
	},
	'empty method'   => sub { return frame(1, '') },
	'unknown method' => sub { return frame(1, pack('nn', 999, 99)) },
	'no arguments'   => sub { return frame(1, substr($_[0], 7, 4)) },
	'few arguments'  =>
	  sub { return frame(1, substr($_[0], 7, (length($_[0]) - 8) / 2)) },
	'random arguments' => sub {
		return frame(1, substr($_[0], 7, 4) . random_bytes(60));
	},
	'confirms of nothing' => sub {
		return frame(1, pack('nnNNC', 60, 80, 0xffffffff, 0xffffffff, 1));
	},
	'lone content' => sub {
		return frame(2, pack('nnNNn', 60, 0, 0x7fffffff, 0xffffffff, 0)) x 3;
	},
	'returned without end' => sub {
		return
			frame(1, pack('nnnC', 60, 50, 312, 0) . "\0\0")
		  . frame(2, pack('nnNNn', 60, 0, 0x7fffffff, 0xffffffff, 0))
		  . frame(3, random_bytes(100));
	});

sub frame
{
	my ($type, $payload) = @_;
	return pack('CnN', $type, 1, length $payload) . $payload . "\xce";
}

sub random_bytes
{
	my ($count) = @_;
	return join '', map { chr int rand 256 } 1 .. $count;
}

sub write_all
{
	my ($socket, $bytes) = @_;

	while (length $bytes)
	{
		my $written = syswrite $socket, $bytes or return;
		substr $bytes, 0, $written, '';
	}
	return;
}

# Passes on what client and broker say, up to the frame that is a fault's turn;
# returns whether it came to that.
sub pass_on
{
	my ($client, $server, $moment, $fault) = @_;
	my $select = IO::Select->new($client, $server);
	my ($frames, $buffer) = (0, '');

	while (1)
	{
		foreach my $socket ($select->can_read)
		{
			sysread $socket, my $bytes, 65536 or return 0;
			if ($socket == $client)
			{
				write_all($server, $bytes);
				next;
			}
			$buffer .= $bytes;
			while (length $buffer >= 8)
			{
				my $length = 8 + unpack 'N', substr $buffer, 3, 4;
				last if length $buffer < $length;
				my $frame = substr $buffer, 0, $length, '';

				if ($fault && $frames++ == $moment)
				{
					write_all($client, $FAULTS{$fault}->($frame));
					return 1;
				}
				write_all($client, $frame);
			}
		}
	}
}

my $broker = RabbitMQ->new('robust');
$broker->start;
my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 10) or BAIL_OUT("could not listen: $!");

# The faults that were made, a line each.
my $made = "$PostgreSQL::Test::Utils::tmp_check/faults";
append_to_file($made, '');
my @faults;
my $odd = 0;
foreach my $fault (sort keys %FAULTS)
{
	$odd = 1 - $odd;
	push @faults, map { [ $_, $fault ] } @EARLY,
	  grep { $_ % 2 == $odd } @LATE;
}
my $seed  = srand;
my $proxy = fork // BAIL_OUT("could not fork: $!");
if ($proxy == 0)
{
	my @left = @faults;

	$SIG{PIPE} = 'IGNORE';
	while (my $client = $listener->accept)
	{
		my $server = IO::Socket::INET->new('127.0.0.1:' . $broker->port)
		  or next;
		next unless pass_on($client, $server, @{ $left[0] // [] });
		my $fault = shift @left;
		append_to_file($made, "@$fault\n");
	}
	POSIX::_exit(0);
}
END { kill 'KILL', $proxy if $proxy }
note "seed $seed";

my $node = new_master('robust', undef, conf => <<"END");
cqrs.url = 'amqp://guest:guest\@127.0.0.1:@{[ $listener->sockport ]}'
cqrs.publishers = 1
cqrs.reconnect_delay = '1ms'
cqrs.reconnect_delay_max = '10ms'
cqrs.connect_timeout = '2s'
restart_after_crash = on
END

sub query
{
	my ($sql, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', $sql);
}

query(
	q{CREATE TABLE item (id serial PRIMARY KEY, v text);
	CREATE TABLE burnt (id serial PRIMARY KEY, v text);
	SELECT cqrs_register('item'), cqrs_register('burnt')});
declare_queue($broker, 'replica', 'item');

# A fault among the confirms needs messages that are to be confirmed.
$node->poll_query_until('postgres', 'SELECT pid IS NOT NULL FROM cqrs.stats')
  or BAIL_OUT('no publisher runs');
my $pid = query('SELECT pid FROM cqrs.stats');
my $all = RabbitMQ->poll_until(
	sub {
		# not safe_psql: after a crash the checks below say what was wrong
		try_query($node,
			q{INSERT INTO item (v) SELECT 'x' FROM generate_series(1, 5)});
		return (() = slurp_file($made) =~ /\n/g) == @faults;
	},
	180);
ok($all, scalar(@faults) . ' faults were made')
  or diag('the last one: ' . (split /\n/, slurp_file($made))[-1]);
wait_published($node);
is(query('SELECT pid FROM cqrs.stats'),
	$pid, 'the publisher has survived all of them');
my $log = slurp_file($node->logfile);
unlike(
	$log,
	qr/terminating any other active|was terminated by signal|PANIC|reinitializing/,
	'so has the server');
my %arrived = map { $_ => 1 } arrived_keys($broker, 'replica');
is( join(
		',', grep { !$arrived{$_} } split /\n/, query('SELECT id FROM item')),
	'',
	'every message arrives');
is(query('SELECT count(*) FROM cqrs.parked'), 0, 'nothing is parked');

# Transactions without end in one session, with savepoints and errors.
query(
	q{CREATE PROCEDURE burn(count int) LANGUAGE plpgsql AS $$
	DECLARE
		last int;
	BEGIN
		FOR i IN 1 .. count LOOP
			INSERT INTO burnt (v) VALUES ('x') RETURNING id INTO last;
			IF i % 10 = 0 THEN
				BEGIN
					UPDATE burnt SET v = 'y' WHERE id = last;
					INSERT INTO burnt (v) VALUES ('z');
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
				BEGIN
					INSERT INTO burnt (v) VALUES ('y');
					RAISE division_by_zero;
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END IF;
			COMMIT;
		END LOOP;
	END $$;
	SELECT cqrs_pause()});
my $rest = $TRANSACTIONS - $WARM_UP;
my $rss  = '\! grep RssAnon /proc/$BACKEND/status';
my ($before, $after) = query(
	"SELECT pg_backend_pid() AS pid \\gset
	\\setenv BACKEND :pid
	CALL burn($WARM_UP);
	$rss
	CALL burn($rest);
	$rss") =~ /^RssAnon:\s+(\d+) kB/mg;
note "RssAnon: $before kB, then $after kB";
cmp_ok($after - $before,
	'<=', $GROWTH, "a session does not grow with $TRANSACTIONS transactions");

# The schema is ours alone.
query('CREATE DATABASE taken');
query('CREATE SCHEMA cqrs; CREATE TABLE cqrs.master (x int)', 'taken');
$node->psql('taken', 'CREATE EXTENSION cqrs', stderr => \my $stderr);
like(
	$stderr,
	qr/ERROR:  schema "cqrs" already exists/,
	'a schema "cqrs" of somebody else is left alone');
query('ALTER SCHEMA cqrs RENAME TO theirs; CREATE EXTENSION cqrs', 'taken');
is(query('SELECT count(*) FROM theirs.master', 'taken'),
	0, 'and the extension gets in when it is renamed');

$node->stop;
done_testing();
