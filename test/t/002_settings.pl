# Settings take effect by a reload; the password of the URL shows up
# nowhere (I20).
use strict;
use warnings;

use CqrsTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $SECRET = 'hunter2-secret';

my $broker = RabbitMQ->new('settings');
$broker->start;
my $address = '127.0.0.1:' . $broker->port;
$broker->ctl('add_user', 'app', $SECRET);
$broker->ctl('set_permissions', 'app', '.*', '.*', '.*');
declare_queue($broker, 'replica', 'author');
$broker->ctl(
	'eval', q{
	rabbit_exchange:declare(rabbit_misc:r(<<"/">>, exchange, <<"direct">>),
		direct, true, false, false, [], <<"test">>).});

my $node = new_master('settings');
$node->safe_psql(
	'postgres', q{
	ALTER SYSTEM SET cqrs.reconnect_delay_max = '1s';
	CREATE TABLE author (id int PRIMARY KEY);
	SELECT cqrs_register('author')});

# Changes settings by ALTER SYSTEM and reloads them.
sub set
{
	my (%settings) = @_;

	foreach my $name (sort keys %settings)
	{
		$node->safe_psql('postgres',
			"ALTER SYSTEM SET cqrs.$name = '$settings{$name}'");
	}
	$node->reload;
	return;
}

sub stats
{
	my ($columns) = @_;
	return $node->safe_psql('postgres', "SELECT $columns FROM cqrs.stats");
}

# Waits until the last error of the publisher matches.
sub wait_for_error
{
	my ($pattern) = @_;

	$node->poll_query_until('postgres',
		"SELECT last_error LIKE '$pattern' FROM cqrs.stats")
	  or BAIL_OUT("no error like \"$pattern\"");
	return;
}

# No URL: changes wait.
wait_for_state($node, 'unconfigured');
$node->safe_psql('postgres', 'INSERT INTO author VALUES (1)');
is(stats('state, pending'),
	'unconfigured|1', 'without a URL, messages wait in the outbox');

# A wrong password.
my $offset = -s $node->logfile;
set(url => "amqp://app:wrong-$SECRET\@$address");
wait_for_error('%');
wait_for_state($node, 'waiting');
like(stats('last_error'), qr/403 ACCESS_REFUSED/, "the broker's own words");
$node->poll_query_until('postgres', 'SELECT errors >= 3 FROM cqrs.stats')
  or BAIL_OUT('no further attempts');
is(stats('state, pending'), 'waiting|1', 'the publisher goes on trying');
my $log = slurp_file($node->logfile, $offset);
is(scalar(() = $log =~ /403 ACCESS_REFUSED/g),
	1, 'the same failure is logged once');

# The right one: everything is published without a restart.
set(url => "amqp://app:$SECRET\@$address");
wait_published($node);
is(stats('state, pending'), 'publishing|0',    'drains with the right URL');
is(scalar(drain_queue($broker, 'replica')), 1, 'the message has arrived');

# An invalid URL is refused, by a command and in the file.
foreach my $invalid (
	"http://app:$SECRET\@$address",
	"amqp://app:$SECRET\@127.0.0.1:port",
	"app:$SECRET")
{
	my ($status, undef, $stderr) =
	  $node->psql('postgres', "ALTER SYSTEM SET cqrs.url = '$invalid'");
	isnt($status, 0, 'an invalid URL is refused');
	like(
		$stderr,
		qr/invalid value for parameter "cqrs.url"\nDETAIL: /,
		'with the reason');
	unlike($stderr =~ s/^LINE \d.*//mgr,
		qr/$SECRET/, 'but without the password');
}
my $auto    = $node->data_dir . '/postgresql.auto.conf';
my $content = slurp_file($auto);
$offset = -s $node->logfile;
append_to_file($auto, "cqrs.url = 'amqp://app:$SECRET\@127.0.0.1:port'\n");
$node->reload;
RabbitMQ->poll_until(
	sub {
		slurp_file($node->logfile, $offset) =~
		  /invalid value for parameter "cqrs.url"/;
	},
	30);
like(
	slurp_file($node->logfile, $offset),
	qr/invalid value for parameter "cqrs.url"/,
	'an invalid URL in the file is logged');
$node->safe_psql('postgres', 'INSERT INTO author VALUES (2)');
wait_published($node);
is(scalar(drain_queue($broker, 'replica')),
	1, 'and the one before stays in force');
open my $fh, '>', $auto or die "could not open $auto: $!";
print $fh $content;
close $fh or die "could not write $auto: $!";

