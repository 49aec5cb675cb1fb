# Builds of a user's or a packager's: outside of the sources, without Redis, and
# installcheck against the server that they are installed into.  The number of the
# release, the distribution, and what test/packages would upgrade.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use IO::Uncompress::Unzip;
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $pg_config = $ENV{CQRS_PG_CONFIG} or plan skip_all => 'for make test';
my $TOP       = abs_path(dirname(__FILE__) . '/../..');
my $tmp       = PostgreSQL::Test::Utils::tempdir();

# As fast as can be compiled.
my @make = (
	'make',                 '-s',
	"PG_CONFIG=$pg_config", 'with_llvm=no',
	'COPT=-O0 -g0 -Wno-cpp');

# The number of the release is the same everywhere.
my ($version) =
  slurp_file("$TOP/cqrs.control") =~ /^default_version = '(\d+\.\d+\.\d+)'$/m;
ok(defined $version, 'cqrs.control has a version of three numbers');
ok(-f "$TOP/sql/cqrs--$version.sql", 'with an install script');
my $meta = slurp_file("$TOP/META.json");
my @meta = $meta =~ /^ {2,6}"version": "([^"]+)",?$/mg;
is("@meta[0, 1]", "$version $version", 'META.json has it twice');
like($meta, qr{"file": "sql/cqrs--\Q$version\E\.sql"}, 'and the script');
like(
	slurp_file("$TOP/debian/changelog"),
	qr/\Acqrs \(\Q$version\E-\d+\) /,
	'the newest of debian/changelog');
my ($newest) =
  slurp_file("$TOP/CHANGELOG.md") =~ /^## \[([\d.]+)\] - \d{4}-/m;
is($newest, $version, 'the newest of CHANGELOG.md');

# Where the objects of another build lie in the sources.
ok(-f "$TOP/src/cqrs.o", 'the sources have been built');
my $build = "$tmp/build";
mkdir $build or die "$build: $!";
chdir $build or die "$build: $!";
command_ok(
	[ @make, '-j2', '-f', "$TOP/Makefile" ],
	'a build in an empty directory');
like(
	library("$build/cqrs.so"),
	qr/ T _PG_init$/m,
	'is a library with an entry');
like(library("$build/cqrs.so"), qr/ redisReaderCreate/, 'with Redis');

# HIREDIS=0, by the way that pg_buildext takes.
my $plain = "$tmp/plain";
mkdir $plain or die "$plain: $!";
command_ok(
	[   @make, '-j2',           '-C',         $plain,
		'-f',  "$TOP/Makefile", "VPATH=$TOP", 'HIREDIS=0' ],
	'a build without Redis');
like(library("$plain/cqrs.so"), qr/ T _PG_init$/m, 'is a library, too');
unlike(
	library("$plain/cqrs.so"),
	qr/ redisReader/,
	'without calls of hiredis');
unlike(output('ldd', "$plain/cqrs.so"),
	qr/hiredis/, 'that is not linked with it');

# Installed into a copy of this run's installation.
my $prefix  = output('pg_config', '--bindir') =~ s{/bin\z}{}r;
my $system  = output($pg_config,  '--bindir') =~ s{/bin\z}{}r;
my $root    = substr($prefix, 0, length($prefix) - length($system));
my $destdir = "$tmp/root";
system_or_bail('cp', '-a', $root, $destdir);
unlink map { glob "$destdir$_/cqrs*" } output($pg_config, '--pkglibdir'),
  output($pg_config, '--sharedir') . '/extension';
is(installed($destdir), '', 'nothing is installed');
command_ok(
	[   @make, '-f', "$TOP/Makefile", 'install',
		"DESTDIR=$destdir", 'HIREDIS=0' ],
	'make install');
is( installed($destdir),
	"cqrs--$version.sql cqrs.control cqrs.so",
	'installs the library and the SQL');

SKIP:
{
	skip 'the server preloads a sanitizer', 3 if $ENV{SANITIZE};
	my $node = PostgreSQL::Test::Cluster->new('installed',
		install_path => "$destdir$system");
	$node->init;

	# What README names.
	$node->append_conf('postgresql.conf', <<'END_OF_CONF');
shared_preload_libraries = 'cqrs'
max_prepared_transactions = 10
END_OF_CONF
	$node->start;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	command_ok(
		[   @make, '-f', "$TOP/Makefile", 'installcheck', 'HIREDIS=0',
			'REGRESS=setup extension register',
			'ISOLATION=sync-order' ],
		'make installcheck');
	$node->safe_psql('postgres', 'CREATE EXTENSION cqrs');
	is( $node->safe_psql(
			'postgres', q{SELECT extversion FROM pg_extension
				WHERE extname = 'cqrs'}),
		$version,
		'the version of the extension');
	skip 'needs PostgreSQL 18', 1 if $node->pg_version < 18;
	is( $node->safe_psql(
			'postgres', q{SELECT version FROM pg_get_loaded_modules()
				WHERE module_name = 'cqrs'}),
		$version,
		'and that of the library');
	$node->stop;
}

