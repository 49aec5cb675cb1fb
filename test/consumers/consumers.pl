# The programs of docs/consumers.md keep copies of masters: the messages of all
# kinds, messages that are delivered again or late, and a program that is killed between
# its commit and the acknowledgement, or before.  test/consumers/run has made the
# programs.
use strict;
use warnings;

use Cwd qw(abs_path);
use CqrsTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $dir       = $ENV{CQRS_CONSUMERS} or plan skip_all => 'for make consumers';
my @languages = split ' ', $ENV{CQRS_LANGUAGES};
my $TOP       = abs_path(dirname(__FILE__) . '/../..');

my $broker = RabbitMQ->new('consumers');
$broker->start;
my $node = new_master('consumers', $broker,
	conf => "listen_addresses = '127.0.0.1'\n");
my ($table) =
  slurp_file("$TOP/docs/consumers.md") =~ /^```sql\n(CREATE TABLE .*?)^```/ms
  or BAIL_OUT('docs/consumers.md has no table');
my %programs;

sub start_program
{
	my ($language) = @_;
	my $at         = '127.0.0.1:' . $node->port . "/$language";
	my $user       = getpwuid($<);
	my $url =
	  $language eq 'java'
	  ? "jdbc:postgresql://$at?user=$user"
	  : "postgresql://$user\@$at";

	$programs{$language} = IPC::Run::start(
		[   'env',               'AMQP_URL=' . $broker->url,
			"DATABASE_URL=$url", "$dir/$language/run",
			$language,           'author',
			'sale' ],
		'<',
		'/dev/null',
		'>',
		"$PostgreSQL::Test::Utils::log_path/$language.out",
		'2>&1');
	return;
}

# Waits until a number of a queue, by its name in list_queues, is this.
sub wait_for_queue
{
	my ($queue, $what, $expected) = @_;
	my $value;

	RabbitMQ->poll_until(
		sub {
			my %values = map { split /\t/ } split /\n/,
			  $broker->ctl('list_queues', '-s', 'name', $what);
			$value = $values{$queue} // '';
			return $value eq $expected;
		},
		60) or BAIL_OUT("queue $queue: $what is \"$value\", not $expected");
	return;
}

# The copy of a program has the rows of the masters.
sub is_copy
{
	my ($language, $name) = @_;
	my $expected = $node->safe_psql('postgres', <<'END');
SELECT * FROM (
	SELECT 'author', to_jsonb(id), cqrs_revision, cqrs_to_json(a, 'author')::jsonb FROM author a
	UNION ALL
	SELECT 'sale', jsonb_build_array(shop, id), cqrs_revision, cqrs_to_json(s, 'sale')::jsonb
	FROM sale s) AS row
ORDER BY 1, 2
END
	my $found = '';

	cmp_ok(length $expected, '>', 0, "$language, $name: there are rows");
	wait_published($node);
	RabbitMQ->poll_until(
		sub {
			$found =
			  $node->safe_psql($language, 'SELECT * FROM copy ORDER BY 1, 2');
			return $found eq $expected;
		},
		30);
	is($found, $expected, "$language: $name");
	return;
}

$node->safe_psql('postgres', <<'END');
CREATE TABLE author (id bigint PRIMARY KEY, name text, data jsonb, price numeric);
CREATE TABLE sale (shop text, id integer, amount numeric, PRIMARY KEY (shop, id));
SELECT cqrs_register('author'), cqrs_register('sale');
END
foreach my $language (@languages)
{
	$node->safe_psql('postgres', "CREATE DATABASE $language");
	$node->safe_psql($language,  $table);
	start_program($language);
}
wait_for_queue($_, 'consumers', 1) foreach @languages;
my $tap = start_consumer($broker, 'tap', 'author');

# What Unicode, large numbers and keys of two columns become.
$node->safe_psql('postgres', <<'END');
INSERT INTO author SELECT i, 'Ada ' || i, jsonb_build_object('i', i), i * 1.10
FROM generate_series(1, 20) AS i;
INSERT INTO author VALUES
	(9007199254740993, 'Šárka "☃"', '{"n": 12345678901234567890.10}', 100000000000000000.10);