# Where the password is.
is( $node->safe_psql('postgres', 'SHOW cqrs.url'),
	"amqp://app:$SECRET\@$address",
	'a superuser sees the URL');
$node->safe_psql('postgres',
	'CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE plain LOGIN');
my $user = sub {
	return $node->connstr('postgres') . " user=$_[0]";
};
my (undef, $shown) = $node->psql(
	'postgres',
	q{SHOW cqrs.url; SELECT * FROM cqrs.stats; TABLE pg_settings},
	connstr => $user->('monitor'));
like($shown, qr/amqp:\/\/app:\*\*\*\@$address/, 'pg_monitor sees it masked');
unlike($shown, qr/$SECRET/, 'pg_monitor does not see the password');
my ($status, $stdout, $stderr) =
  $node->psql('postgres', 'SHOW cqrs.url', connstr => $user->('plain'));
isnt($status, 0, 'others do not see the URL');
unlike($stderr, qr/$SECRET/, 'nor the password');
unlike(
	$node->safe_psql(
		'postgres', q{
		TABLE pg_settings; TABLE cqrs.stats; TABLE cqrs.master;
		SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()}),
	qr/$SECRET/,
	'no view has the password');
my $dump = '';
IPC::Run::run([ 'pg_dumpall', '-d', $node->connstr('postgres') ],
	'>', \$dump);
like($dump, qr/CREATE EXTENSION IF NOT EXISTS cqrs/, 'pg_dumpall works');
unlike($dump, qr/$SECRET/, 'no dump has the password');

# ALTER SYSTEM itself is a statement that PostgreSQL may log; ours is the rest.
unlike(slurp_file($node->logfile) =~ s/^.*(?:STATEMENT|statement): .*$//mgr,
	qr/$SECRET/, 'the log does not have the password');

# A password in a file, for URLs without one.
my $file    = "$PostgreSQL::Test::Utils::tmp_check/passwords";
my $IN_FILE = "hunter3:se\\cret \x{fc}";

sub write_file
{
	my ($text, $mode) = @_;

	unlink $file;
	open my $out, '>:utf8', $file or die "could not create $file: $!";
	print $out $text;
	close $out or die "could not write $file: $!";
	chmod $mode // oct('0600'), $file;
	return;
}

