# Changes that another extension makes after deferred triggers have fired, in a
# callback before the commit: they are sent, or the transaction fails (I1).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $MODULE = $ENV{CQRS_LATE_CHANGE};

my $node = new_master('late');
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION late_change(text) RETURNS void AS '$MODULE' LANGUAGE C;
	CREATE TABLE plain (id int PRIMARY KEY, v text);
	CREATE TABLE custom (id int PRIMARY KEY, v text);
	CREATE FUNCTION custom_json(custom) RETURNS jsonb LANGUAGE sql STABLE
		AS \$\$SELECT jsonb_build_object('id', \$1.id)\$\$;
	SELECT cqrs_register('plain');
	SELECT cqrs_register('custom', serializer => 'custom_json')});

sub sent
{
	return $node->safe_psql(
		'postgres', q{
		SELECT string_agg(concat_ws(' ', signal_type, cqrs_id,
			body::json #>> '{instance_data,id}',
			body::json #>> '{instance_data,v}'), ', ' ORDER BY id)
		FROM cqrs.outbox});
}

# Commits "first" with "late" after its deferred triggers; the error, if any.
sub commit_late
{
	my ($first, $late) = @_;
	my ($status, $out, $error) = $node->psql('postgres',
		"BEGIN; $first; SELECT late_change(\$\$$late\$\$); COMMIT");
	return $error;
}

is(commit_late('SELECT', q{INSERT INTO plain VALUES (1, 'late')}),
	'', 'a late change of a table whose masters have no functions');
is( commit_late(
		q{INSERT INTO plain VALUES (2, 'early')},
		q{UPDATE plain SET v = 'late' WHERE id = 2}),
	'',
	'one of a row that was changed before');
is( sent(),
	'SAVE plain 1 late, SAVE plain 2 early, SAVE plain 2 late',
	'are sent as changes of their own');
like(
	commit_late(
		q{INSERT INTO plain VALUES (3, 'lost')},
		q{INSERT INTO custom VALUES (3, 'late')}),
	qr/ERROR:  cannot make messages of table "custom" at this point of the commit/,
	'where there are functions, the transaction fails');
is($node->safe_psql('postgres', 'SELECT count(*) FROM plain WHERE id = 3'),
	0, 'as a whole');

# The callback comes after that of cqrs.
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = '$MODULE, cqrs'");
$node->restart;
like(
	commit_late(
		q{INSERT INTO plain VALUES (4, 'lost')},
		q{UPDATE plain SET v = 'late' WHERE id = 4}),
	qr/ERROR:  cannot change a table with a master at this point of the commit/,
	'later still no changes are possible');
is( $node->safe_psql(
		'postgres',
		q{INSERT INTO plain VALUES (5, 'sane'); SELECT count(*) FROM plain}),
	3,
	'the session and the server go on');
like(sent(), qr/SAVE plain 2 late, SAVE plain 5 sane$/, 'and send');

$node->stop;
done_testing();
