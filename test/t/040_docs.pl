# The examples in README.md and docs/ work, in the order in which they stand.
#
# Each document gets a new database called "shop", with what
# test/docs/NAME.sql makes in it, where there is such a file, and a broker.
# Commands find the programs of test/ where a checkout has them.
# What a block is, its fence says:
#
#	sql			a script for psql, stopped by its first error
#	sh			one for bash, with PGHOST, PGDATABASE, PGDATA, ... set, in a
#				directory of the document's own
#	output		what the block before it must print
#	json		messages, one a line, that the broker must have got since the
#				document began; times may differ
#	sql norun, sh norun		is not run, but counted
#
# Anything else is not looked at.  The URL of the documents' broker is replaced
# by that of the test's.
#
# Links lead somewhere.  The reference has each function, column and setting, and
# none that there is not.  What is made for Prometheus and Grafana: the queries
# run, have the columns that they name, and alerts and dashboard use no metric
# that there is not.
use strict;
use warnings;

use Cwd qw(abs_path);
use CqrsTest;
use File::Basename;
use File::Temp ();
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $TOP       = abs_path(dirname(__FILE__) . '/../..');
my @DOCUMENTS = ("$TOP/README.md", sort glob("$TOP/docs/*.md"));

my $broker = RabbitMQ->new('docs');
$broker->start;
my $node = new_master(
	'docs', $broker,
	extension => 0,
	conf      => "cqrs.reconnect_delay_max = '1s'\n");
my $consumer;

