# Who may do what is as the table of privileges in docs/reference.md says.
#
# Each row of the table is tried as each role of its columns.  A row that says
# something for which there is no trial is a failure, and so is a function, table,
# view or setting of the extension that the table does not have.  The table of
# whose rights a function runs with is compared with the catalog.
use strict;
use warnings;

use Cwd qw(abs_path);
use CqrsTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $reference =
  slurp_file(abs_path(dirname(__FILE__) . '/../../docs/reference.md'));
my @ROLES = qw(owner writer monitor stranger superuser);

# Trials, by the name in the table and what else its row says.
my $ROW  = q{ROW(1, 'a', 0, now())::item};
my $LINE = q{item,2026-11-23 06:01:02+00:00};
my $MESSAGE =
  q{cqrs.parse_message('{"signal_type": "DELETE", "cqrs_id": "kept", "instance_pk": 1, "instance_data": {"id": 1, "cqrs_revision": 1, "cqrs_updated": "2026-11-23 06:01:02+00:00"}}')};
my %TRIALS = (
	'cqrs_register'         => q{SELECT cqrs_register('plain')},
	'cqrs_alter'            => q{SELECT cqrs_alter('item', '{}')},
	'cqrs_unregister'       => q{SELECT cqrs_unregister('item')},
	'cqrs_register_replica' => q{SELECT cqrs_register_replica('plain')},
	'cqrs_alter_replica'    => q{SELECT cqrs_alter_replica('followed', '{}')},
	'cqrs_unregister_replica' =>
	  q{SELECT cqrs_unregister_replica('followed')},
	'cqrs_sync'        => q{SELECT cqrs_sync('item')},
	'cqrs_sync_all'    => q{CALL cqrs_sync_all('item', 'false')},
	'cqrs_diff_sync'   => qq{SELECT cqrs_diff_sync('{"$LINE,None","[1]"}')},
	'cqrs_bulk_dump'   => q{SELECT cqrs_bulk_dump('item')},
	'cqrs_diff_master' => q{SELECT cqrs_diff_master('item')},
	'cqrs_deleted_diff_master' =>
	  qq{SELECT cqrs_deleted_diff_master('{"$LINE","[1]"}')},
	'cqrs_bulk_dump file' =>
	  q{SELECT cqrs_bulk_dump('item', current_setting('data_directory') || '/privileges.dump', true)},
	'cqrs_retry_parked'         => q{SELECT cqrs_retry_parked('item')},
	'cqrs_park_held'            => q{SELECT cqrs_park_held('item')},
	'cqrs_to_json serializer'   => qq{SELECT cqrs_to_json($ROW, 'custom')},
	'cqrs_bulk_dump serializer' => q{SELECT cqrs_bulk_dump('custom')},
	'cqrs_relation'             => q{SELECT cqrs_relation('item')},
	'cqrs_to_json'              => qq{SELECT cqrs_to_json($ROW, 'item')},
	'cqrs_is_initial_save'      => qq{SELECT cqrs_is_initial_save($ROW)},
	'cqrs_flush'                => q{SELECT cqrs_flush()},
	'cqrs_wait_published'       => q{SELECT cqrs_wait_published('0')},
	'cqrs_pause'                => q{SELECT cqrs_pause()},
	'cqrs_resume'               => q{SELECT cqrs_resume()},
	'cqrs_adopt'                => q{SELECT cqrs_adopt()},
	'cqrs_consume'          => q{SELECT cqrs_consume('shop', paused => true)},
	'cqrs_stop_consuming'   => q{SELECT cqrs_stop_consuming()},
	'cqrs_pause_consumer'   => q{SELECT cqrs_pause_consumer()},
	'cqrs_resume_consumer'  => q{SELECT cqrs_resume_consumer()},
	'cqrs_retry_failed'     => q{SELECT cqrs_retry_failed()},
	'cqrs.consumer_process' => q{SELECT cqrs.consumer_process()},
	'cqrs.wake_consumer'    => q{SELECT cqrs.wake_consumer()},
	'cqrs_check'            => q{SELECT cqrs_check()},
	'cqrs.publisher_stats'  => q{SELECT cqrs.publisher_stats()},
	'cqrs.current_watermark' => q{SELECT cqrs.current_watermark()},
	'cqrs.unpack'            => q{SELECT cqrs.unpack(1, '')},
	'cqrs.key_json'          => q{SELECT cqrs.key_json(1)},
	'cqrs.wake_publisher'    => q{SELECT cqrs.wake_publisher()},
	'cqrs.is_copy'           => q{SELECT cqrs.is_copy()},
	'cqrs.check_master'      => q{SELECT cqrs.check_master('item')},
	'cqrs.check_replica'     => q{SELECT cqrs.check_replica('followed')},
	'cqrs.check_replica_partition' =>
	  q{SELECT cqrs.check_replica_partition('item')},
	'cqrs.url_is_set'            => q{SELECT cqrs.url_is_set()},
	'cqrs.broker_remedy'         => q{SELECT cqrs.broker_remedy('x', 'x')},
	'cqrs.other_publisher'       => q{SELECT cqrs.other_publisher('x', 'x')},
	'cqrs.follow_partitions'     => q{SELECT cqrs.follow_partitions('item')},
	'cqrs.trigger_update'        => on_own('BEFORE UPDATE', 'trigger_update'),
	'cqrs.trigger_insert_delete' =>
	  on_own('AFTER INSERT', 'trigger_insert_delete'),
	'cqrs.trigger_truncate'  => on_own('BEFORE TRUNCATE', 'trigger_truncate'),
	'cqrs.trigger_at_commit' => on_own('AFTER INSERT',  'trigger_at_commit'),
	'cqrs.trigger_discard'   => on_own('BEFORE INSERT', 'trigger_discard'),
	'cqrs.trigger_loaded'    => on_own('AFTER INSERT',  'trigger_loaded'),
	'cqrs.hold_restored'     => on_own('AFTER INSERT',  'hold_restored'),
	'cqrs.trigger_replica_changed' =>
	  on_own('AFTER INSERT', 'trigger_replica_changed'),
	'cqrs.forget_dropped' =>
	  q{CREATE EVENT TRIGGER t ON sql_drop EXECUTE FUNCTION cqrs.forget_dropped()},
	'cqrs.follow_created' =>
	  q{CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION cqrs.follow_created()},
	'cqrs.watermark setval' => q{SELECT setval('cqrs.watermark', 1)},
	'cqrs objects'          => q{CREATE TABLE cqrs.intruder ()},
	'exchange' => q{SELECT cqrs_alter('item', '{"exchange": "x"}')},
	'table'    => [
		q{INSERT INTO item VALUES (2, 'b')},
		q{UPDATE item SET v = 'c'},
		q{DELETE FROM item},
		q{TRUNCATE item} ],
	'ALTER TABLE' => [
		q{ALTER TABLE item ADD COLUMN w text},
		q{ALTER TABLE item RENAME COLUMN v TO w} ],
	'cqrs_wait_applied'   => q{CALL cqrs_wait_applied('kept', '1', 0, '0')},
	'cqrs_bulk_load'      => q{CALL cqrs_bulk_load('{kept}'::text[])},
	'cqrs_bulk_load file' =>
	  q{CALL cqrs_bulk_load(current_setting('data_directory') || '/kept.dump')},
	'cqrs_diff_replica' =>
	  q{SELECT cqrs_diff_replica('{"kept,2026-11-23 06:01:02+00:00"}')},
	'cqrs_deleted_diff_replica' =>
	  q{SELECT cqrs_deleted_diff_replica('kept')},
	'cqrs_deleted_sync_replica' =>
	  q{SELECT cqrs_deleted_sync_replica('{"kept,2026-11-23 06:01:02+00:00"}')},
	'cqrs_apply'           => qq{SELECT cqrs_apply($MESSAGE)},
	'cqrs_current_message' => q{SELECT cqrs_current_message()},
	'cqrs.parse_message'   => qq{SELECT $MESSAGE},
	'cqrs.deliver'         => qq{SELECT cqrs.deliver($MESSAGE)},
	'cqrs.master write'    => [
		q{INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('x', 'plain', true)},
		q{UPDATE cqrs.master SET produce = false},
		q{DELETE FROM cqrs.master},
		q{TRUNCATE cqrs.master},
		q{COPY cqrs.master FROM '/dev/null'} ],
	'cqrs.replica write' => [
		q{INSERT INTO cqrs.replica (cqrs_id, retry_delay, only_direct_syncs, on_expired) VALUES ('x', '1 s', false, 'apply')},
		q{UPDATE cqrs.replica SET max_retries = 1},
		q{DELETE FROM cqrs.replica},
		q{TRUNCATE cqrs.replica},
		q{COPY cqrs.replica FROM '/dev/null'} ]);
