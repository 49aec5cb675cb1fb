
=pod

=head1 NAME

RabbitMQ - a private RabbitMQ node for tests

=head1 SYNOPSIS

  use RabbitMQ;

  my $broker = RabbitMQ->new('main');    # chooses ports; nothing runs yet
  $broker->start;
  print $broker->url;                    # amqp://guest:guest@127.0.0.1:PORT
  print $broker->ctl('list_queues', 'name', 'messages');
  $broker->restart;
  $broker->kill9;
  $broker->start;
  $broker->suspend;                      # SIGSTOP
  $broker->resume;                       # SIGCONT
  $broker->stop;

  my @nodes = RabbitMQ->cluster('three', 3);    # they run

=head1 DESCRIPTION

Every node has its own directory, cookie, configuration and Erlang port mapper
(epmd), and listens on 127.0.0.1 only, so that it meets no other node of the
machine; those of a cluster share cookie and port mapper.  Its ports and its
data survive stop, kill9 and start.

Nodes, and their port mappers, end with the object or with the process that
created it.  Only processes that were started here are ever signalled.

=cut

package RabbitMQ;

use strict;
use warnings;

use Carp;
use Cwd        ();
use Fcntl      qw(O_CREAT O_EXCL O_WRONLY);
use File::Path qw(make_path);
use File::Temp ();
use IO::Socket::INET;
use POSIX       qw(:sys_wait_h);
use Time::HiRes qw(usleep);

my $BIN              = '/usr/lib/rabbitmq/bin';
my $START_TIMEOUT_S  = 120;
my $STOP_TIMEOUT_S   = 60;
my $POLL_INTERVAL_US = 20_000;

=head1 METHODS

=over

=item RabbitMQ->new($name, %params)

C<dir>: the node's directory, by default one under TESTDIR's F<tmp_check>, or
a temporary one.  C<schedulers>: the number of Erlang's scheduler threads, 1 by
default; raise it to measure speed.  C<config>: more lines of rabbitmq.conf.
C<queue_type>: of the queues that tests declare there.  C<join>: a node whose
cluster this one joins when it is started for the first time.

=cut

