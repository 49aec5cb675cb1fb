# The clock of the server is set back: a publisher that ends is started again, and
# an attempt to connect ends.
use strict;
use warnings;

use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('clock');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs'");

# A clock that is late by as many seconds as a file says.
my $shim = "$PostgreSQL::Test::Utils::tmp_check/clock";
append_to_file("$shim.c", <<'END');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
int
gettimeofday(struct timeval *time, void *zone)
{
	int			(*real) (struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
	int			result = real(time, zone);
	FILE	   *file = fopen(getenv("CLOCK_LATE"), "r");
	int			late;

	if (file && fscanf(file, "%d", &late) == 1)
		time->tv_sec -= late;
	if (file)
		fclose(file);
	return result;
}
END
system_or_bail('cc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c", '-ldl');
{
	local $ENV{LD_PRELOAD} = "$shim.so";
	local $ENV{CLOCK_LATE} = "$shim.late";
	$node->start;
}

my $RUNS = q{SELECT state = 'unconfigured' FROM cqrs.stats};
$node->safe_psql('postgres', 'CREATE EXTENSION cqrs');
$node->poll_query_until('postgres', $RUNS) or BAIL_OUT('no publisher');

append_to_file("$shim.late", '3600');
$node->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid, 10000) FROM cqrs.stats});
{
	local $PostgreSQL::Test::Utils::timeout_default = 20;
	ok($node->poll_query_until('postgres', $RUNS),
		'a publisher is started again');
}

# The clock is set back once more, while a broker is connected to that does not
# answer: the attempt ends in time all the same.
my $mute = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 5) or BAIL_OUT("could not listen: $!");
$node->append_conf('postgresql.conf',
		"cqrs.connect_timeout = '3s'\n"
	  . "cqrs.url = 'amqp://127.0.0.1:@{[ $mute->sockport ]}'");
$node->reload;
$node->poll_query_until('postgres',
	q{SELECT state = 'connecting' FROM cqrs.stats})
  or BAIL_OUT('does not connect');
unlink "$shim.late";
append_to_file("$shim.late", '7200');
is($node->safe_psql('postgres', 'SELECT last_error FROM cqrs.stats'),
	'', 'the attempt goes on');
{
	local $PostgreSQL::Test::Utils::timeout_default = 20;
	ok( $node->poll_query_until(
			'postgres', q{SELECT last_error IS NOT NULL FROM cqrs.stats}),
		'the attempt ends');
}

$node->stop;
done_testing();