INSERT INTO sale VALUES ('Brno', 1, 1.0), ('Brno', 2, 2.50), ('Zürich', 1, NULL);
UPDATE author SET name = name || '!' WHERE id % 2 = 0;
UPDATE author SET price = price * 2 WHERE id % 4 = 0;
DELETE FROM author WHERE id % 5 = 0;
DELETE FROM sale WHERE id = 2;
END
is_copy($_, 'inserted, updated, deleted') foreach @languages;

# The revision of a row that is inserted again begins anew.
$node->safe_psql('postgres', <<'END');
UPDATE author SET name = 'old' WHERE id = 2;
DELETE FROM author WHERE id = 2;
INSERT INTO author VALUES (2, 'new');
END
is( $node->safe_psql(
		'postgres', 'SELECT cqrs_revision FROM author WHERE id = 2'),
	0,
	'a lower revision');
is_copy($_, 'inserted again') foreach @languages;

# All messages of a master again, as after a lost connection; the last ones of
# each row are its state.
my @bodies = map { $_->{raw} } messages($tap);
cmp_ok(scalar(@bodies), '>', 30, 'messages to send again');
utf8::encode($_) foreach @bodies;
publish($broker, 'cqrs', 'author', @bodies);
$node->safe_psql('postgres', q{INSERT INTO sale VALUES ('mark', 1, 1)});
is_copy($_, 'messages again') foreach @languages;

# A SAVE of a lower revision, or the same, changes nothing, and a SYNC does.
my ($row) = grep {
		 $_->{body}{instance_pk} == 4
	  && $_->{body}{instance_data}{cqrs_revision} == 2
} messages($tap);
ok($row, 'a row that was changed twice');
my ($same, $lower, $sync) =
  map {
	{ %{ $row->{body} }, signal_type => $_ }
  } qw(SAVE SAVE SYNC);
$same->{instance_data} = { %{ $row->{body}{instance_data} }, name => 'same' };
$lower->{instance_data} =
  { %{ $row->{body}{instance_data} }, name => 'lower', cqrs_revision => 1 };
$sync->{instance_data} =
  { %{ $row->{body}{instance_data} }, name => 'synced', cqrs_revision => 0 };
publish($broker, 'cqrs', 'author', $same, $lower);
$node->safe_psql('postgres', q{INSERT INTO sale VALUES ('mark', 2, 1)});
is_copy($_, 'old messages') foreach @languages;
publish($broker, 'cqrs', 'author', $sync);

foreach my $language (@languages)
{
	ok( $node->poll_query_until(
			$language,
			q{SELECT data->>'name' = 'synced' AND revision = 0 FROM copy
				WHERE cqrs_id = 'author' AND pk = '4'}),
		"$language: a SYNC of a lower revision");

	# to one queue, by its own binding
	$node->safe_psql('postgres',
		"SELECT cqrs_sync('author', 'id = 4', '$language')");
	is_copy($language, 'a SYNC to the queue');
}

# While a program cannot commit, its message stays with the broker, also when it
# is killed.
foreach my $language (@languages)
{
	wait_for_queue($language, 'messages', 0);
	my ($in, $out) = ('', '');
	my $locker =
	  IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($language) ],
		'<', \$in, '>', \$out);
	$in .= "BEGIN; LOCK TABLE copy; SELECT 'locked';\n";
	$locker->pump until $out =~ /locked/;

	$node->safe_psql('postgres',
		"INSERT INTO author VALUES (100, 'late') ON CONFLICT (id) DO UPDATE SET name = author.name || '.'"
	);
	wait_published($node);
	$node->poll_query_until($language,
		"SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'copy'::regclass"
	) or BAIL_OUT("$language does not apply the message");
	wait_for_queue($language, 'messages_unacknowledged', 1);
	$programs{$language}->signal('KILL');
	$programs{$language}->finish;
	wait_for_queue($language, 'messages_ready', 1);

	$in .= "COMMIT;\n\\q\n";
	$locker->finish;
	start_program($language);
	is_copy($language, 'after a crash');
	wait_for_queue($language, 'messages', 0);
}

foreach my $program (values %programs)
{
	$program->signal('TERM');
	$program->finish;
}
stop_consumer($tap);
$node->stop;
$broker->stop;
done_testing();
