# Whatever SQL calls, the server stands, shows nothing and gives nothing.
#
# Random statements call each function of the extension with values that it does
# not expect, as five roles, on a primary and on a standby.  The functions,
# relations and settings are what the catalogs say that there is.  Afterwards
#
#	- each function has been called
#	- no process of the server has crashed, and no statement took long
#	- no error is an internal one (class XX), except those named below
#	- no role has another right or membership than before, and each statement
#	  has left its session with the role that it had
#	- no output has the password of cqrs.url (I20), and none but a superuser's has a
#	  row of a table that the other roles may not read
#
# CQRS_SEED repeats a run; CQRS_FUZZ_SECONDS is how long it lasts, 40 otherwise.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $SECONDS     = $ENV{CQRS_FUZZ_SECONDS} // 40;
my $SEED        = $ENV{CQRS_SEED}         // int(rand(1 << 31));
my $PER_SESSION = 60;
my $LONG_MS     = 5000;
my $TIMEOUT     = '2s';
my $PASSWORD    = 'canary4password';
my $ROW         = 'canary4row';
my @ROLES       = qw(super owner reader stranger monitor);

# PostgreSQL's own, where somebody has called a function PARALLEL SAFE that calls
# one which is not.
my @KNOWN_INTERNAL = (qr/ during a parallel operation$/m);

srand($SEED);
note("CQRS_SEED=$SEED");

my $primary = new_master(
	'primary', undef,
	init => [ allows_streaming => 1 ],
	conf => <<"END");
