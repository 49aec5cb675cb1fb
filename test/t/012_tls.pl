# amqps://: the broker's certificate and name are verified, client certificates
# are shown, and nothing that hangs outlasts the timeouts or a request to stop.
use strict;
use warnings;

use CqrsTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

# An authority, a certificate for the broker, by name only, and one for the
# publisher.
my $dir = "$PostgreSQL::Test::Utils::tmp_check/tls";
mkdir $dir or BAIL_OUT("could not create $dir: $!");

sub make_certificate
{
	my ($name, $subject, @extensions) = @_;
	my @key = ('-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/$name.key");

	if ($name eq 'ca')
	{
		system_log(
			'openssl', 'req',         '-x509', @key,
			'-out',    "$dir/ca.crt", '-subj', $subject,
			'-days',   '2') == 0
		  or BAIL_OUT('no CA certificate');
		return;
	}
	append_to_file("$dir/$name.ext", join("\n", @extensions) . "\n");
	system_log('openssl', 'req', @key, '-out', "$dir/$name.csr", '-subj',
		$subject) == 0
	  or BAIL_OUT("no request for $name");
	system_log(
		'openssl',        'x509',
		'-req',           '-in',
		"$dir/$name.csr", '-CA',
		"$dir/ca.crt",    '-CAkey',
		"$dir/ca.key",    '-CAcreateserial',
		'-out',           "$dir/$name.crt",
		'-days',          '2',
		'-extfile',       "$dir/$name.ext") == 0
	  or BAIL_OUT("no certificate for $name");
	return;
}
make_certificate('ca',        '/CN=cqrs test authority');
make_certificate('broker',    '/CN=broker', 'subjectAltName=DNS:localhost');
make_certificate('publisher', '/CN=publisher', 'keyUsage=digitalSignature');

my $port   = RabbitMQ::free_port();
my $broker = RabbitMQ->new('tls', config => <<"END");
listeners.ssl.default = 127.0.0.1:$port
ssl_options.cacertfile = $dir/ca.crt
ssl_options.certfile = $dir/broker.crt
ssl_options.keyfile = $dir/broker.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
END
$broker->start;
my $url  = "amqps://guest:guest\@localhost:$port";
my $node = new_master('tls', $broker, conf => <<"END");
cqrs.reconnect_delay_max = '300ms'
cqrs.connect_timeout = '3s'
cqrs.url = '$url'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id serial PRIMARY KEY, data text);
	SELECT cqrs_register('item');
	CREATE ROLE nobody_special});
declare_queue($broker, 'replica', 'item');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub configure
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', "cqrs.$_ = '$settings{$_}'")
	  foreach keys %settings;
	$node->reload;
	return;
}

# Waits for an error that matches.
sub fails_with
{
	my ($pattern, $what) = @_;

	$node->poll_query_until('postgres',
		"SELECT last_error ~ '$pattern' AND connected_at IS NULL FROM cqrs.stats"
	) or BAIL_OUT("$what: " . query('SELECT last_error FROM cqrs.stats'));
	pass($what);
	return;
}

fails_with(
	'certificate is not accepted: .*certificate',
	'an unknown authority is not trusted');
configure(ssl_ca_file => "$dir/ca.crt");
fails_with('(alert|handshake|closed)', 'the broker wants a certificate');
configure(
	ssl_cert_file => "$dir/publisher.crt",
	ssl_key_file  => "$dir/publisher.key");
wait_for_state($node, 'publishing');
pass('with a certificate the broker lets us in');

query(
	q{INSERT INTO item (data) SELECT repeat('x', 10) FROM generate_series(1, 5000);
	INSERT INTO item (data) SELECT repeat('x', 3000000) FROM generate_series(1, 10)}
);
wait_published($node);
my @keys = arrived_keys($broker, 'replica');
is(scalar(@keys), 5010, 'messages arrive, large ones as well');

configure(url => "amqps://guest:guest\@127.0.0.1:$port");
fails_with(
	'certificate is not accepted: .*mismatch',
	'a certificate for another host is not accepted');
configure(ssl_verify => 'off');
wait_for_state($node, 'publishing');
pass('unless nothing is to be verified');
configure(ssl_verify => 'on', url => $url, ssl_ca_file => "$dir/missing");
fails_with('could not load "cqrs.ssl_ca_file": No such file',
	'a file that is missing');
configure(ssl_ca_file => "$dir/ca.crt", ssl_key_file => "$dir/broker.key");
fails_with('could not load "cqrs.ssl_key_file"',
	'a key that does not belong to the certificate');
configure(ssl_key_file => "$dir/publisher.key");
wait_for_state($node, 'publishing');

foreach my $setting (qw(ssl_ca_file ssl_cert_file ssl_key_file))
{
	my (undef, undef, $error) =
	  $node->psql('postgres', "SET ROLE nobody_special; SHOW cqrs.$setting");
	like(
		$error,
		qr/must be superuser|permission denied/,
		"cqrs.$setting is not for everybody");
}

# Frozen while large messages are sent.
my $published = query('SELECT published FROM cqrs.stats');
$broker->suspend;
query(
	q{INSERT INTO item (data) SELECT repeat('x', 3000000)
	FROM generate_series(1, 10)});
$node->poll_query_until('postgres',
	"SELECT published > $published FROM cqrs.stats")
  or BAIL_OUT('nothing sent');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 2, 'stops while the broker reads nothing');
$broker->resume;
$node->start;
wait_published($node);
my %seen = map { $_ => 1 } arrived_keys($broker, 'replica');
is(scalar(keys %seen), 10, 'all of it arrives afterwards');

# Something that never shakes hands.
my $hole = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen    => 5) or BAIL_OUT("could not listen: $!");
configure(url => 'amqps://127.0.0.1:' . $hole->sockport);
wait_for_state($node, 'connecting');
fails_with('TLS handshake timed out', 'a handshake that hangs is given up');
wait_for_state($node, 'connecting');
$start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 2, 'stops while a handshake hangs');

done_testing();