# The blocks of a document: hashes with kind, info, text, place.
sub blocks
{
	my ($file) = @_;
	my (@blocks, $block);
	my $number = 0;

	open my $fh, '<:encoding(UTF-8)', $file
	  or BAIL_OUT("could not open $file: $!");
	while (my $line = <$fh>)
	{
		$number++;
		if ($line !~ /^\s*```\s*(.*?)\s*$/)
		{
			$block->{text} .= $line if $block;
		}
		elsif ($block)
		{
			push @blocks, $block;
			$block = undef;
		}
		else
		{
			my ($kind, $norun) = split / +/, $1;

			$block = {
				kind  => $kind // '',
				norun => ($norun // '') eq 'norun',
				text  => '',
				place => substr($file, length($TOP) + 1) . ":$number" };
		}
	}
	close $fh;
	fail("$block->{place}: fence is not closed") if $block;
	return @blocks;
}

# Runs a block and returns its exit status, output and errors.
sub run_block
{
	my ($block, $dir) = @_;
	my $url = $broker->url;
	my @command =
	  $block->{kind} eq 'sql'
	  ? ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', '-')
	  : ('bash', '-e', '-u', '-o', 'pipefail');
	my $text =
	  $block->{text} =~
	  s{amqp://user(?::password)?\@broker\.example[^'\s]*}{$url}gr;
	my ($stdout, $stderr);

	utf8::encode($text);
	local %ENV = (
		%ENV,
		PGHOST     => $node->host,
		PGPORT     => $node->port,
		PGDATABASE => 'shop',
		PGDATA     => $node->data_dir);
	IPC::Run::run(\@command, '<', \$text, '>', \$stdout, '2>', \$stderr,
		init => sub { chdir $dir });
	return ($? >> 8, $stdout, $stderr);
}

# The text of output without what psql pads it with.
sub trimmed
{
	my ($text) = @_;
	return join "\n", grep { /\S/ } map { s/\s+$//r } split /\n/, $text;
}

# The JSON of a message without its times.
sub undated
{
	my ($body) = @_;
	return $body =~
	  s/"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d{6})?\+00:00"/"Y-M-D$1"/gr;
}

# The lines of a block of messages that have not arrived.
sub missing
{
	my ($block) = @_;
	my @missing;

	RabbitMQ->poll_until(
		sub {
			my %arrived =
			  map { undated($_->{raw}) => 1 } messages($consumer);
			@missing = grep { !$arrived{ undated($_) } } split /\n/,
			  $block->{text};
			return !@missing;
		},
		@missing ? 10 : 30);
	return join "\n", @missing;
}

my %count = (run => 0, norun => 0);

sub try_document
{
	my ($file) = @_;
	my $dir    = File::Temp::tempdir(CLEANUP => 1);
	my $output = '';

	# Commands that call programs of a checkout.
	symlink "$TOP/test", "$dir/test" or BAIL_OUT("symlink: $!");
	foreach my $block (blocks($file))
	{
		my $place = $block->{place};

		if ($block->{kind} !~ /^(?:sql|sh|output|json)$/)
		{
			next;
		}
		elsif ($block->{norun})
		{
			$count{norun}++;
			note("$place: not run");
		}
		elsif ($block->{kind} eq 'output')
		{
			is( undated(trimmed($output)),
				undated(trimmed($block->{text})),
				"$place: output");
		}
		elsif ($block->{kind} eq 'json')
		{
			is(missing($block), '', "$place: messages");
		}
		else
		{
			(my $status, $output, my $errors) = run_block($block, $dir);
			$count{run}++;
			is($status, 0, "$place: runs") or diag($errors);
		}
	}
	return;
}

foreach my $file (@DOCUMENTS)
{
	my $name  = basename($file, '.md');
	my $setup = "$TOP/test/docs/$name.sql";

	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	if (-e $setup)
	{
		$node->safe_psql('shop', slurp_file($setup));
		wait_published($node, 'shop');
	}
	$consumer = start_consumer($broker, "replica_$name", '#');
	try_document($file);
	stop_consumer($consumer);

	$node->safe_psql('postgres', 'DROP DATABASE shop');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
	$node->reload;
}

# The text of a document without its blocks.
sub prose
{
	return slurp_file($_[0]) =~ s/^\s*```.*?^\s*```//gmsr;
}

# The anchors of a document's headings, as a hash.
sub anchors
{
	return
	  map { (lc s/[^\w -]//gr =~ tr/ /-/r) => 1 }
	  prose($_[0]) =~ /^#+ (.*)$/mg;
}

foreach my $file (@DOCUMENTS, "$TOP/CHANGELOG.md", glob("$TOP/docs/*/*.md"))
{
	my @dead;

	foreach my $link (prose($file) =~ /\]\(([^)]+)\)/g)
	{
		next if $link =~ /^https:/;
		my ($path, $anchor) = split /#/, $link;
		my $target  = $path eq '' ? $file : dirname($file) . "/$path";
		my %anchors = -f $target && defined $anchor ? anchors($target) : ();
		push @dead, $link
		  unless -e $target && (!defined $anchor || $anchors{$anchor});
	}
	is("@dead", '', basename($file) . ': links lead somewhere');
}

# The queries by name, each with its text and metrics: a hash of column and
# usage.  The file has a strict form, which this reads and no other.
sub monitoring_queries
{
	my ($file) = @_;
	my (%queries, $query, $part);

	foreach my $line (split /\n/, slurp_file($file))
	{
		if    ($line =~ /^#/)       { next }
		elsif ($line =~ /^(\w+):$/) { $query = $queries{$1} = {}; $part = '' }
		elsif ($query && $line =~ /^  (query|metrics):(?: \|)?$/)
		{
			$part = $1;
		}
		elsif ($part eq 'query' && $line =~ /^ {4}(\S.*|  \S.*)$/)
		{
			$query->{query} .= "$1\n";
		}
		elsif ($part eq 'metrics'
			&& $line =~
			/^ {4}- (\w+): \{usage: (LABEL|GAUGE|COUNTER), description: "[^"]+"\}$/
		  )
		{
			$query->{metrics}{$1} = $2;
		}
		else { fail("$file: not understood: $line") }
	}
	return %queries;
}

# All "expr" of a decoded JSON document.
sub expressions
{
	my ($value) = @_;
	my @found;

	if (ref $value eq 'HASH')
	{
		@found =
		  ($value->{expr} // (), map { expressions($_) } values %$value);
	}
	elsif (ref $value eq 'ARRAY')
	{
		@found = map { expressions($_) } @$value;
	}
	return @found;
}

my %queries = monitoring_queries("$TOP/docs/prometheus-queries.yaml");
my $alerts  = slurp_file("$TOP/docs/prometheus-alerts.yaml");
my $dashboard =
  JSON::PP->new->decode(slurp_file("$TOP/docs/grafana-dashboard.json"));
my %metrics;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION cqrs; CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher;
	CREATE TABLE copy (id int PRIMARY KEY); SELECT cqrs_register_replica('copy')}
);

# What the reference describes, against the catalogs.
my $reference = slurp_file("$TOP/docs/reference.md");
my %section   = $reference =~ /^### (\S+)\n(.*?)(?=^##)/gms;

# Names that a query returns, as a sorted list.
sub names
{
	return sort split /\n/, $node->safe_psql('postgres', $_[0]);
}

is_deeply(
	[ sort $reference =~ /^(?:CALL )?(cqrs_\w+)\((?!['A-Z])/mg ],
	[   names(
			q{SELECT proname FROM pg_proc WHERE proname ^@ 'cqrs_'
				AND pronamespace = 'public'::regnamespace}) ],
	'functions are described');
foreach my $view (
	qw(stats lanes progress_sync outbox parked consumer consumer_stats
	replica_stats failed dead_letters))
{
	is_deeply(
		[   sort map { /`(\w+)`/g }
			  $section{"cqrs.$view"} =~ /^\| (`.*?) \|/mg ],
		[   names(
				qq{SELECT attname FROM pg_attribute
					WHERE attrelid = 'cqrs.$view'::regclass AND attnum > 0}) ],
		"columns of cqrs.$view are described");
}
my ($settings) = $reference =~ /^## Settings\n(.*?)^## /ms;
my %described = map {
	map { $_ => 1 }
	  /`(cqrs\.\w+)`/g
} $settings =~ /^(?:\| `.*? \||\*\*`.*)$/mg;
is_deeply(
	[ sort keys %described ],
	[   sort 'cqrs.url',
		'cqrs.consumer_url',
		names(q{SELECT name FROM pg_settings WHERE name ^@ 'cqrs.'}) ],
	'settings are described');

