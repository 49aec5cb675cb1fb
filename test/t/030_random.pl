# Several sessions run thousands of random transactions; a replica that is
# built from the messages alone equals the masters (I2).
#
# CQRS_RANDOM_SECONDS: for how long, 30 by default.  CQRS_SEED: repeats the
# statements of a run, though not the timing of its sessions.
#
# For another table or option, add to @tables; see RandomWrites.pm.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use RandomWrites;
use Test::More;
use Time::HiRes qw(time);

my $SESSIONS     = 4;
my $TRANSACTIONS = 250;
my $SECONDS      = $ENV{CQRS_RANDOM_SECONDS} // 30;
my $SEED         = $ENV{CQRS_SEED}           // (time * 1000) % 1_000_000_000;
note("seed $SEED");

my @tables = (
	{   name    => 'plain',
		create  => 'CREATE TABLE plain (id int PRIMARY KEY, v int, w text)',
		key     => { id => 'key' },
		columns => { v  => 'int', w => 'text' },
		masters => [ { cqrs_id => 'plain' } ] },
	{   name   => 'chosen',
		create =>
		  'CREATE TABLE chosen (secret text, a int, uid uuid PRIMARY KEY, d numeric)',
		key     => { uid    => 'key_uid' },
		columns => { secret => 'text', a => 'int', d => 'number' },
		masters => [
			{   cqrs_id => 'chosen',
				options => q(fields => '{uid,a}'),
				fields  => { uid => 'uid', a => 'a' } } ] },
	{   name   => 'tracked',
		create =>
		  'CREATE TABLE tracked (id int PRIMARY KEY, name text, n int, d numeric)',
		key     => { id   => 'key' },
		columns => { name => 'text', n => 'int', d => 'number' },
		masters => [
			{   cqrs_id => 'tracked.some',
				options =>
				  q(fields => '{id,name,n}', tracked_fields => '{n,name}', field_map => '{"n": "count"}'),
				fields  => { id => 'id', name => 'name', n => 'count' },
				tracked => [ 'n', 'name' ] },
			{   cqrs_id => 'tracked.all',
				options => q(tracked_fields => '{*}'),
				tracked => [qw(id name n d cqrs_revision cqrs_updated)] } ] },
	{   name   => 'two',
		create =>
		  'CREATE TABLE two (b text, a int, v int, PRIMARY KEY (a, b))',
		key       => { a => 'key', b => 'key_text' },
		columns   => { v => 'int' },
		key_order => [ 'a', 'b' ],
		masters   => [
			{   cqrs_id => 'two',
				options => q(tracked_fields => '{v}'),
				tracked => ['v'] } ] },
	{   name   => 'parted',
		create => q{CREATE TABLE parted (part text, v int, id int, w text,
				PRIMARY KEY (id, part)) PARTITION BY LIST (part);
			CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
			CREATE TABLE parted_b (w text, gone int, v int, id int NOT NULL, part text NOT NULL);
			ALTER TABLE parted_b DROP COLUMN gone;
			ALTER TABLE parted ATTACH PARTITION parted_b FOR VALUES IN ('b');
			CREATE TABLE parted_c PARTITION OF parted DEFAULT PARTITION BY HASH (id);
			CREATE TABLE parted_c0 PARTITION OF parted_c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE parted_c1 PARTITION OF parted_c FOR VALUES WITH (MODULUS 2, REMAINDER 1)},
		key       => { id => 'key', part => 'key_part' },
		columns   => { v  => 'int', w    => 'text' },
		key_order => [ 'id', 'part' ],
		masters   => [
			{   cqrs_id => 'parted',
				options => q(tracked_fields => '{v}'),
				tracked => ['v'] } ] },
	{   name   => 'skipping',
		create => 'CREATE TABLE skipping (id int PRIMARY KEY, v int, w text)',
		key     => { id => 'key' },
		columns => { v  => 'int', w => 'text' },
		masters => [
			{   cqrs_id => 'skipping',
				options => q(fields => '{id,v}', skip_unchanged => true),
				fields  => { id => 'id', v => 'v' } } ] },
	{   name   => 'filtered',
		create => 'CREATE TABLE filtered (id int PRIMARY KEY, v int, w text)',
		key     => { id => 'key' },
		columns => { v  => 'int', w => 'text' },
		masters => [
			{   cqrs_id => 'filtered',
				options => q(sync_when => 'v > 0', leave => 'delete'),
				where   => 'v > 0' } ] },
	{   name    => 'parent',
		create  => 'CREATE TABLE parent (id int PRIMARY KEY, v int)',
		key     => { id => 'key' },
		columns => { v  => 'int' },
		masters => [ { cqrs_id => 'parent' } ] },
	{   name   => 'child',
		create => q{CREATE TABLE child (id int PRIMARY KEY,
			parent_id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
			other_id int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE
				DEFERRABLE INITIALLY DEFERRED)},
		key     => { id        => 'key' },
		columns => { parent_id => 'parent', other_id => 'parent' },
		masters => [
			{   cqrs_id => 'child',
				options => q(tracked_fields => '{parent_id}'),
				tracked => ['parent_id'] } ] },
	{   name   => 'swapped',
		create => q{CREATE TABLE swapped
			(id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int)},
		key        => { id => 'key' },
		columns    => { v  => 'int' },
		masters    => [ { cqrs_id => 'swapped' } ],
		deferrable => 1 },
	{   name   => 'triggered',
		create =>
		  q{CREATE TABLE triggered (id int PRIMARY KEY, v int, w text);
			CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF NEW.v % 5 = 0 THEN
					RETURN NULL;
				ELSIF NEW.v % 7 = 0 THEN
					NEW.w := TG_NAME;
				ELSIF NEW.v % 11 = 0 THEN
					NEW.id := 1;
				END IF;
				RETURN NEW;
			END$$;
			CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				RETURN CASE WHEN OLD.v % 5 <> 1 THEN OLD END;
			END$$;
			CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				UPDATE triggered SET w = 'later' WHERE id = NEW.v AND w NOT IN ('later', 'zzz_late');
				RETURN NULL;
			END$$;
			CREATE TRIGGER aa_early BEFORE INSERT OR UPDATE ON triggered
				FOR EACH ROW EXECUTE FUNCTION change();
			CREATE TRIGGER zzz_late BEFORE UPDATE ON triggered
				FOR EACH ROW EXECUTE FUNCTION change();
			CREATE TRIGGER refuse BEFORE DELETE ON triggered
				FOR EACH ROW EXECUTE FUNCTION refuse();
			CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON triggered
				DEFERRABLE INITIALLY DEFERRED
				FOR EACH ROW EXECUTE FUNCTION later()},
		key     => { id => 'key' },
		columns => { v  => 'int', w => 'text' },
		masters => [
			{   cqrs_id => 'triggered',
				options => q(tracked_fields => '{v,w}'),
				tracked => [ 'v', 'w' ] } ] });

