# Messages of a real django-cqrs master, recorded, come over a real exchange as
# they were: routing key, properties, body.  The rows that they leave are those
# that replicas of django-cqrs 3.1.0 have after the same messages; these were
# read from its PostgreSQL once, and its log gives the counts.
#
# What is otherwise here, and why:
#
#   expired messages	Python's replicas put them into a queue for dead letters,
#						here they are in cqrs.failed, where SQL can retry them.
#						The messages have expired since, so that the first part
#						has the option "on_expired", which Python lacks: it got
#						the messages with a clock of that day.
#   foreign keys		Python's master sends "author"; its replicas map that key
#						to a column by CQRS_MAPPING, here "field_map" does.
#						CQRS_MAPPING has to name all keys, "field_map" those
#						with another name.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use JSON::PP ();
use POSIX    ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RawPublish;
use Test::More;

# Of each replica: its columns, and the rows that Python's has.
my %ROWS = (
	basic => [ 'name, num', <<'END' ],
2|10|2026-11-23 05:45:04.488501+00|in|3
16|2|2026-11-23 05:45:09.786944+00|bu3|2
17|0|2026-11-23 05:45:09.123533+00|b2|2
18|0|2026-11-23 05:45:09.292+00|b3|1
19|0|2026-11-23 05:45:09.292032+00|b4|2
22|0|2026-11-23 05:45:25.505523+00|mf|
END
	book => [ 'title, author_id, pub_id, ch_id', <<'END' ],
1|0|2026-11-23 05:45:17.842719+00|t|1||
2|0|2026-11-23 05:45:18.006418+00|t|||c1
3|0|2026-11-23 05:45:18.169405+00|t|||
END
	subset => [ 'a, b', <<'END' ],
1|1|2026-11-23 05:45:20.16173+00|A|1
END
	subset_plus => [ 'a, c', <<'END' ],
1|0|2026-11-23 05:45:20.32903+00|A|
END
	tracked_list => [ 'name, num, author_id, "when", u, dec, t', <<'END' ],
1|2|2026-11-23 05:45:21.321282+00|n2|2|3|2024-01-01 02:03:04.000005+00|11111111-2222-3333-4444-555555555555|1.50|
2|0|2026-11-23 05:45:20.993333+00|||||||
END
	serm => [ 'full_name, children', <<'END' ],
1|1|2026-11-23 05:45:24.194899+00|F2 L|[{"id": 1, "name": "c1"}]
END
	serdrf => [ 'dec, dt, t, dur, u', <<'END' ],
1|0|2026-11-23 05:45:24.854761+00|1.50|2024-01-01 02:03:04.000005+00|01:02:03|1 day 00:00:02|11111111-2222-3333-4444-555555555555
END
	metam   => [ 'name', '' ],
	deldata => [ 'name', '' ]);

# What has become of messages, counted once it has committed.
my $ENDS =
  'inserted + updated + deleted + duplicates + absent + dead_letters';

my $broker = RabbitMQ->new('golden');
$broker->start;
my $node = new_master('golden', $broker, conf => "TimeZone = 'UTC'\n");

# The types are those of Django's fields, the names those of the recorded
# queue and masters.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE basic (id int PRIMARY KEY, name text, num int);
	CREATE TABLE book (id int PRIMARY KEY, title text, author_id int, pub_id int,
		ch_id text);
	CREATE TABLE subset (id int PRIMARY KEY, a text, b int);
	CREATE TABLE subset_plus (id int PRIMARY KEY, a text, c text);
	CREATE TABLE tracked_list (id int PRIMARY KEY, name text, num int,
		author_id int, "when" timestamptz, u uuid, dec numeric(10,2), t time);
	CREATE TABLE serm (id int PRIMARY KEY, full_name text, children jsonb);
	CREATE TABLE serdrf (id int PRIMARY KEY, dec numeric(10,2), dt timestamptz,
		t time, dur interval, u uuid);
	CREATE TABLE metam (id int PRIMARY KEY, name text);
	CREATE TABLE deldata (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica(c::regclass, on_expired => 'apply')
		FROM unnest('{basic,subset,subset_plus,serm,serdrf,metam,deldata}'::text[]) c;
	SELECT cqrs_register_replica('book', on_expired => 'apply',
		field_map => '{"author_id": "author", "pub_id": "pub", "ch_id": "ch"}');
	SELECT cqrs_register_replica('tracked_list', on_expired => 'apply',
		field_map => '{"author_id": "author"}');
	SELECT cqrs_consume('replica_q')});
wait_consumer($node, 'postgres', 'consuming');

my $json     = JSON::PP->new->utf8;
my @recorded = map { $json->decode($_) } split /\n/,
  slurp_file(dirname(__FILE__) . '/../data/django-cqrs-messages.jsonl');

# A recorded message as publish_raw() wants it.
sub as_recorded
{
	my ($message)  = @_;
	my $properties = $message->{properties};
	my %raw        = %$message{qw(exchange routing_key)};

	utf8::encode($raw{body} = $message->{body});
	$raw{properties} = join ', ', map {
		"{$_, "
		  . (
			  $properties->{$_} =~ /^\d+$/
			? $properties->{$_}
			: qq(<<"$properties->{$_}">>))
		  . '}'
	} sort keys %$properties;
	return \%raw;
}

sub compare_rows
{
	my ($what) = @_;

	foreach my $replica (sort keys %ROWS)
	{
		my ($columns, $rows) = @{ $ROWS{$replica} };

		is( $node->safe_psql(
				'postgres',
				"SELECT id, cqrs_revision, cqrs_updated, $columns FROM $replica ORDER BY id"
			),
			$rows =~ s/\n\z//r,
			"$what: rows of \"$replica\" are those of the Python replica");
	}
	return;
}

publish_raw($broker, map { as_recorded($_) } @recorded);
wait_consumer($node, 'postgres', "$ENDS = " . @recorded);
compare_rows('as recorded');

# Python's log has a line for each duplicate and each gap.
is( $node->safe_psql(
		'postgres', q{
		SELECT duplicates, outdated, gaps, downgrades, ignored, unknown, failures,
			dead_letters, received
		FROM cqrs.consumer_stats}),
	'1|0|2|0|0|0|0|0|' . @recorded,
	'duplicates and gaps are those of the Python replica');

# Without "on_expired", what has expired is a dead letter, as with Python; of
# these recordings all that have a time to live, as the years go by.
my $now = POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', gmtime);
my @expired =
  grep { ($json->decode($_->{body})->{expires} // 'never') le $now }
  @recorded;
$node->safe_psql(
	'postgres',
	join ';',
	map {
		(   "TRUNCATE $_",
			qq{SELECT cqrs_alter_replica('$_', '{"on_expired": null}')})
	  }
	  sort keys %ROWS);
publish_raw($broker, map { as_recorded($_) } @recorded);
wait_consumer($node, 'postgres', "$ENDS = " . 2 * @recorded);
is( $node->safe_psql(
		'postgres',
		q{SELECT convert_from(body, 'UTF8') FROM cqrs.dead_letters
		WHERE error = 'the message has expired' ORDER BY id}),
	join("\n", map { $_->{body} } @expired),
	@expired . ' messages have expired, and are dead letters as they came');

# A retry of all has the same end.
$node->safe_psql('postgres', 'SELECT cqrs_retry_failed()');
$node->poll_query_until('postgres',
	'SELECT NOT EXISTS (SELECT FROM cqrs.failed)')
  or BAIL_OUT('not all expired messages were applied: '
	  . $node->safe_psql('postgres', 'TABLE cqrs.failed'));
compare_rows('retried');

done_testing();