foreach my $name (sort keys %queries)
{
	my ($query, $columns) = @{ $queries{$name} }{qw(query metrics)};
	my ($output, $errors);

	$node->psql(
		'postgres', "SET ROLE watcher; $query",
		extra_params => [ '-P', 'tuples_only=off', '-P', 'footer=off' ],
		stdout       => \$output,
		stderr       => \$errors);
	my ($header, @rows) = grep { $_ ne 'SET' } split /\n/, $output;
	is( join(',', sort split(/\|/, $header // '')),
		join(',', sort keys %$columns),
		"$name: columns are as described") or diag($errors);
	cmp_ok(scalar(@rows), '>=', 1, "$name: there are values");
	$metrics{"${name}_$_"} = 1
	  foreach grep { $columns->{$_} ne 'LABEL' } keys %$columns;
}
my @uses = ($alerts =~ /^ +expr: (.*)$/mg, expressions($dashboard));
foreach
  my $use (@uses, map { $_->{query} } @{ $dashboard->{templating}{list} })
{
	my @unknown = grep { !$metrics{$_} } $use =~ /\b(cqrs_\w+)/g;
	is("@unknown", '', "$use: its metrics are there");
}
cmp_ok(scalar(@uses), '>=', 15, 'alerts and dashboard use metrics');
unlike($alerts, qr/\t/, 'no tabs in YAML');
foreach my $line (split /\n/, $alerts)
{
	like(
		$line,
		qr/^(?:\#.*|groups:|\ {2}-\ name:\ \w+|\ {4}rules:
		|\ {6}-\ alert:\ \w+|\ {8}expr:\ [^:]+|\ {8}for:\ \d+m
		|\ {8}annotations:|\ {10}summary:\ "[^"]+")$/x,
		"alerts: $line");
}

note("$count{run} blocks run, $count{norun} not");
cmp_ok($count{run}, '>', 0, 'there were examples');

$node->stop;
$broker->stop;
done_testing();