# What a replica does, in SQL.  replica.line takes what has arrived,
# replica.apply() applies what is new and returns what is wrong with it, and
# replica.difference() compares the replicas with the masters.
#
# A SYNC may bring the state of a SAVE that comes after it.  So SAVEs are checked
# against what the SAVEs before them said, which is kept beside the state.
my $REPLICA = <<'END_OF_SQL';
CREATE SCHEMA replica;
CREATE TABLE replica.line (n bigserial, line text);
CREATE TABLE replica.message (n bigint, message_id text PRIMARY KEY, body jsonb);
CREATE TABLE replica.state (cqrs_id text, pk jsonb, data jsonb,
	saved jsonb, PRIMARY KEY (cqrs_id, pk));
CREATE TABLE replica.master (cqrs_id text, tracked text[], keys jsonb, filtered boolean);

CREATE FUNCTION replica.previous(m replica.master, old jsonb, new jsonb)
RETURNS jsonb LANGUAGE sql AS $$
	SELECT CASE WHEN m.tracked IS NOT NULL THEN coalesce(
		(SELECT jsonb_object_agg(CASE WHEN old IS NULL THEN c ELSE k END,
				old -> k)
			FROM unnest(m.tracked) c, LATERAL (SELECT coalesce(m.keys ->> c, c)) AS u(k)
			WHERE coalesce(old -> k, 'null') <> new -> k),
		'{}') END
$$;

CREATE FUNCTION replica.apply() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	message replica.message;
	m replica.master;
	b jsonb;
	row replica.state;
	old jsonb;
	wrong text;