sub new
{
	my ($class, $name, %params) = @_;

	my $self = bless {
		name       => $name,
		owner_pid  => $$,
		queue_type => $params{queue_type},
		joined     => $params{join},
		schedulers => $params{schedulers} // 1,
		pid        => undef,
		booted     => 0,
		epmd_pid   => undef,
		ports      => {} }, $class;

	$self->{dir} = Cwd::abs_path(_make_directory($name, $params{dir}));
	for my $use (qw(amqp dist epmd))
	{
		$self->{ports}{$use} = free_port();
	}
	$self->{ports}{epmd} = $self->{joined}{ports}{epmd} if $self->{joined};
	$self->{node} = "cqrs_${name}_$self->{ports}{dist}\@localhost";
	$self->_write_configuration($params{config} // '');
	return $self;
}

=item RabbitMQ->cluster($name, $count, %params)

Starts a cluster and returns its nodes.  The first one carries the port mapper:
it has to be there for as long as the others.

=cut

sub cluster
{
	my ($class, $name, $count, %params) = @_;
	my @nodes;

	for my $i (1 .. $count)
	{
		push @nodes, $class->new("$name$i", %params, join => $nodes[0]);
		$nodes[-1]->start;
	}
	return @nodes;
}

sub _make_directory
{
	my ($name, $dir) = @_;

	if (!defined $dir && defined $ENV{TESTDIR})
	{
		$dir = "$ENV{TESTDIR}/tmp_check/rabbitmq_$name";
	}
	return File::Temp::tempdir(
		"rabbitmq_${name}_XXXX",
		TMPDIR  => 1,
		CLEANUP => 1) unless defined $dir;
	make_path($dir);
	return $dir;
}

=item RabbitMQ::free_port()

A port that nobody listens on, outside of the usual range of ephemeral ports:
an outgoing connection could take one of those while the node is down.  It is
reserved where PostgreSQL::Test::Cluster reserves its ports, if that is known,
and in its form: other tests run at the same time.

=cut

my %ports_given;

sub free_port
{
	for (1 .. 200)
	{
		my $port = 20_000 + int(rand(12_000));
		next if $ports_given{$port};
		my $socket = IO::Socket::INET->new(
			LocalAddr => '127.0.0.1',
			LocalPort => $port,
			Listen    => 1,
			ReuseAddr => 1);
		next unless $socket;
		close $socket;
		next unless _reserve_port($port);
		$ports_given{$port} = 1;
		return $port;
	}
	croak 'no free port';
}

sub _reserve_port
{
	my ($port) = @_;
	my $dir = $ENV{PG_TEST_PORT_DIR};

	return 1 unless defined $dir;
	make_path($dir);
	sysopen my $file, "$dir/$port.rsv", O_WRONLY | O_CREAT | O_EXCL
	  or return 0;
	printf {$file} "%10d\n", $$;
	close $file or croak "could not write $dir/$port.rsv: $!";
	return 1;
}

sub _write_configuration
{
	my ($self, $more) = @_;
	my $first = $self->{joined};

	$more .= <<"END" if $first;
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = $first->{node}
cluster_formation.classic_config.nodes.2 = $self->{node}
END
	$self->_write_file('rabbitmq.conf', <<"END");
listeners.tcp.default = 127.0.0.1:$self->{ports}{amqp}
disk_free_limit.absolute = 1MB
log.file.level = info
log.file = $self->{dir}/rabbitmq.log
$more
END
	$self->_write_file('advanced.config', "[].\n");
	$self->_write_file('env.conf',        '');
	$self->_write_file('enabled_plugins', "[].\n");
	unlink "$self->{dir}/.erlang.cookie";
	$self->{cookie} =
		$first
	  ? $first->{cookie}
	  : join('', map { chr(65 + int(rand(26))) } 1 .. 20);
	$self->_write_file('.erlang.cookie', $self->{cookie});
	chmod 0400, "$self->{dir}/.erlang.cookie"
	  or croak "could not protect the cookie: $!";
}

sub _write_file
{
	my ($self, $file, $content) = @_;

	open my $fh, '>', "$self->{dir}/$file"
	  or croak "could not create $self->{dir}/$file: $!";
	print $fh $content;
	close $fh or croak "could not write $self->{dir}/$file: $!";
}

=item $broker->name, dir, port, url, pid, log_file, queue_type

What they say; pid is undefined while the node is down.

=cut

sub name     { return $_[0]->{name}; }
sub dir      { return $_[0]->{dir}; }
sub port     { return $_[0]->{ports}{amqp}; }
sub pid      { return $_[0]->{pid}; }
sub log_file { return "$_[0]->{dir}/rabbitmq.log"; }

sub queue_type { return $_[0]->{queue_type}; }

sub url
{
	my ($self) = @_;
	return "amqp://guest:guest\@127.0.0.1:$self->{ports}{amqp}";
}

# The environment of all that runs for this node, beside the caller's.
sub _environment
{
	my ($self) = @_;
	my $dir    = $self->{dir};
	my $local  = '-kernel inet_dist_use_interface {127,0,0,1}';
	my $n      = $self->{schedulers};

	return (
		HOME                                => $dir,
		ERL_EPMD_PORT                       => $self->{ports}{epmd},
		ERL_EPMD_ADDRESS                    => '127.0.0.1',
		ERL_CRASH_DUMP_SECONDS              => 0,
		RABBITMQ_NODENAME                   => $self->{node},
		RABBITMQ_NODE_IP_ADDRESS            => '127.0.0.1',
		RABBITMQ_NODE_PORT                  => $self->{ports}{amqp},
		RABBITMQ_DIST_PORT                  => $self->{ports}{dist},
		RABBITMQ_CONF_ENV_FILE              => "$dir/env.conf",
		RABBITMQ_CONFIG_FILE                => "$dir/rabbitmq.conf",
		RABBITMQ_ADVANCED_CONFIG_FILE       => "$dir/advanced.config",
		RABBITMQ_ENABLED_PLUGINS_FILE       => "$dir/enabled_plugins",
		RABBITMQ_MNESIA_BASE                => "$dir/mnesia",
		RABBITMQ_LOG_BASE                   => $dir,
		RABBITMQ_PID_FILE                   => "$dir/rabbitmq.pid",
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => "+S $n:$n $local",
		RABBITMQ_CTL_ERL_ARGS               => "+S 1:1 $local",

		# makes the start script replace itself by the Erlang machine, so that
		# the pid that we know is the node's
		RUNNING_UNDER_SYSTEMD => 'true');
}

# Starts a program in the background with its output in a file of the node's
# directory, and returns its pid.
sub _spawn
{
	my ($self, $output, @command) = @_;

	my $pid = fork // croak "could not fork: $!";
	return $pid if $pid;

	%ENV = (%ENV, $self->_environment);
	delete $ENV{NOTIFY_SOCKET};
	if (   chdir($self->{dir})
		&& open(STDIN,  '<',  '/dev/null')
		&& open(STDOUT, '>>', "$self->{dir}/$output")
		&& open(STDERR, '>&', \*STDOUT))
	{
		# Out of the terminal's reach: its interrupt is for the test, which
		# then ends the node.
		POSIX::setpgid(0, 0);
		exec { $command[0] } @command;
	}
	POSIX::_exit(127);
}

=item $broker->start

Starts the node and waits until it accepts clients.

=cut

sub start
{
	my ($self) = @_;

	croak "node $self->{name} is running" if $self->{pid};
	$self->_start_epmd
	  unless $self->{joined} || _is_running($self->{epmd_pid});
	$self->{booted} = 0;
	$self->{pid}    = $self->_spawn('startup.log', "$BIN/rabbitmq-server");
	$self->wait_ready;
	return;
}

sub _start_epmd
{
	my ($self) = @_;
	my $port = $self->{ports}{epmd};

	$self->{epmd_pid} =
	  $self->_spawn('epmd.log', 'epmd', '-port', $port, '-address',
		'127.0.0.1');
	$self->poll_until(
		sub {
			croak "epmd of node $self->{name} did not start"
			  unless _is_running($self->{epmd_pid});
			return defined _connect($port);
		},
		$START_TIMEOUT_S
	) or croak "epmd of node $self->{name} does not answer";
}

=item $broker->wait_ready

Waits until the node greets a client that speaks AMQP.

=cut

sub wait_ready
{
	my ($self) = @_;

	$self->poll_until(
		sub {
			if (!_is_running($self->{pid}))
			{
				$self->{pid} = undef;
				croak
				  "node $self->{name} ended, see $self->{dir}/startup.log";
			}
			return $self->is_ready;
		},
		$START_TIMEOUT_S) or croak "node $self->{name} does not get ready";
	return;
}

=item $broker->is_ready

Whether a client is greeted right now.

=cut

sub is_ready
{
	my ($self) = @_;

	my $socket   = _connect($self->{ports}{amqp}) or return 0;
	my $greeting = '';
	$socket->syswrite("AMQP\0\0\x09\x01");
	my $readable = '';
	vec($readable, fileno($socket), 1) = 1;
	return 0 unless select($readable, undef, undef, 5);
	$socket->sysread($greeting, 1);

	# a method frame, connection.start
	return $greeting eq "\x01";
}

sub _connect
{
	my ($port) = @_;
	return IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $port,
		Timeout  => 5);
}