# A line for the user "app", in the form of the file.
sub line
{
	my (%fields) = @_;
	my ($host, $port) = split /:/, $address;
	my @fields = (
		$fields{host} // $host,
		$fields{port} // $port,
		'/', 'app', $fields{password} // $IN_FILE);

	s/([:\\])/\\$1/g foreach @fields[ 2 .. 4 ];
	return join(':', @fields);
}

# Each failure is another one; a reload has the publisher try again at once.
sub refuses
{
	my ($pattern, $what) = @_;

	$node->reload;
	ok( $node->poll_query_until(
			'postgres',
			"SELECT last_error LIKE 'could not log in: %$pattern%' AND connected_at IS NULL FROM cqrs.stats"
		),
		"$what: " . stats('last_error'));
	return;
}
utf8::encode(my $bytes = $IN_FILE);
$broker->ctl('change_password', 'app', $bytes);
set(url => "amqp://app\@$address", password_file => $file);
refuses('No such file', 'no file');
write_file(line(), oct('0640'));
refuses('group or others', 'the group may read it');
write_file(line(), oct('0602'));
refuses('u=rw', 'others may write to it');
unlink $file;
mkdir $file or die $!;
refuses('is not a regular file', 'a directory');
rmdir $file;
POSIX::mkfifo($file, oct('0600')) or die $!;
refuses('is not a regular file', 'a FIFO');
write_file('');
truncate $file, 1 << 30 or die $!;
refuses('64 kB or more', 'a gigabyte');
write_file(line() . "\0");
refuses('zero byte', 'a zero byte');
write_file("\n" . ('x' x 2049) . "\n" . line());
refuses('line 2 is longer', 'a long line');
write_file(line(password => 'x') =~ s/x$//r);
open my $append, '>>:raw', $file or die $!;
print $append "\xff\n";
close $append or die $!;
refuses('line 1 is not valid UTF-8', 'a password that is not UTF-8');
write_file(
	join("\n",
		'#' . line(),
		line(host => 'elsewhere'),
		line(port => 1),
		substr(line(), 0, 20),
		':', '\\', ''));
refuses('no line for user "app"', 'no line that fits');
write_file(line(password => "wrong-$SECRET"));
refuses('403 ACCESS_REFUSED', 'the first line that fits counts');
SKIP:
{
	skip 'not root', 1 if $> != 0;
	write_file(line());
	chown 1, -1, $file;
	refuses('does not belong to', 'the file of another user');
}

# All that is accepted; a symbolic link is followed.
write_file("# logins\r\n\r\n"
	  . line(port => 1)
	  . "\r\n*:*:*:app:"
	  . (line() =~ s/^.*?:app://r)
	  . "\r\n");
rename $file, "$file.target" or die $!;
symlink "$file.target", $file or die $!;
$node->reload;
wait_for_state($node, 'publishing');
pass('the password of the file is used');

# Another password needs no reload.
my $connects = stats('connects');
$broker->ctl('change_password', 'app', "another-$SECRET");
write_file(line(password => "another-$SECRET"));
$broker->ctl('close_all_connections', 'rotated');
ok( $node->poll_query_until(
		'postgres',
		"SELECT state = 'publishing' AND connects > $connects FROM cqrs.stats"
	),
	'a new password is used without a reload');
set(url           => "amqp://app:another-$SECRET\@$address",
	password_file => '/dev/full');
wait_for_state($node, 'publishing');
pass('a URL with a password needs no file');
set(password_file => '');

foreach my $role ("monitor", "plain")
{
	($status) = $node->psql(
		'postgres',
		'SHOW cqrs.password_file',
		connstr => $user->($role));
	is($status == 0, $role eq "monitor", "the name of the file, for $role");
}
unlike(slurp_file($node->logfile) =~ s/^.*(?:STATEMENT|statement): .*$//mgr,
	qr/hunter3|$SECRET/, 'the log has no password of the file');
unlike($node->safe_psql('postgres', 'TABLE pg_settings; TABLE cqrs.stats'),
	qr/hunter3|$SECRET/, 'no view has one');

# Another exchange, which the publisher declares.
set(exchange => 'second');
$node->poll_query_until('postgres',
	q{SELECT state = 'publishing' AND connects >= 2 FROM cqrs.stats})
  or BAIL_OUT('no connection with the new exchange');
like($broker->ctl('list_exchanges', 'name', 'type', 'durable'),
	qr/^second\s+topic\s+true$/m, 'the new exchange is declared');
$broker->ctl(
	'eval',
	q{rabbit_binding:add({binding, rabbit_misc:r(<<"/">>, exchange, <<"second">>),
		<<"author">>, rabbit_misc:r(<<"/">>, queue, <<"replica">>), []}, <<"test">>).}
);
$node->safe_psql('postgres', 'INSERT INTO author VALUES (3)');
wait_published($node);
my @messages = drain_queue($broker, 'replica');
is_deeply([ map { $_->{exchange} } @messages ],
	['second'], 'messages go to the new exchange');

# An exchange of another type.
$offset = -s $node->logfile;
set(exchange => 'direct');
wait_for_error('%406 PRECONDITION_FAILED%');
my $errors = stats('errors');
$node->safe_psql('postgres', 'INSERT INTO author VALUES (4)');
$node->poll_query_until('postgres',
	"SELECT errors >= $errors + 2 FROM cqrs.stats")
  or BAIL_OUT('no further attempts');
is(stats('state, pending'),
	'waiting|1', 'an exchange of another type is tried again');
is( scalar(
		() =
		  slurp_file($node->logfile, $offset) =~ /closed the channel: 406/g),
	1,
	'and logged once');
set(exchange => 'second');
wait_published($node);
is(scalar(drain_queue($broker, 'replica')), 1, 'nothing was lost');

# Expiry.
set(message_ttl => 0);
$node->safe_psql(
	'postgres', q{
	INSERT INTO author SELECT 5 WHERE (SELECT setting FROM pg_settings
		WHERE name = 'cqrs.message_ttl') = '0'});
wait_published($node);
@messages = drain_queue($broker, 'replica');
like($messages[0]{raw}, qr/"expires":null,"meta"/, 'no TTL, no expiry');

# More databases than the server has been made for.
$node->append_conf('postgresql.conf', 'cqrs.max_databases = 1');
$node->restart;
wait_for_state($node, 'publishing');
$node->safe_psql('postgres', 'CREATE DATABASE second');
my ($ret, $out, $err) = $node->psql(
	'second', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE author (id int PRIMARY KEY);
	SELECT cqrs_register('author');
	INSERT INTO author VALUES (1)});
like(
	$err,
	qr/too many databases .*"cqrs.max_databases" is 1\..*Increase "cqrs.max_databases"/s,
	'one database too many');
$node->safe_psql('postgres', 'INSERT INTO author VALUES (6)');
wait_published($node);
is(scalar(drain_queue($broker, 'replica')), 1, 'harms no other one');

$node->stop;
done_testing();