BEGIN
	FOR message IN
		WITH new AS (DELETE FROM replica.line RETURNING *)
		INSERT INTO replica.message
		SELECT n, line::json -> 'properties' ->> 'message_id',
			(line::json ->> 'body')::jsonb
		FROM new ORDER BY n
		ON CONFLICT DO NOTHING
		RETURNING *
	LOOP
		b := message.body;
		SELECT * INTO STRICT m FROM replica.master WHERE cqrs_id = b ->> 'cqrs_id';
		SELECT * INTO row FROM replica.state r
			WHERE r.cqrs_id = m.cqrs_id AND pk = b -> 'instance_pk';
		old := row.saved;
		wrong := CASE
			-- A row that came to fulfil sync_when and went is deleted, too.
			WHEN b ->> 'signal_type' = 'DELETE' AND old IS NULL AND NOT m.filtered
				THEN 'DELETE of an unknown row'
			WHEN (b -> 'instance_data' ->> 'cqrs_revision')::int <
				(old ->> 'cqrs_revision')::int +
				CASE b ->> 'signal_type' WHEN 'SYNC' THEN 0 ELSE 1 END
				THEN 'revision is not above ' || (old ->> 'cqrs_revision')
			WHEN b ->> 'signal_type' = 'SAVE' AND nullif(b -> 'previous_data', 'null')
				IS DISTINCT FROM replica.previous(m, old, b -> 'instance_data')
				THEN 'previous_data should be ' ||
					coalesce(replica.previous(m, old, b -> 'instance_data')::text, 'null')
			END;
		IF wrong IS NOT NULL THEN
			RETURN NEXT format('message %s: %s: %s; before it: %s', message.n, wrong, b, old);
		END IF;
		IF b ->> 'signal_type' = 'DELETE' THEN
			DELETE FROM replica.state r
				WHERE r.cqrs_id = m.cqrs_id AND pk = b -> 'instance_pk';
		ELSE
			INSERT INTO replica.state AS r
				VALUES (m.cqrs_id, b -> 'instance_pk', b -> 'instance_data',
					CASE b ->> 'signal_type' WHEN 'SAVE' THEN b -> 'instance_data' END)
				ON CONFLICT (cqrs_id, pk) DO UPDATE SET
					saved = coalesce(excluded.saved, r.saved),
					data = CASE WHEN b ->> 'signal_type' = 'SYNC' OR
						(b -> 'instance_data' ->> 'cqrs_revision')::int >
						(r.data ->> 'cqrs_revision')::int
						THEN excluded.data ELSE r.data END;
		END IF;
	END LOOP;
END
$$;
END_OF_SQL

my $DIFFERENCE = <<'END_OF_SQL';
CREATE FUNCTION replica.difference() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s: master %s, replica %s', cqrs_id, pk, m.data, r.data)
	FROM replica.rows m FULL JOIN replica.state r USING (cqrs_id, pk)
		JOIN cqrs.master c USING (cqrs_id)
	-- A revision that is raised without any other change is passed over.
	WHERE CASE WHEN c.skip_unchanged
			THEN m.data - '{cqrs_revision,cqrs_updated}'::text[] IS DISTINCT FROM
				r.data - '{cqrs_revision,cqrs_updated}'::text[]
			ELSE m.data IS DISTINCT FROM r.data END
	ORDER BY 1
$$;
END_OF_SQL