=item $broker->stop

Shuts the node down in order.  Does nothing when it is down.

=cut

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	kill 'CONT', $self->{pid};
	kill 'TERM', $self->{pid};
	$self->_wait_for_end or croak "node $self->{name} does not stop";
	return;
}

=item $broker->kill9

Ends the node as a crash would.

=cut

sub kill9
{
	my ($self) = @_;

	croak "node $self->{name} is not running" unless $self->{pid};
	kill 'KILL', $self->{pid};
	$self->_wait_for_end or croak "node $self->{name} does not die";
	return;
}

sub _wait_for_end
{
	my ($self) = @_;

	$self->poll_until(sub { return !_is_running($self->{pid}) },
		$STOP_TIMEOUT_S)
	  or return 0;
	$self->{pid} = undef;
	return 1;
}

=item $broker->restart

stop and start.

=cut

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->start;
	return;
}

=item $broker->suspend, resume

Stops the node's process without any of its connections ending, and lets it
go on.

=cut

sub suspend
{
	my ($self) = @_;
	croak "node $self->{name} is not running" unless $self->{pid};
	RabbitMQ->freeze($self->{pid});
	return;
}

sub resume
{
	my ($self) = @_;
	croak "node $self->{name} is not running" unless $self->{pid};
	kill 'CONT', $self->{pid};
	return;
}