my %VALUE = (
	'cqrs.produce'              => 'off',
	'cqrs.correlation_function' => "'x.y'",
	'cqrs.meta_function'        => "'x.y'",
	'cqrs.allowed_exchanges'    => "'*'",
	'cqrs.outbox_full'          => 'warn',
	'cqrs.max_pending_bytes'    => '0');

sub on_own
{
	my ($when, $function) = @_;
	my $each = $when =~ /TRUNCATE/ ? 'STATEMENT' : 'ROW';

	return
	  "CREATE TEMP TABLE own (id int); CREATE TRIGGER t $when ON own FOR EACH $each EXECUTE FUNCTION cqrs.$function()";
}

my $node = new_master(
	'privileges', undef,
	conf => join '',
	map { "cqrs.$_ = 'amqp://user:secret\@127.0.0.1:1'\n" }
	  qw(url consumer_url));
my $MEMBERS = q{pg_depend WHERE refclassid = 'pg_extension'::regclass
	AND deptype = 'e' AND refobjid =
		(SELECT oid FROM pg_extension WHERE extname = 'cqrs')};

sub names
{
	return split /\n/, $node->safe_psql('postgres', $_[0]);
}

$node->safe_psql(
	'postgres', q{
	CREATE ROLE test_owner;
	CREATE ROLE test_writer;
	CREATE ROLE test_monitor IN ROLE pg_monitor;
	CREATE ROLE test_stranger;
	CREATE ROLE test_superuser SUPERUSER;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	CREATE TABLE plain (id int PRIMARY KEY);
	CREATE TABLE kept (id int PRIMARY KEY);
	ALTER TABLE kept OWNER TO test_owner;
	ALTER TABLE item OWNER TO test_owner;
	ALTER TABLE plain OWNER TO test_owner;
	GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON item, plain TO test_writer;
	CREATE FUNCTION item_json(item) RETURNS json LANGUAGE sql STABLE
		AS $$SELECT '{}'::json$$;
	CREATE TABLE followed (id int PRIMARY KEY);
	ALTER TABLE followed OWNER TO test_owner;
	SELECT cqrs_register_replica('followed');
	SELECT cqrs_consume('shop', paused => true);
	SELECT cqrs_register('item');
	SELECT cqrs_register_replica('kept');
	GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON kept TO test_writer;
	SELECT cqrs_register('item', 'custom', serializer => 'public.item_json');
	INSERT INTO item VALUES (1, 'a')});