# The view replica.rows: what replicas of a master should have.
sub rows_sql
{
	my @selects;

	foreach my $table (@tables)
	{
		my @key =
		  @{ $table->{key_order} // [ sort keys %{ $table->{key} } ] };
		my $pk =
		  @key == 1
		  ? "to_jsonb($key[0])"
		  : 'jsonb_build_array(' . join(', ', @key) . ')';
		my %all =
		  map { $_ => $_ } keys %{ $table->{key} },
		  keys %{ $table->{columns} };
		foreach my $master (@{ $table->{masters} })
		{
			my %fields = %{ $master->{fields} // \%all };
			my $data   = join ', ',
			  map { "'$fields{$_}', $_" } sort keys %fields;
			push @selects, <<"END";
SELECT '$master->{cqrs_id}' AS cqrs_id, $pk AS pk, jsonb_build_object($data,
	'cqrs_revision', cqrs_revision,
	'cqrs_updated', replace(to_char(cqrs_updated AT TIME ZONE 'UTC',
		'YYYY-MM-DD HH24:MI:SS.US'), '.000000', '') || '+00:00') AS data
FROM $table->{name} WHERE @{[ $master->{where} // 'true' ]}
END
		}
	}
	return
	  'CREATE VIEW replica.rows AS ' . join('UNION ALL ', @selects) . ';';
}

sub masters_sql
{
	my @inserts;

	foreach my $master (map { @{ $_->{masters} } } @tables)
	{
		my $tracked =
		  $master->{tracked}
		  ? "'{" . join(',', @{ $master->{tracked} }) . "}'"
		  : 'NULL';
		my %fields = %{ $master->{fields} // {} };
		my $keys = join ',', map { qq("$_":"$fields{$_}") } sort keys %fields;
		my $filtered = defined $master->{where} ? 'true' : 'false';
		push @inserts,
		  "INSERT INTO replica.master VALUES ('$master->{cqrs_id}', $tracked, '{$keys}', $filtered);";
	}
	return join "\n", @inserts;
}

my $broker = RabbitMQ->new('random');
$broker->start;
my $node = new_master('random', $broker, conf => <<'END');
deadlock_timeout = '50ms'
max_prepared_transactions = 50
log_statement = all
log_line_prefix = '%m [%p] %x '
END
$node->safe_psql(
	'postgres',
	join("\n",
		setup_sql(\@tables), $REPLICA, rows_sql(),
		$DIFFERENCE,         masters_sql()));
my $consumer = start_consumer($broker, 'replica',
	map { $_->{cqrs_id} } map { @{ $_->{masters} } } @tables);

# Runs a script in each session, at the same time.
sub run_round
{
	my ($round) = @_;
	my @sessions;

	foreach my $n (1 .. $SESSIONS)
	{
		my $file   = "$PostgreSQL::Test::Utils::tmp_check/session_$n.sql";
		my $script = random_script(
			\@tables,
			$SEED + 100 * $round + $n,
			name         => "r${round}_$n",
			transactions => $TRANSACTIONS);

		open my $fh, '>', $file or BAIL_OUT("could not create $file: $!");
		print $fh $script;
		close $fh;
		push @sessions,
		  IPC::Run::start(
			[   'psql', '-X', '-q', '-o', '/dev/null', '-d',
				$node->connstr('postgres'),
				'-f', $file ],
			'<',
			'/dev/null',
			'2>',
			"$PostgreSQL::Test::Utils::log_path/session_$n.log");
	}
	foreach my $session (@sessions)
	{
		ok($session->finish, "round $round: a session ran to its end");
	}
	foreach my $gid (split /\n/,
		$node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'))
	{
		my $what = $gid =~ /keep$/ ? 'COMMIT' : 'ROLLBACK';
		$node->safe_psql('postgres', "$what PREPARED '$gid'");
	}
	return;
}

# The lines that the consumer has written, without decoding them.
my $offset = 0;
my $lines  = 0;

sub take_lines
{
	open my $fh, '<:raw', $consumer->{file}
	  or BAIL_OUT("could not open $consumer->{file}: $!");
	seek $fh, $offset, 0;
	my $text = do { local $/; <$fh> }
	  // '';
	close $fh;
	$text =~ s/[^\n]*\z//;
	$offset += length $text;
	$lines  += $text =~ tr/\n//;
	return $text;
}

# Waits for the messages of the round and has them applied.
sub check_round
{
	my ($round) = @_;
	my $new = '';

	wait_published($node);
	my $confirmed =
	  $node->safe_psql('postgres', 'SELECT confirmed FROM cqrs.stats');
	RabbitMQ->poll_until(
		sub { $new .= take_lines(); return $lines >= $confirmed },
		$PostgreSQL::Test::Utils::timeout_default)
	  or BAIL_OUT("$lines messages instead of $confirmed");

	my $file = "$PostgreSQL::Test::Utils::log_path/messages.jsonl";
	open my $fh, '>:raw', $file or BAIL_OUT("could not create $file: $!");
	print $fh $new;
	close $fh;

	# A format without escapes: no such character is in JSON.
	$node->safe_psql('postgres',
		"COPY replica.line (line) FROM '$file' (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
	);
	my $failed = 0;
	foreach my $check ('apply', 'difference')
	{
		is($node->safe_psql('postgres', "SELECT replica.$check()"),
			'', "round $round: $check")
		  or $failed = 1;
	}
	return !$failed;
}

my $deadline = time + $SECONDS;
my $round    = 0;
while (time < $deadline)
{
	$round++;
	run_round($round);
	next if check_round($round);
	diag("repeat with CQRS_SEED=$SEED");
	last;
}

my %count = map { split /\|/ } split /\n/,
  $node->safe_psql('postgres',
	q{SELECT body ->> 'signal_type', count(*) FROM replica.message GROUP BY 1}
  );
note("rounds: $round; messages: "
	  . join(', ', map { "$count{$_} $_" } sort keys %count));
cmp_ok($count{$_} // 0, '>', 100, "there were $_ messages")
  foreach qw(SAVE DELETE SYNC);
is( $node->safe_psql(
		'postgres', q{
	SELECT cqrs_id FROM replica.master EXCEPT
	SELECT body ->> 'cqrs_id' FROM replica.message}),
	'',
	'each master had some');

stop_consumer($consumer);
$node->stop;
$broker->stop;
done_testing();
