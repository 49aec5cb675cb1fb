# A row of less than 1 GB whose JSON is larger: the error says which row it is,
# and nothing is left of it.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_master('large');
$node->safe_psql(
	'postgres',
	q{CREATE TABLE large (id int PRIMARY KEY, a numeric[], b varbit);
	SELECT cqrs_register('large')});

# A number of few bytes and many digits, many times; a value whose text alone is
# too large.
my $bits  = join ' || ', ('0::bit(80000000)') x 14;
my %cases = (
	'54000' => q{array_fill(1e131071::numeric, '{8200}'), NULL},
	'XX000' => "NULL, $bits");
foreach my $sqlstate (sort keys %cases)
{
	my $errors;
	$node->psql(
		'postgres',
		"\\set VERBOSITY verbose\nINSERT INTO large VALUES (7, $cases{$sqlstate})",
		stderr => \$errors);
	like($errors, qr/ERROR:  $sqlstate: /,           "error $sqlstate");
	like($errors, qr/SAVE of master "large", key 7/, 'of which row');
}
$node->safe_psql('postgres', q{INSERT INTO large VALUES (8)});
is( $node->safe_psql(
		'postgres',
		q{SELECT string_agg(instance_pk::text, ' ') FROM cqrs.outbox}),
	'8',
	'nothing is left of them');

$node->stop;
done_testing();