command_ok([ @make, '-f', "$TOP/Makefile", 'uninstall', "DESTDIR=$destdir" ],
	'make uninstall');
is(installed($destdir), '', 'leaves nothing');

# The distribution for PGXN, of a repository that has these sources.
SKIP:
{
	skip 'git is not installed', 5
	  if system('git --version >/dev/null 2>&1') != 0;
	my $dist = "$tmp/dist";
	mkdir $dist or die "$dist: $!";
	chdir $dist or die "$dist: $!";
	local $ENV{GIT_DIR}       = "$tmp/git";
	local $ENV{GIT_WORK_TREE} = $TOP;
	system_or_bail('git', 'init', '--quiet');
	system_or_bail('git', '-C', $TOP, 'add', '--all');
	system_or_bail('git', '-c', 'user.name=test', '-c',
		'user.email=test@localhost',
		'commit', '--quiet', '--message', 'test');
	is(output(@make, '-f', "$TOP/Makefile", 'dist'),
		"dist/cqrs-$version.zip", 'make dist');
	my %files  = unzip("$dist/dist/cqrs-$version.zip");
	my $folder = "cqrs-$version/";
	is(join(' ', grep { index($_, $folder) != 0 } sort keys %files),
		'', "all is in $folder");
	my $described = JSON::PP::decode_json($files{"${folder}META.json"});
	is($described->{version}, $version, 'META.json is there');
	my $provided = $described->{provides}{cqrs};
	is( join(' ',
			grep { !$files{ $folder . $_ } } @$provided{qw(file docfile)},
			qw(Makefile cqrs.control README.md src/cqrs.c)),
		'',
		'and what it names');
	is( join(' ',
			grep { /\.(?:o|so|bc|zip)\z/ || $files{$_} =~ /\A\x7FELF/ }
			sort keys %files),
		'',
		'and nothing that was built');
}
chdir '/';

# What test/packages says before it upgrades something, and when it does not.
my $new = <<'END_OF_APT';
Reading package lists...
The following additional packages will be installed:
  libc-dev-bin libc6
Inst libc-dev-bin (2.36-9+deb12u13 Debian:12.13/oldstable [amd64])
Conf libc-dev-bin (2.36-9+deb12u13 Debian:12.13/oldstable [amd64])
Inst hello (1:2.10-3 Debian:12.13/oldstable [amd64]) []
END_OF_APT
my $library = <<'END_OF_APT';
Inst libc6 [2.36-9+deb12u10] (2.36-9+deb12u13 Debian:12.13/oldstable [amd64])
Inst perl-base [5.36.0-7] (5.36.0-7+deb12u3 Debian:12.13/oldstable [amd64]) [perl:amd64 ]
END_OF_APT
my $client = <<'END_OF_APT';
Inst postgresql-client-15 [15.19-0+deb12u1] (15.20-0+deb12u1 Debian:12.13/oldstable [amd64])
END_OF_APT
my $server = <<'END_OF_APT';
Inst postgresql-15 [15.19-0+deb12u1] (15.20-0+deb12u1 Debian:12.13/oldstable [amd64])
END_OF_APT
is_deeply([ upgrades($new) ], [ 0, '' ], 'nothing is upgraded');
is_deeply(
	[ upgrades($new . $library . $client) ],
	[   0,
		"libc6 (2.36-9+deb12u10 to 2.36-9+deb12u13)\n"
		  . "perl-base (5.36.0-7 to 5.36.0-7+deb12u3)\n"
		  . "postgresql-client-15 (15.19-0+deb12u1 to 15.20-0+deb12u1)\n" ],
	'libraries and a client are upgraded');
is((upgrades($library . $server))[0], 1, 'a server would be upgraded');
done_testing();

# What a command prints.
sub output
{
	my ($stdout) = run_command([@_]);
	return $stdout;
}

# The symbols of a library that other libraries see, or have to define.
sub library
{
	return output('nm', '-D', @_);
}

# The names of what is installed of cqrs below a directory.
sub installed
{
	my $found = output('find', @_, '-name', 'cqrs*');
	return join ' ', sort map { s{.*/}{}r } split /\n/, $found;
}

# The files of a zip file.
sub unzip
{
	my ($file) = @_;
	my $zip = IO::Uncompress::Unzip->new($file) or die "could not open $file";
	my %files;

	do
	{
		my $name = $zip->getHeaderInfo->{Name};
		local $/;
		$files{$name} = <$zip> // '';
	} while ($zip->nextStream == 1);
	return %files;
}

# What test/tools/upgrades says of the output of apt-get: exit status and text.
sub upgrades
{
	my ($said) = @_;
	my $printed;

	IPC::Run::run(["$TOP/test/tools/upgrades"], '<', \$said, '>', \$printed);
	return ($? >> 8, $printed);
}
