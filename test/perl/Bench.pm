
=pod

=head1 NAME

Bench - what test/bench/bench.pl measures with, and how it reports

=head1 SYNOPSIS

  use Bench;

  my $session = Bench::Session->new($node, 'postgres');
  my @rounds = interleaved('insert', 5,
      plain => sub { return { s => $session->seconds('INSERT ...') } },
      cqrs  => sub { return { s => $session->seconds('INSERT ...') } });
  goal('INSERT', '<=', 1.5, median(map { $_->{cqrs}{s} / $_->{plain}{s} } @rounds));
  report($directory, \%about);

=head1 DESCRIPTION

What is compared is measured side by side: A B A B, as often as there are
rounds.  A ratio is taken in each round, and the median of the rounds counts:
what disturbs the machine for longer than a round disturbs both sides of a
ratio.

=head1 FUNCTIONS

=over

=cut

package Bench;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run                ();
use JSON::PP                ();
use PostgreSQL::Test::Utils qw(slurp_file);
use POSIX                   ();
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  cpu_s
  django_cqrs_version
  private_kb
  interleaved
  median
  percentile
  begin_part
  chart
  goal
  figure
  report
  short_of_goal
);

my $begun = time;
my (@goals, @figures, @charts, $part);

sub median
{
	return percentile(50, @_);
}

=item percentile($percent, @values)

The value that so many of them do not exceed; with an even number of values, the
median is between the two in the middle.

=cut