=item RabbitMQ->freeze($pid)

Stops a process, and returns when all its threads have stopped: one could still
deliver a message.

=cut

sub freeze
{
	my ($class, $pid) = @_;

	kill 'STOP', $pid;
	$class->poll_until(
		sub {
			foreach my $file (glob "/proc/$pid/task/*/stat")
			{
				open my $fh, '<', $file or next;
				return 0 if (<$fh> // ") T ") !~ /\) T /;
			}
			return 1;
		},
		$START_TIMEOUT_S) or croak "process $pid does not stop";
	return;
}

=item $broker->ctl(@arguments)

Runs rabbitmqctl on the node and returns its output; dies when it fails.
It takes about a second, and the first call after a start waits until the node
has started in every respect: it greets clients before that.

=cut

sub ctl
{
	my ($self, @arguments) = @_;

	$self->_run_ctl('await_startup', '--timeout', $START_TIMEOUT_S)
	  unless $self->{booted};
	$self->{booted} = 1;
	return $self->_run_ctl(@arguments);
}

sub _run_ctl
{
	my ($self, @arguments) = @_;

	my $errors = "$self->{dir}/ctl.log";
	my $pid    = open(my $out, '-|') // croak "could not fork: $!";
	if (!$pid)
	{
		%ENV = (%ENV, $self->_environment);

		# Not into the output: Elixir may have something to say of the locale.
		open(STDERR, '>>', $errors);
		my @command =
		  ("$BIN/rabbitmqctl", '-q', '-n', $self->{node}, @arguments);
		chdir($self->{dir}) && exec { $command[0] } @command;
		POSIX::_exit(127);
	}
	my $output = do { local $/; <$out> };
	close $out or croak "rabbitmqctl @arguments failed, see $errors: $output";
	return $output;
}

=item $broker->queue_length($queue)

How many messages are in a queue, as its process counts them at this moment;
undefined when there is no such queue.  By name: a publisher's lease is a queue
as well, and rabbitmqctl lists queues in an order of its own.

=cut

sub queue_length
{
	my ($self, $queue) = @_;

	my %length = map { split /\t/ } split /\n/,
	  $self->ctl('list_queues', '-s', 'name', 'messages');
	return $length{$queue};
}

=item RabbitMQ->poll_until($condition, $timeout_s)

Calls the condition until it returns true, and returns whether it did before
the time was over.

=cut

sub poll_until
{
	my (undef, $condition, $timeout_s) = @_;
	my $deadline = Time::HiRes::time() + $timeout_s;

	until ($condition->())
	{
		return 0 if Time::HiRes::time() > $deadline;
		usleep($POLL_INTERVAL_US);
	}
	return 1;
}

=item RabbitMQ->serve($name, %params)

For scripts in other languages: prints the URL of a node that does not run
yet, then obeys the lines of standard input - start, stop, kill9, restart,
suspend, resume - and answers each with "ok".  Ends with the input.

=cut

sub serve
{
	my ($class, @params) = @_;
	my $self = $class->new(@params);

	local $| = 1;
	print $self->url, "\n";
	while (my $command = <STDIN>)
	{
		chomp $command;
		croak "unknown command \"$command\""
		  unless $command =~ /^(start|stop|kill9|restart|suspend|resume)$/;
		$self->$command;
		print "ok\n";
	}
	return;
}

=back

=cut

# Whether a child of this process runs; collects it when it has ended.
sub _is_running
{
	my ($pid) = @_;
	return 0 unless $pid;
	return waitpid($pid, WNOHANG) == 0;
}

sub DESTROY
{
	my ($self) = @_;

	return unless $$ == $self->{owner_pid};
	local ($?, $!, $@);
	for my $pid (grep { _is_running($_) } @{$self}{qw(pid epmd_pid)})
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	return;
}

1;