append_to_file($node->data_dir . '/kept.dump', "kept\n");

my @functions = names(
	qq{SELECT CASE WHEN pronamespace = 'cqrs'::regnamespace THEN 'cqrs.' ELSE '' END || proname
		FROM pg_proc WHERE oid IN (SELECT objid FROM $MEMBERS
			AND classid = 'pg_proc'::regclass)});
my @relations = names(
	qq{SELECT oid::regclass FROM pg_class WHERE oid IN (SELECT objid FROM $MEMBERS
		AND classid = 'pg_class'::regclass)});
my %settings = map { split /\|/ }
  names(q{SELECT name, context FROM pg_settings WHERE name ^@ 'cqrs.'});
$settings{$_} = 'sighup' foreach qw(cqrs.url cqrs.consumer_url);
my %is_function = map { $_ => 1 } @functions;
my %is_relation = map { $_ => 1 } @relations;

# The names in a cell: "`cqrs.a_b`, `_c`" has cqrs.a_b and cqrs.a_c, and
# "`cqrs.d_…`" has all relations that begin with cqrs.d_.
sub cell_names
{
	my ($cell) = @_;
	my ($previous, @names) = ('');

	foreach my $name ($cell =~ /`([^`]+?)(?:\(\))?`/g)
	{
		if ($name =~ s/…$// || $name =~ s/\xe2\x80\xa6$//)
		{
			push @names, grep { index($_, $name) == 0 } @relations;
			next;
		}
		if ($name =~ /^_/)
		{
			my $begin = $previous;
			1 while $begin =~ s/_[a-z]+$// && !$is_function{"$begin$name"};
			$name = "$begin$name";
		}
		push @names, $previous = $name;
	}
	return @names;
}

# The commands that a cell stands for; undef for one that says something else.
sub trials
{
	my ($cell) = @_;
	my @names = cell_names($cell =~ s/\([^()]*`[^()]*\)//r);

	return map { "SHOW $_" } @names if $cell =~ /^SHOW /;
	return map { "ALTER SYSTEM RESET $_" } sort keys %settings
	  if $cell =~ /^ALTER SYSTEM/;
	return map {
		"DO \$\$BEGIN EXECUTE format('ALTER DATABASE %I RESET $_', current_database()); END\$\$"
	  } @names
	  if $cell =~ /^ALTER DATABASE/;
	return map { "SET $_ = " . ($VALUE{$_} // "'x'") } @names
	  if $cell =~ /^SET /;
	my @keys =
		$cell =~ /^ALTER TABLE/                 ? ('ALTER TABLE')
	  : $cell =~ /^INSERT.* on the table/       ? ('table')
	  : $cell =~ /^INSERT.* on `cqrs\.master`/  ? ('cqrs.master write')
	  : $cell =~ /^INSERT.* on `cqrs\.replica`/ ? ('cqrs.replica write')
	  : $cell =~ /^objects in the schema/       ? ('cqrs objects')
	  : $cell =~ /`exchange`/                   ? ('exchange')
	  : $cell =~ /where there is a serializer/  ? map { "$_ serializer" }
	  @names
	  : $cell =~ /(?:into|from) a file/ ? map { "$_ file" } @names
	  :                                   @names;
	my @commands;

	foreach my $key (@keys)
	{
		$key = 'cqrs.watermark setval'
		  if $key eq 'cqrs.watermark' && $cell =~ /`setval`/;
		next if $key eq 'setval';
		my $trial = $TRIALS{$key}
		  // ($is_relation{$key} ? "TABLE $key" : undef);
		push @commands, ref $trial ? @$trial : $trial;
	}
	return @commands;
}

# What comes of commands as a role: yes, no, masked, or the SQLSTATE of another
# error.
sub outcomes
{
	my ($role, @commands) = @_;
	my $script = "\\set VERBOSITY sqlstate\n";
	my $output;

	foreach my $command (@commands)
	{
		my $whole = $command =~ /^(?:CALL|ALTER SYSTEM)/;

		$script .=
			"\\echo =\n"
		  . ($whole ? "SET ROLE $role;" : "BEGIN; SET LOCAL ROLE $role;")
		  . "\n$command;\n"
		  . ($whole ? "RESET ROLE;\n" : "ROLLBACK;\n");
	}
	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \$script, '>', \$output, '2>&1');
	my (undef, @parts) = split /^=\n/m, $output, -1;
	return map {
			/ERROR:  42501/ ? 'no'
		  : /ERROR:  (\w+)/ ? $1
		  : /^amqp.*\*\*/m  ? 'masked'
		  : 'yes'
	} @parts;
}