sub percentile
{
	my ($percent, @values) = @_;
	my @sorted = sort { $a <=> $b } @values;
	my $n      = @sorted;

	return ($sorted[ $n / 2 - 1 ] + $sorted[ $n / 2 ]) / 2
	  if $percent == 50 && $n % 2 == 0;
	return $sorted[ int($#sorted * $percent / 100) ];
}

=item cpu_s($pid)

Processor time of a process so far, in seconds.

=cut

sub cpu_s
{
	my ($pid) = @_;
	my @field = split ' ', slurp_file("/proc/$pid/stat") =~ s/.*\)//sr;

	return ($field[11] + $field[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

=item private_kb($pid)

Private memory of a process, kB: what is resident, less what is shared.

=cut

sub private_kb
{
	my ($pid) = @_;
	my %kb = slurp_file("/proc/$pid/status") =~ /^(\w+):\s+(\d+) kB$/mg;

	return $kb{VmRSS} - $kb{RssShmem};
}

=item django_cqrs_version($python)

The version of django-cqrs that this Python has.

=cut

sub django_cqrs_version
{
	my ($python) = @_;
	my $version;

	IPC::Run::run(
		[   $python,
			'-c',
			'from importlib.metadata import version; print(version("django-cqrs"))'
		],
		'>',
		\$version) or die "no version of django-cqrs: $python";
	chomp $version;
	return $version;
}

=item interleaved($what, $rounds, $side => sub { ... }, ...)

Calls all sides in their order, again and again.  A side returns a hash of
figures; the function returns a list with a hash of them by side for each round.

=cut

sub interleaved
{
	my ($what, $rounds, @sides) = @_;
	my @result;

	foreach my $round (1 .. $rounds)
	{
		my %values;
		for (my $i = 0; $i < @sides; $i += 2)
		{
			$values{ $sides[$i] } = $sides[ $i + 1 ]->();
		}
		push @result, \%values;
		_progress(sprintf '%s, round %d of %d: %s',
			$what, $round, $rounds, _values(\%values));
	}
	return @result;
}

sub _values
{
	my ($values) = @_;
	my @text;

	foreach my $side (sort keys %$values)
	{
		push @text,
		  join ' ', $side, map { sprintf '%s %.5g', $_, $values->{$side}{$_} }
		  sort keys %{ $values->{$side} };
	}
	return join ', ', @text;
}

=item begin_part($name)

What is reported from now on belongs to that part of the benchmark.

=cut

sub begin_part
{
	($part) = @_;
	return;
}

=item goal($name, $sense, $goal, $measured, $context)

A row of the table; sense is C<E<gt>=> or C<E<lt>=>, context the figures behind
it.

=item figure($name, $measured, $context)

A row that has no goal.

=cut

sub goal
{
	my ($name, $sense, $goal, $measured, $context) = @_;

	push @goals,
	  { part     => $part,
		name     => $name,
		sense    => $sense,
		goal     => $goal,
		measured => $measured,
		context  => $context };
	_progress(_line($goals[-1]));
	return;
}

sub figure
{
	my ($name, $measured, $context) = @_;

	push @figures,
	  { part     => $part,
		name     => $name,
		measured => $measured,
		context  => $context };
	_progress(_figure_line($figures[-1]));
	return;
}

sub _figure_line
{
	my ($row) = @_;
	return sprintf '%s: %s (%s)', $row->{name}, _number($row->{measured}),
	  $row->{context};
}

# What a full run tells while it goes on.
sub _progress
{
	my ($text) = @_;

	note sprintf('%4d s  %s', time - $begun, $text) unless $ENV{QUICK};
	return;
}

sub _line
{
	my ($row) = @_;
	return sprintf '%s: %s, goal %s %s: %s (%s)', $row->{name},
	  _number($row->{measured}), $row->{sense}, _number($row->{goal}),
	  _met($row) ? 'met' : 'missed', $row->{context};
}

sub _met
{
	my ($row) = @_;
	return $row->{sense} eq '>='
	  ? $row->{measured} >= $row->{goal}
	  : $row->{measured} <= $row->{goal};
}

# Three digits that count; thousands apart.
sub _number
{
	my ($value) = @_;
	my $text =
		abs($value) >= 100 ? sprintf('%.0f', $value)
	  : abs($value) >= 10  ? sprintf('%.1f', $value)
	  : abs($value) >= 1   ? sprintf('%.2f', $value)
	  :                      sprintf('%.3f', $value);

	1 while $text =~ s/^(-?\d+)(\d{3})/$1,$2/;
	return $text;
}

=item short_of_goal()

The rows that are more than a third short of their goal.

=cut

sub short_of_goal
{
	return map { _line($_) } grep {
			$_->{sense} eq '>='
		  ? $_->{measured} < $_->{goal} * 2 / 3
		  : $_->{measured} > $_->{goal} * 4 / 3
	} @goals;
}

=item chart($file, $title, $unit, [ $label, $value ], ...)

A chart with a bar for each value.  Ours is the one whose label begins with
"cqrs".

=cut

sub chart
{
	my ($file, $title, $unit, @bars) = @_;

	push @charts,
	  { part  => $part,
		file  => $file,
		title => $title,
		unit  => $unit,
		bars  => \@bars };
	return;
}

=item report($directory, $about, $previous)

Prints the table, and writes results.md, results.json and the charts into the
directory.  About is what it says below the charts: machine, versions, date.
Previous, if it is given, is the results.json of another run: what it has of
parts that were not run now is kept.

=cut

sub report
{
	my ($directory, $about, $previous) = @_;
	my %run     = map { $_->{part} => 1 } @goals;
	my $results = { goals => [], figures => [], charts => [] };

	note $about;
	note _line($_)                                        foreach @goals;
	note _figure_line($_)                                 foreach @figures;
	_write("$directory/$_->{file}.svg", _svg($_, $about)) foreach @charts;
	$_->{about} = $about foreach @goals, @figures, @charts;
	$results    = JSON::PP->new->decode(slurp_file($previous))
	  if defined $previous;
	foreach my $pair (
		[ goals   => \@goals ],
		[ figures => \@figures ],
		[   charts => [
				map {
					{ %$_{qw(part about file title)} }
				} @charts ] ])
	{
		my ($key, $new) = @$pair;
		$results->{$key} =
		  [ @$new, grep { !$run{ $_->{part} } } @{ $results->{$key} } ];
	}
	_write("$directory/results.md", _markdown($results));
	_write("$directory/results.json",
		JSON::PP->new->pretty->canonical->encode($results));
	return;
}

sub _write
{
	my ($file, $content) = @_;

	open my $fh, '>', $file or die "could not create $file: $!";
	print $fh $content;
	close $fh or die "could not write $file: $!";
	return;
}

# A table for each run, the newest first.
sub _markdown
{
	my ($results) = @_;
	my @goals     = @{ $results->{goals} };
	my %about     = map { $_->{about} => 1 } @goals;
	my $text =
		"# Results\n\nMade by `make bench`; see"
	  . " [README](README.md) for what the rows mean.\n"
	  . sprintf(
		"%d of %d goals are met.\n",
		scalar(grep { _met($_) } @goals),
		scalar @goals);

	foreach my $about (reverse sort keys %about)
	{
		my ($goals, $figures, $charts) = map {
			[ grep { $_->{about} eq $about } @{ $results->{$_} } ]
		} qw(goals figures charts);

		$text .=
			"\n## $about\n\n"
		  . "| what | measured | goal | | figures |\n|---|---|---|---|---|\n"
		  . join '', map { _goal_row($_) } @$goals;
		$text .=
		  "\nWithout a goal:\n\n| what | measured | figures |\n|---|---|---|\n"
		  . join '', map { _figure_row($_) } @$figures
		  if @$figures;
		$text .= "\n" . join '',
		  map { "![$_->{title}]($_->{file}.svg)\n" } @$charts
		  if @$charts;
	}
	return $text;
}

sub _goal_row
{
	my ($row) = @_;
	return sprintf "| %s | %s | %s %s | %s | %s |\n", $row->{name},
	  _number($row->{measured}), $row->{sense} eq '>=' ? '≥'   : '≤',
	  _number($row->{goal}),     _met($row)            ? 'met' : '**missed**',
	  $row->{context};
}

sub _figure_row
{
	my ($row) = @_;
	return sprintf "| %s | %s | %s |\n", $row->{name},
	  _number($row->{measured}), $row->{context};
}

sub _svg
{
	my ($chart, $about) = @_;
	my ($width, $left, $height) = (760, 250, 26);
	my @bars   = @{ $chart->{bars} };
	my $bottom = 48 + $height * @bars;
	my ($max)  = sort { $b <=> $a } map { $_->[1] } @bars;
	my $scale  = ($width - $left - 90) / ($max || 1);
	my $text   = sprintf <<'END', ($width, $bottom + 24) x 2;
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="white"/>
END

	$text .= sprintf qq{<text x="10" y="24" font-size="15">%s (%s)</text>\n},
	  map { _xml($_) } @{$chart}{qw(title unit)};
	foreach my $i (0 .. $#bars)
	{
		my ($label, $value) = @{ $bars[$i] };
		my $y      = 40 + $height * $i;
		my $length = $value > 0 ? $value * $scale : 0;

		$text .=
			sprintf qq{<text x="%d" y="%d" text-anchor="end">%s</text>\n}
		  . qq{<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>\n}
		  . qq{<text x="%.1f" y="%d">%s</text>\n},
		  $left - 8, $y + 15, _xml($label), $left, $y, $length, $height - 6,
		  $label =~ /^cqrs/ ? '#2166ac' : '#b0b0b0',
		  $left + $length + 6, $y + 15, _number($value);
	}
	return $text
	  . sprintf
	  qq{<text x="10" y="%d" font-size="10" fill="#606060">%s</text>\n</svg>\n},
	  $bottom + 14, _xml($about);
}

sub _xml
{
	my ($text) = @_;
	my %entity = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;');

	$text =~ s/([&<>])/$entity{$1}/g;
	return $text;
}

=item Bench::Session->new($node, $dbname)

A connection that stays open.

=item $session->sql($commands, $meanwhile)

Runs commands of psql and returns what they print.  Meanwhile is called every
5 ms until they are done.

=item $session->seconds($commands)

How long they take.

=item $session->pid

Process id of the backend.

=back

=cut

package Bench::Session;

use strict;
use warnings;

use IO::Select;
use IPC::Open2;
use Time::HiRes qw(time);

my $DONE = '=done=';

sub new
{
	my ($class, $node, $dbname) = @_;
	my $self = bless {}, $class;

	$self->{process} = open2($self->{out}, $self->{in}, 'psql', '-XAtq', '-v',
		'ON_ERROR_STOP=1', '-d', $node->connstr($dbname));
	$self->{in}->autoflush(1);
	$self->{pid} = $self->sql('SELECT pg_backend_pid()');
	return $self;
}

sub pid { return $_[0]->{pid}; }

sub sql
{
	my ($self, $commands, $meanwhile) = @_;
	my $select = IO::Select->new($self->{out});
	my $output = '';

	$self->{in}->print("$commands\n;\\echo $DONE\n");
	until ($output =~ s/^$DONE\n\z//m)
	{
		if ($meanwhile && !$select->can_read(0.005))
		{
			$meanwhile->();
			next;
		}
		sysread $self->{out}, $output, 65536, length $output
		  or die "psql ended: $commands";
	}
	chomp $output;
	return $output;
}

sub seconds
{
	my ($self, $commands) = @_;
	my $start = time;

	$self->sql($commands);
	return time - $start;
}

sub end
{
	my ($self) = @_;

	close $self->{in};
	waitpid $self->{process}, 0;
	return;
}

1;
