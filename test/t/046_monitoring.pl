# What docs/ has for Prometheus and Grafana, with a real Prometheus and
# postgres_exporter: rules are valid, and each alert fires when it should, and not
# before; each metric has values for a master and for a replica; each query of the
# dashboard has a result; and an alert fires because of our server.
#
# Skipped where Debian's packages prometheus and prometheus-postgres-exporter are
# not installed: "test/packages monitoring" does that.
use strict;
use warnings;

use Cwd qw(abs_path);
use CqrsTest;
use File::Basename;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Redis;
use Test::More;

foreach my $program (qw(prometheus promtool prometheus-postgres-exporter))
{
	plan
	  skip_all => "$program is not installed"
	  unless grep { -x "$_/$program" } split /:/,
	  $ENV{PATH};
}

my $TOP = abs_path(dirname(__FILE__) . '/../..');
my $DIR = PostgreSQL::Test::Utils::tempdir();

sub write_file
{
	my ($name, $text) = @_;

	open my $fh, '>', "$DIR/$name" or BAIL_OUT("$name: $!");
	print $fh $text;
	close $fh;
	return "$DIR/$name";
}

# The rules by themselves.
my $rules = "$TOP/docs/prometheus-alerts.yaml";
my $text  = slurp_file($rules);
my $unlabeled =
  write_file('rules.yaml', $text =~ s/^ *(?:annotations:|summary: .*)\n//gmr);
my $cases = slurp_file("$TOP/test/monitoring/alerts_test.yaml");
command_ok([ 'promtool', 'check', 'rules', $rules ], 'rules are valid');
command_ok(
	[   'promtool', 'test', 'rules',
		write_file('test.yaml', $cases =~ s/\[RULES\]/[$unlabeled]/r) ],
	'alerts fire when they should');
is_deeply(
	[ sort $cases =~ /alertname: (\w+)\n.*\n {8}exp_alerts:\n/g ],
	[ sort $text  =~ /- alert: (\w+)/g ],
	'there is such a case for each alert');
is_deeply(
	[ sort $cases =~ /alertname: (\w+)\n.*\n {8}exp_alerts: \[\]\n/g ],
	[ sort $text  =~ /- alert: (\w+)/g ],
	'and one in which it does not fire');

# A master, and a replica in another database, one message of which fails.
my $broker = Redis->new('monitoring');
$broker->start;
my $node = new_master('monitoring', $broker);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, name text);
	SELECT cqrs_register('item');
	CREATE ROLE watcher LOGIN;
	GRANT pg_monitor TO watcher});
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	SELECT cqrs_register_replica('item', max_retries => 0);
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'shop', 'consuming');
wait_for_state($node, 'publishing');

# Runs a program until the end of the test.
my @running;

sub run_in_background
{
	my ($name, @command) = @_;

	push @running,
	  IPC::Run::start(\@command, '<', '/dev/null', '>', "$DIR/$name.log",
		'2>&1');
	return;
}

END
{
	$_->kill_kill foreach @running;
}

my %port = map { $_ => RabbitMQ::free_port() } qw(exporter prometheus);
{
	local $ENV{DATA_SOURCE_NAME} = join ',', map {
			'user=watcher dbname='
		  . $_
		  . ' host='
		  . $node->host
		  . ' port='
		  . $node->port
		  . ' sslmode=disable'
	} qw(postgres shop);
	run_in_background(
		'exporter',
		'prometheus-postgres-exporter',
		'--disable-default-metrics',
		'--disable-settings-metrics',
		'--no-collector.database',
		'--no-collector.bgwriter',
		"--web.listen-address=127.0.0.1:$port{exporter}",
		"--extend.query-path=$TOP/docs/prometheus-queries.yaml");
}
run_in_background(
	'prometheus',
	'prometheus',
	"--web.listen-address=127.0.0.1:$port{prometheus}",
	"--storage.tsdb.path=$DIR/data",
	'--config.file=' . write_file('prometheus.yml', <<"END"));
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files: ['$rules']
scrape_configs:
  - job_name: cqrs
    static_configs:
      - targets: ['127.0.0.1:$port{exporter}']
END

# What Prometheus answers, undef when it does not.
my $http = HTTP::Tiny->new(timeout => 5);

sub ask
{
	my ($path, %parameters) = @_;
	my $url = "http://127.0.0.1:$port{prometheus}/api/v1/$path";
	my $response =
	  $http->get("$url?" . $http->www_form_urlencode(\%parameters));

	return undef unless $response->{status} =~ /^(?:200|400|422)$/;
	return JSON::PP->new->decode($response->{content});
}

sub result
{
	my ($query) = @_;
	my $answer = ask('query', query => $query) or return [];

	diag("$query: $answer->{error}") if $answer->{status} ne 'success';
	return $answer->{data}{result} // [];
}

sub wait_until
{
	my ($what, $condition) = @_;

	ok(RabbitMQ->poll_until($condition, 60), $what)
	  or diag(map { slurp_file("$DIR/$_.log") } qw(exporter prometheus));
	return;
}

wait_until('Prometheus has values',
	sub { return @{ result('cqrs_replica_dead{cqrs_id="item"}') } });

# Each metric, of the database that has it.
my %metrics;
{
	my $name;
	foreach
	  my $line (split /\n/, slurp_file("$TOP/docs/prometheus-queries.yaml"))
	{
		$name = $1 if $line =~ /^(\w+):$/;
		$metrics{"${name}_$1"} = 1
		  if $line =~ /^ +- (\w+): \{usage: (?!LABEL)/;
	}
}
my %found = map { $_->{metric}{__name__} => 1 }
  grep { $_->{value}[1] ne 'NaN' } @{ result('{__name__=~"cqrs_.+"}') };
is_deeply(
	[ sort keys %found ],
	[ sort keys %metrics ],
	'each metric has values');
is_deeply(
	[   map {
			"$_->{metric}{datname} $_->{metric}{process} $_->{metric}{state}"
		} @{ result('sort_desc(cqrs_state_current{process="consumer"})') } ],
	['shop consumer consuming'],
	'state of the consumer');
is_deeply(ask('alerts')->{data}{alerts}, [], 'no alert fires');

# A failure of the replica, and an alert because of it.
$node->safe_psql('postgres',
	q{INSERT INTO item VALUES (1, 'good'), (2, 'bad')});
wait_until(
	'the alert fires',
	sub {
		return grep {
				 $_->{labels}{alertname} eq 'CqrsDeadLetters'
			  && $_->{labels}{datname} eq 'shop'
			  && $_->{state} eq 'firing'
		} @{ (ask('alerts') // {})->{data}{alerts} // [] };
	});

# The dashboard, as Grafana asks.
sub expressions
{
	my ($value) = @_;
	return map { expressions($_) } @$value if ref $value eq 'ARRAY';
	return ()                              if ref $value ne 'HASH';
	return ($value->{expr} // (), map { expressions($_) } values %$value);
}

my @expressions = expressions(
	JSON::PP->new->decode(slurp_file("$TOP/docs/grafana-dashboard.json")));
my @empty = grep {
	my $query = s/\$datname/.*/gr =~ s/\$__rate_interval/1m/gr;

	# Without what only some servers have.
	$query =~ s/ > 0\b//g;
	!@{ result($query) }
} @expressions;
is("@empty", '', 'queries of the dashboard have results');
cmp_ok(scalar(@expressions), '>=', 40, 'all of them');

$node->stop;
$broker->stop;
done_testing();