my ($section) = $reference =~ /^## Privileges\n(.*?)^## /ms
  or BAIL_OUT('the reference has no section "Privileges"');
my %named;
my $rows = 0;
foreach my $line ($section =~ /^(\| .*(?: \| (?:yes|no|masked)){5} \|)$/mg)
{
	my (undef, $cell, @says) = split / *\| */, $line;
	my @commands = trials($cell);

	$rows++;
	$named{$_} = 1 foreach cell_names($cell);
	ok(@commands && !(grep { !defined } @commands), "\"$cell\" can be tried")
	  or next;
	foreach my $i (0 .. $#ROLES)
	{
		my @outcomes = outcomes("test_$ROLES[$i]", @commands);
		is_deeply(
			\@outcomes,
			[ ($says[$i]) x @commands ],
			"$cell: $ROLES[$i]");
	}
}
cmp_ok($rows, '>', 15, 'the table has rows');

my @missing = grep { !$named{$_} } @functions,
  (grep { !/_(?:idx|pkey)$/ } @relations),
  grep { $settings{$_} =~ /^(?:user|superuser)$/ } keys %settings;
is(join(' ', sort @missing), '', 'the table has all there is');

# Whose rights.
my %creator = map { $_ => 1 }
  map { cell_names($_) } $section =~ /^\| (`cqrs.*?) \| creator .*\|$/mg;
is_deeply(
	[ sort keys %creator ],
	[   sort(names(
				qq{SELECT CASE WHEN pronamespace = 'cqrs'::regnamespace THEN 'cqrs.' ELSE '' END || proname
				FROM pg_proc WHERE prosecdef AND oid IN (SELECT objid FROM $MEMBERS
					AND classid = 'pg_proc'::regclass)})) ],
	'functions that run with the rights of the creator of the extension');
is( $node->safe_psql(
		'postgres',
		qq{SELECT count(*) FROM pg_proc WHERE prosecdef AND proconfig IS DISTINCT FROM
			'{"search_path=pg_catalog, pg_temp"}' AND oid IN (SELECT objid FROM $MEMBERS
			AND classid = 'pg_proc'::regclass)}),
	0,
	'and with a pinned search_path');

$node->stop;
done_testing();
