# rediss://: the server's certificate is verified, client certificates are shown,
# and nothing that hangs outlasts the timeouts or a request to stop.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Redis;
use Test::More;
use Time::HiRes qw(time);

my $dir = "$PostgreSQL::Test::Utils::tmp_check/tls";
mkdir $dir or BAIL_OUT("could not create $dir: $!");

# A certificate that its own key has signed, for "localhost".
system_log(
	'openssl',  'req',
	'-x509',    '-newkey',
	'rsa:2048', '-nodes',
	'-keyout',  "$dir/key",
	'-out',     "$dir/crt",
	'-subj',    '/CN=localhost',
	'-addext',  'subjectAltName=DNS:localhost',
	'-days',    '2') == 0
  or BAIL_OUT('no certificate');

my $port   = RabbitMQ::free_port();
my $broker = Redis->new('tls', config => <<"END");
tls-port $port
tls-cert-file $dir/crt
tls-key-file $dir/key
tls-ca-cert-file $dir/crt
END
$broker->start;
my $url  = "rediss://localhost:$port/0";
my $node = new_master('tls', undef, conf => <<"END");
cqrs.reconnect_delay_max = '300ms'
cqrs.connect_timeout = '3s'
cqrs.url = '$url'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
$broker->bind('replica', 'item');

sub configure
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', "cqrs.$_ = '$settings{$_}'")
	  foreach keys %settings;
	$node->reload;
	return;
}

sub fails_with
{
	my ($pattern, $what) = @_;

	$node->poll_query_until('postgres',
		"SELECT last_error ~ '$pattern' AND connected_at IS NULL FROM cqrs.stats"
	) or BAIL_OUT($what);
	pass($what);
	return;
}

fails_with('certificate is not accepted', 'an unknown authority');
configure(ssl_ca_file => "$dir/crt");
fails_with(
	'(alert|handshake|closed|connection lost|could not log in|could not take)',
	'the server wants a certificate');
configure(ssl_cert_file => "$dir/crt", ssl_key_file => "$dir/key");
wait_for_state($node, 'publishing');
pass('with a certificate the server lets us in');

$node->safe_psql(
	'postgres',
	q{INSERT INTO item (data) SELECT repeat('x', 10) FROM generate_series(1, 5000);
	INSERT INTO item (data) SELECT repeat('x', 3000000) FROM generate_series(1, 5)}
);
wait_published($node);
is($broker->queue_length('replica'), 5005, 'messages arrive');
my ($last) = @{ $broker->command('LRANGE', 'replica', 0, 0) };
cmp_ok(length $last, '>', 4_000_000, 'large ones as well');

configure(url => "rediss://127.0.0.1:$port/0");
fails_with('certificate is not accepted: .*mismatch', 'another host');
configure(url => $url);
wait_for_state($node, 'publishing');

# Frozen while large messages are sent.
my $published =
  $node->safe_psql('postgres', 'SELECT published FROM cqrs.stats');
$broker->suspend;
$node->safe_psql(
	'postgres',
	q{INSERT INTO item (data) SELECT repeat('x', 3000000)
	FROM generate_series(1, 10)});
$node->poll_query_until('postgres',
	"SELECT published > $published FROM cqrs.stats")
  or BAIL_OUT('nothing sent');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 2, 'stops while the server reads nothing');
$broker->resume;

done_testing();