cqrs.url = 'amqp://user:$PASSWORD\@127.0.0.1:1'
log_error_verbosity = verbose
restart_after_crash = on
max_parallel_workers = 4
max_worker_processes = 12
END
$primary->safe_psql('postgres', slurp_file(__FILE__) =~ s/.*^__END__\n//msr);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

sub rows
{
	return map { [ split /\|/, $_, -1 ] } split /\n/,
	  $primary->safe_psql('postgres', $_[0]);
}

my $MEMBERS = q{pg_depend d ON d.refclassid = 'pg_extension'::regclass
	AND d.deptype = 'e' AND d.refobjid =
		(SELECT oid FROM pg_extension WHERE extname = 'cqrs')};
my @functions = rows(
	qq{SELECT p.pronamespace::regnamespace || '.' || quote_ident(p.proname), p.prokind,
			p.prorettype::regtype, array_to_string(ARRAY(
				SELECT t::regtype FROM unnest(p.proargtypes) WITH ORDINALITY u(t, n)
				ORDER BY n), ';')
		FROM pg_proc p JOIN $MEMBERS AND d.classid = 'pg_proc'::regclass
			AND d.objid = p.oid ORDER BY p.oid});
my @relations = map { $_->[0] } rows(
	qq{SELECT c.oid::regclass FROM pg_class c JOIN $MEMBERS
		AND d.classid = 'pg_class'::regclass AND d.objid = c.oid ORDER BY c.oid});
my @settings = (
	'cqrs.consumer_url', 'cqrs.url',
	map { $_->[0] }
	  rows(q{SELECT name FROM pg_settings WHERE name ^@ 'cqrs.' ORDER BY 1}));
cmp_ok(scalar(@functions), '>', 20, 'functions of the extension');
my $FORCE_PARALLEL =
  $primary->pg_version < 16 ? 'force_parallel_mode' : 'debug_parallel_query';

# What every role may do, as text.
my $RIGHTS = q{
	SELECT string_agg(r, E'\n' ORDER BY r) FROM (
		SELECT 'role ' || rolname || ' ' || rolsuper || rolcreaterole || rolcreatedb
				|| rolreplication || rolbypassrls || rolcanlogin FROM pg_roles
		UNION ALL SELECT 'member ' || roleid::regrole || ' ' || member::regrole
			FROM pg_auth_members
		UNION ALL SELECT 'schema ' || nspname || ' ' || nspowner || nspacl::text
			FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
		UNION ALL SELECT 'relation ' || oid || ' ' || relowner || relacl::text
			FROM pg_class WHERE relpersistence <> 't' AND relkind <> 't'
		UNION ALL SELECT 'column ' || attrelid || attname || attacl::text
			FROM pg_attribute WHERE attacl IS NOT NULL
		UNION ALL SELECT 'function ' || oid::regprocedure || ' ' || proowner || prosecdef
				|| coalesce(proconfig::text, '') || coalesce(proacl::text, '')
			FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace
				AND pronamespace::regnamespace::text !~ '^pg_temp'
		UNION ALL SELECT 'database ' || datname || ' ' || datacl::text FROM pg_database
		UNION ALL SELECT 'default ' || defaclrole || defaclacl::text FROM pg_default_acl
		UNION ALL SELECT 'setting ' || setrole || setconfig::text FROM pg_db_role_setting
	) x (r)};
my $rights_before = $primary->safe_psql('postgres', $RIGHTS);

sub pick { return $_[ int(rand(@_)) ]; }

my @IDS = map { "'$_'" } qw(item odd part vault gone kept);

# Messages, of which some can be applied.
my @MESSAGES = map { "'$_'" } (
	'{"signal_type": "SAVE", "cqrs_id": "kept", "instance_pk": 1, "instance_data": {"id": 1, "data": "a", "cqrs_revision": 3, "cqrs_updated": "2026-11-23 06:01:02+00:00"}}',
	'{"signal_type": "SYNC", "cqrs_id": "kept", "instance_pk": 2, "instance_data": {"id": 2, "data": ["a"], "cqrs_revision": 0, "cqrs_updated": "infinity"}}',
	'{"signal_type": "DELETE", "cqrs_id": "kept", "instance_pk": 1, "instance_data": {"id": 1, "cqrs_revision": 4, "cqrs_updated": "2026-11-23 06:01:02+00:00"}}',
	'{"signal_type": "SAVE", "cqrs_id": "kept", "instance_pk": [1], "instance_data": {"id": null, "cqrs_revision": 1e400, "cqrs_updated": 1}}',
	'{"signal_type": "SAVE", "cqrs_id": "vault", "instance_pk": 1, "instance_data": {"id": 1, "cqrs_revision": 1, "cqrs_updated": "2026-11-23 06:01:02+00:00"}}',
	'{"signal_type": "?", "cqrs_id": "kept", "instance_pk": {}, "instance_data": []}',
	'{"signal_type": null, "cqrs_id": null, "instance_pk": null, "instance_data": null}'
);
my @TEXTS = (
	@MESSAGES,
	@IDS,
	@IDS,
	"''",
	'NULL',
	"'id = 1'",
	"'true'",
	"'1/0 = 1'",
	q{'(SELECT count(*) FROM secret.vault) > 0'},
	q{'id = 1) OR (true'},
	q{'data ~ ''x'''},
	"repeat('x', 300)",
	"repeat('y', 1000000)",
	q{E'\001\n\t'},
	"'\xc3\xa9\xe2\x82\xac'",
	"'--'",
	"'%s%n'",
	q{'public.item_json'},
	"'infinity'",
	"'ignore'",
	"'park'",
	"'always'",
	"'cqrs_flush()'",
	q{'current_user = ''super'''});
my @OIDS   = (0, 1, 4294967295, 1259);
my %values = (
	'text'     => \@TEXTS,
	'regclass' => [
		'NULL',
		(   map { "'$_'" }
			  qw(item odd part part_1 kept item_pkey public.shown
			  secret.vault cqrs.master pg_class pg_proc item_id_seq)),
		@OIDS ],
	'regproc' => [
		'NULL',
		q{'-'},
		@OIDS,
		999999,
		q{'item_json'},
		q{'item_bad'},
		q{'pg_catalog.now'},
		q{'cqrs.trigger_update'} ],
	'integer' => [ 'NULL', 0, 1, -1, 2147483647, '(-2147483648)', 10000 ],
	'bigint'  => [
		'NULL',
		0,
		1,
		-1,
		100000,
		'9223372036854775807',
		q{'-9223372036854775808'} ],
	'bigint[]' => [
		'NULL',
		q{'{}'},
		q{'{1,NULL}'},
		q{'{{1,2},{3,4}}'},
		q{'[-5:-4]={100000,-1}'},
		'ARRAY(SELECT generate_series(1, 5000))' ],
	'boolean' => [qw(NULL true false)],
	'jsonb'   => [
		'NULL',
		map { "'$_'" } '{}',
		'[]',
		'null',
		'[1]',
		'["1"]',
		'[null]',
		'[[1]]',
		'{"meta": "999999"}',
		'{"meta": "-"}',
		'{"fields": ["id"]}',
		'{"fields": null}',
		'{"fields": [null]}',
		'{"sync_when": "id > 0"}',
		'{"sync_when": "nonsense("}',
		'{"exchange": "amq.x"}',
		'{"produce": "x"}',
		'{"produce": true}',
		'{"tracked_fields": ["*"]}',
		'{"field_map": {"data": "d"}}',
		'{"serializer": "public.item_json"}',
		'{"serializer": null}',
		'{"message_ttl": 99999999999999999999}',
		'{"nothing": 1}',
		'1e400',
		'[1e400]',
		'["\\\\u00e9"]' ],
	'interval' => [
		'NULL',
		q{'0'},
		q{'1 ms'},
		q{'-1 day'},
		q{'1000000 years'},
		q{'-178000000 years'} ],
	'bytea' => [
		'NULL',
		q{''},
		q{'\x00'},
		q{'\xffffffffffffffff'},
		q{decode(repeat('01', 10000), 'hex')},
		q{decode(md5(random()::text), 'hex')} ],
	'record' => [
		'NULL',
		'NULL::item',
		'ROW()',
		'ROW(1)',
		q{ROW(1, 'a', 0, now())::item},
		'ROW(NULL, NULL, NULL, NULL)::item',
		q{ROW(1, repeat('z', 1000000), 2147483647, 'infinity')::item},
		q{ROW(NULL, 'infinity', NULL, NULL, NULL)::odd},
		q{ROW('x', '-infinity', 'NaN', 0, now())::odd},
		q{ROW(1, 'p', 0, now())::part_1},
		'(SELECT i FROM item i LIMIT 1)',
		'(SELECT o FROM odd o LIMIT 1)',
		'(SELECT v FROM secret.vault v LIMIT 1)',
		'(SELECT c FROM pg_class c LIMIT 1)',
		q{ROW(1, 'made up', 0, now())::secret.vault} ],
	'cqrs.message' => [
		'NULL',
		(map { "cqrs.parse_message($_)" } @MESSAGES),
		(map { "jsonb_populate_record(NULL::cqrs.message, $_)" } @MESSAGES) ]
);
my @LINES = (
	(   map { "'$_,2026-11-23 06:01:02+00:00,None'" }
		  qw(item odd part vault gone kept)),
	"'item,2026-11-23 06:01:02+00:00'",
	"'kept,2026-11-23 06:01:02+00:00'",
	"'kept'",
	q{'{"id": 1, "data": "x", "cqrs_revision": 0, "cqrs_updated": "2026-11-23 06:01:02+00:00"}'},
	"'item'", "','", "''", 'NULL',
	(   map { "'$_'" } '[1]', '[[1,0]]',
		'["x"]',              '[null]',
		'[]',                 '[[[]]]',
		'x',                  '{}',
		'[1e400]',            '[["x","infinity","NaN"]]',
		'[99999999999999999999]'),
	"repeat('[', 100000)");

sub value
{
	my ($type) = @_;

	return
		'ARRAY['
	  . join(', ', map { pick(@LINES) } 1 .. 1 + rand(4))
	  . ']::text[]'
	  if $type eq 'text[]' && rand() < 0.8;
	return pick(
		'NULL',                 q{'{}'},
		q{'{{id,data},{a,b}}'}, q{'{id}'},
		q{'{*}'},               q{'{NULL}'},
		q{'[0:1]={id,data}'})
	  . '::text[]'
	  if $type eq 'text[]';

	# Oids that are made up, as a number cast.
	my $value = pick(@{ $values{$type} // ['NULL'] });
	return pick(map { value($_) } sort keys %values)
	  if $type eq 'anyelement';
	return "$value"              if $type eq 'record';
	return "$value\::oid::$type" if $type =~ /^reg/ && $value =~ /^\d+$/;
	return "$value\::$type";
}

sub call
{
	my ($function) = @_;
	my ($name, $kind, $result, $types) = @$function;
	my @types = split /;/, $types;

	return ("$name(" . join(', ', map { value($_) } @types) . ')',
		$kind eq 'p');
}

my $CHANGE =
  q{INSERT INTO item (data) VALUES ('f'); UPDATE item SET data = data || 'g' WHERE id = 1};

# Each function has its turn before one comes again.
my %called;
my @turns;

sub next_function
{
	@turns = shuffle(@functions) unless @turns;
	my $function = pop @turns;

	$called{"$function->[0]($function->[3])"} = 1;
	return $function;
}

# Statements with a call in one of the places where calls can be.
sub statements
{
	my ($role) = @_;

	return sprintf('BEGIN; SET LOCAL %s = %s; %s; COMMIT;',
		pick(@settings), pick(grep { !/[(:]/ && $_ ne 'NULL' } @TEXTS),
		$CHANGE)
	  if rand() < 0.05;
	return 'TABLE ' . pick(@relations) . ' LIMIT 100;' if rand() < 0.03;

	my $function = next_function();
	return trigger_statements($role, $function->[0], $function->[2])
	  if $function->[2] =~ /trigger/ && rand() < 0.9;
	my ($call, $is_procedure) = call($function);

	# No timeout ends what a held cursor does at COMMIT.
	my $hold = $call =~ /wait_published/ ? '' : 'WITH HOLD';
	if ($is_procedure)
	{
		return pick(
			"CALL $call;",
			"BEGIN; $CHANGE; CALL $call; COMMIT;",
			"DO \$do\$ BEGIN CALL $call; END \$do\$;",
			"BEGIN READ ONLY; CALL $call; ROLLBACK;");
	}
	return pick(
		"SELECT $call;",
		"SELECT * FROM $call;",
		"DO \$do\$ BEGIN PERFORM $call; EXCEPTION WHEN OTHERS THEN RAISE WARNING '%: %', SQLSTATE, SQLERRM; END \$do\$;",
		"DO \$do\$ BEGIN $CHANGE; BEGIN PERFORM $call; PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN RAISE WARNING '%: %', SQLSTATE, SQLERRM; END; END \$do\$;",
		"BEGIN; SAVEPOINT s; $CHANGE; SELECT $call; ROLLBACK TO s; SELECT $call; COMMIT;",
		"BEGIN; $CHANGE; SELECT $call; COMMIT;",
		"BEGIN; SELECT $call; $CHANGE; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p';",
		"BEGIN READ ONLY; SELECT $call; COMMIT;",
		"BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT $call; COMMIT;",
		"BEGIN; SELECT 1 / 0; SELECT $call; ROLLBACK;",
		"BEGIN; DECLARE c SCROLL CURSOR FOR SELECT $call; FETCH 1 FROM c; MOVE BACKWARD 1 IN c; FETCH ALL FROM c; COMMIT;",
		"BEGIN; DECLARE c CURSOR $hold FOR SELECT $call; COMMIT; CLOSE ALL;",
		"SELECT in_function(\$q\$SELECT $call\$q\$);",
		"BEGIN; $CHANGE; SET LOCAL $FORCE_PARALLEL = on; SELECT in_worker(\$q\$SELECT $call\$q\$); COMMIT;",
		"SET $FORCE_PARALLEL = on; SELECT in_worker(\$q\$SELECT $call\$q\$); RESET $FORCE_PARALLEL;",
		"SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SELECT count(*) FROM item WHERE $call IS NULL; RESET ALL; SET statement_timeout = '$TIMEOUT';",
		"SELECT count(*) FROM item i LEFT JOIN LATERAL (SELECT $call LIMIT 2) x ON true WHERE i.id < 4;",
		"CREATE TEMP TABLE made AS SELECT $call AS x; DROP TABLE made;");
}

# The trigger function in a trigger that cqrs has not made.
sub trigger_statements
{
	my ($role, $function, $type) = @_;

	return
		"BEGIN; CREATE EVENT TRIGGER mine ON "
	  . pick(qw(ddl_command_start ddl_command_end sql_drop table_rewrite))
	  . " EXECUTE FUNCTION $function(); CREATE TABLE e (id int); ALTER TABLE e ALTER id TYPE text; DROP TABLE e; ROLLBACK;"
	  if $type eq 'event_trigger';

	my $table =
	  rand() < 0.7 ? 'own' : pick(qw(item odd part secret.vault cqrs.master));
	my $event = pick(qw(INSERT UPDATE DELETE TRUNCATE));
	my $each  = $event eq 'TRUNCATE' ? 'STATEMENT' : pick(qw(ROW STATEMENT));
	my $kind  = pick(qw(BEFORE AFTER));
	return
	  "BEGIN; CREATE TEMP TABLE own (id int PRIMARY KEY, data text, cqrs_id text, cqrs_revision int, cqrs_updated timestamptz, relation regclass);"
	  . " CREATE TRIGGER "
	  . pick(qw(mine zz_cqrs_update "00_cqrs_insert_delete"))
	  . " $kind $event ON $table FOR EACH $each EXECUTE FUNCTION $function("
	  . pick('', "'x'") . ");"
	  . " INSERT INTO $table (id) VALUES (1000001), (1000002);"
	  . " UPDATE $table SET id = 1000003 WHERE id = 1000001; DELETE FROM $table WHERE id = 1000003;"
	  . " TRUNCATE $table; "
	  . ($table eq 'own' ? 'DROP TABLE own; COMMIT;' : 'ROLLBACK;');
}

my %found = map { $_ => [] } qw(long internal role password row);
my ($count, $errors, $longest) = (0, 0, 0);
my %states;

# Runs a session of random statements, and looks at all that it shows.
sub session
{
	my ($node, $role) = @_;
	my $file       = "$PostgreSQL::Test::Utils::tmp_check/statements.sql";
	my @statements = map { statements($role) } 1 .. $PER_SESSION;
	my $number     = 0;

	open my $fh, '>:raw', $file or BAIL_OUT("could not create $file: $!");
	print $fh
	  "\\set VERBOSITY verbose\n\\timing on\nSET statement_timeout = '$TIMEOUT';\n";
	foreach my $statement (@statements)
	{
		print $fh "\\echo =$number\n$statement\nROLLBACK;\n"
		  . "SELECT 'who=' || session_user || ' ' || current_user;\n";
		$number++;
	}
	close $fh;
	my $output = '';
	IPC::Run::run(
		[   'psql', '-XAtq', '-d',
			$node->connstr('postgres') . " user=fuzz_$role",
			'-f', $file ],
		'<',
		'/dev/null',
		'>',
		\$output,
		'2>&1');

	$count += @statements;
	foreach my $part (split /^=(?=\d+$)/m, $output)
	{
		my ($n, $text) = $part =~ /\A(\d+)\n(.*)/s or next;
		my $what =
			"fuzz_$role, "
		  . $node->name
		  . ": $statements[$n]\n"
		  . substr($text, 0, 500);

		foreach my $ms ($text =~ /^Time: ([\d.]+) ms/mg)
		{
			$longest = $ms if $ms > $longest;
			push @{ $found{long} }, $what if $ms > $LONG_MS;
		}
		foreach my $state ($text =~ /(?:ERROR|WARNING):  ([0-9A-Z]{5}): /g)
		{
			$errors++;
			$states{$state}++;
			push @{ $found{internal} }, $what
			  if $state =~ /^XX/ && !grep { $text =~ $_ } @KNOWN_INTERNAL;
		}
		push @{ $found{role} }, $what
		  if grep { $_ ne "fuzz_$role fuzz_$role" } $text =~ /^who=(.*)$/mg;
		push @{ $found{password} }, $what if index($text, $PASSWORD) >= 0;
		push @{ $found{row} }, $what
		  if $role ne 'super' && index($text, $ROW) >= 0;
	}
	return;
}

my $end = time() + $SECONDS;
while (time() < $end)
{
	foreach my $role (@ROLES)
	{
		session($primary, $role);
		session($standby, $role) if rand() < 0.3;

		# Masters that were ended or altered, and the pause.
		$primary->poll_query_until('postgres', 'SELECT true')
		  or BAIL_OUT('the server does not come back');
		$primary->safe_psql('postgres', 'SELECT restore_masters()');
	}
}

note(
	sprintf
	  '%d calls, %d errors of %d kinds, the longest statement took %.0f ms',
	$count, $errors, scalar(keys %states), $longest);
note(join ' ', map { "$_:$states{$_}" } sort keys %states);

is(join(' ', grep { !$called{$_} } map { "$_->[0]($_->[3])" } @functions),
	'', 'each function was called');

sub none
{
	my ($list, $name) = @_;
	my @list = @$list;

	is(scalar(@list), 0, $name);
	diag(join "\n--\n", @list > 15 ? @list[ 0 .. 14 ] : @list) if @list;
	return;
}

foreach my $node ($primary, $standby)
{
	my $name = $node->name;
	my (@crashes, @internal, @passwords);

	# By lines: after ten minutes the log is large.
	open my $log, '<', $node->logfile or BAIL_OUT("no log: $!");
	while (my $line = <$log>)
	{
		push @passwords, $line if index($line, $PASSWORD) >= 0;
		push @crashes, $line . (<$log> // '')
		  if $line =~ /was terminated by signal|reinitializing|PANIC: /;
		push @internal, $line . (<$log> // '')
		  if $line =~ /(?:ERROR|FATAL):  XX\w{3}: /
		  && !grep { $line =~ $_ } @KNOWN_INTERNAL;
	}
	close $log or BAIL_OUT("no log: $!");
	none(\@crashes,   "$name: no process has crashed");
	none(\@internal,  "$name: no internal error is in the log");
	none(\@passwords, "$name: the password is not in the log");
}
none($found{long},     'no statement takes long');
none($found{internal}, 'no error is an internal one');
none($found{role},     'no session ends with another role');
none($found{password}, 'nothing shows the password');
none($found{row},      'nothing shows a row to those who may not read it');
is($primary->safe_psql('postgres', $RIGHTS),
	$rights_before, 'rights are as before');

$standby->stop;
$primary->stop;
done_testing();

__END__
CREATE ROLE fuzz_super SUPERUSER LOGIN;
CREATE ROLE fuzz_owner LOGIN;
CREATE ROLE fuzz_reader LOGIN;
CREATE ROLE fuzz_stranger LOGIN;
CREATE ROLE fuzz_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE fuzz_vault LOGIN;

CREATE TABLE item (id serial PRIMARY KEY, data text);
CREATE TABLE odd (a text, b timestamptz, c numeric, PRIMARY KEY (a, b, c));
CREATE TABLE part (id int PRIMARY KEY, data text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 PARTITION OF part DEFAULT;
CREATE TABLE kept (id int PRIMARY KEY, data text);
CREATE VIEW shown AS SELECT id FROM item;
CREATE SCHEMA secret;
CREATE TABLE secret.vault (id int PRIMARY KEY, data text);
ALTER TABLE item OWNER TO fuzz_owner;
ALTER TABLE odd OWNER TO fuzz_owner;
ALTER TABLE part OWNER TO fuzz_owner;
ALTER TABLE part_1 OWNER TO fuzz_owner;
ALTER TABLE part_2 OWNER TO fuzz_owner;
ALTER TABLE kept OWNER TO fuzz_owner;
ALTER VIEW shown OWNER TO fuzz_owner;
ALTER SCHEMA secret OWNER TO fuzz_vault;
ALTER TABLE secret.vault OWNER TO fuzz_vault;
GRANT USAGE ON SCHEMA secret TO PUBLIC;
GRANT SELECT ON item, odd, part, kept, shown TO fuzz_reader;

CREATE FUNCTION item_json(item) RETURNS jsonb LANGUAGE sql STABLE
	AS $$SELECT jsonb_build_object('id', $1.id)$$;
CREATE FUNCTION item_bad(item) RETURNS jsonb LANGUAGE sql STABLE
	AS $$SELECT to_jsonb(1 / 0)$$;
CREATE FUNCTION in_function(command text) RETURNS SETOF text LANGUAGE plpgsql
	AS $$BEGIN RETURN QUERY EXECUTE 'SELECT x::text FROM (' || command || ') s (x)'; END$$;
CREATE FUNCTION in_worker(command text) RETURNS text PARALLEL SAFE LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT string_agg(x::text, '','') FROM (' || command || ') s (x)' INTO result;
	RETURN result;
END
$$;

CREATE FUNCTION restore_masters() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	name text;
	tables regclass[] = ARRAY['item', 'odd', 'part', 'secret.vault'];
BEGIN
	SET LOCAL client_min_messages = error;
	PERFORM cqrs_unregister(cqrs_id) FROM cqrs.master;
	PERFORM cqrs_unregister_replica(cqrs_id) FROM cqrs.replica;
	PERFORM cqrs_register(t) FROM unnest(tables) t;
	PERFORM cqrs_register_replica('kept');
	DELETE FROM cqrs.parked;
	PERFORM cqrs_resume();
END
$$;
INSERT INTO item (data) SELECT 'x' || i FROM generate_series(1, 200) i;
INSERT INTO odd VALUES ('x', 'infinity', 'NaN'), ('', '-infinity', 0), ('y', '2026-11-23', 1.50);
INSERT INTO part SELECT i * 10, 'p' FROM generate_series(1, 20) i;
INSERT INTO secret.vault SELECT i, concat('canary', '4row ', i) FROM generate_series(1, 20) i;
SELECT restore_masters();
